"""`twistd cumulusd` and `cumulusd check-config`, as an operator meets them: in processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

#: twistd with a small service in place of the daemon's parts, which have tests of their own.
TWISTD = """
import sys, types
from twisted.application import internet, service
tap = types.ModuleType("cumulusd.tap")
def make_service(config, *, reread, log_level):
    from twisted.internet import endpoints, protocol, reactor
    from twisted.logger import Logger
    log = Logger(namespace="cumulusd.trial")
    class Once(service.Service):
        def privilegedStartService(self):
            if "LISTEN" in config.jobs.environment:
                reactor.listenTCP(int(config.jobs.environment["LISTEN"]), protocol.Factory(),
                                  interface="127.0.0.1")
        def startService(self):
            super().startService()
            if "REFUSE" in config.jobs.environment:
                from cumulusd.errors import Unavailable
                raise Unavailable("the store is damaged", hint="restore it")
            log.info("hello {job_id}", job_id="job_1", listen=config.listen[0])
            print("a stray print")
            try:
                raise ValueError("boom")
            except ValueError:
                log.failure("went wrong", job_id="job_1")
            reactor.callLater(0.05, reactor.stop)
        def stopService(self):
            log.info("stopped")
            return super().stopService()
    return Once()
tap.make_service = make_service
sys.modules["cumulusd.tap"] = tap
import cumulusd; cumulusd.tap = tap
sys.argv[0] = "twistd"
from twisted.scripts.twistd import run
run()
"""


def twistd(
    folder: Path, text: str, *options: str, nodaemon: bool = True
) -> "subprocess.CompletedProcess[str]":
    (folder / "c.yaml").write_text(text)
    command = [sys.executable, "-c", TWISTD, *(["-n"] if nodaemon else [])]
    return subprocess.run(
        [*command, "--pidfile", "twistd.pid", *options, "cumulusd", "--config", "c.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_line_of_twistd_is_json_from_the_first_on(tmp_path: Path) -> None:
    done = twistd(tmp_path, "log: {level: info}\n")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "starting up" in lines[0]["message"]
    hello = next(line for line in lines if line["message"] == "hello job_1")
    assert hello["job_id"] == "job_1" and hello["namespace"] == "cumulusd.trial"
    broken = next(line for line in lines if "went wrong" in line["message"])
    assert "ValueError: boom" in broken["traceback"]
    assert any(line["message"] == "a stray print" for line in lines)
    messages = [line["message"] for line in lines]
    assert messages.index("stopped") < messages.index("Server Shut Down.")
    assert not (tmp_path / "twistd.pid").exists()


def test_text_when_asked_for(tmp_path: Path) -> None:
    done = twistd(tmp_path, "log: {format: text, level: warn}\n")
    assert done.returncode == 0, done.stderr
    assert "went wrong: ValueError: boom job_id=job_1" in done.stdout
    assert "hello" not in done.stdout


def test_a_logfile_named_to_twistd_is_used(tmp_path: Path) -> None:
    done = twistd(tmp_path, "{}\n", "--logfile", "the.log")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = (tmp_path / "the.log").read_text().splitlines()
    assert any(json.loads(line).get("job_id") == "job_1" for line in lines)


def test_faults_of_the_configuration_end_it_with_78(tmp_path: Path) -> None:
    done = twistd(tmp_path, "listne: x\njobs: {history_hours: 1}\n")
    assert done.returncode == 78
    assert "c.yaml:1: listne: unknown key; did you mean 'listen'?" in done.stderr
    assert "c.yaml:2: jobs.history_hours:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_ends_it_with_a_clear_message(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = twistd(tmp_path, f"jobs: {{environment: {{LISTEN: '{port}'}}}}\n")
    assert done.returncode == 69
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "twistd.pid").exists()


def test_a_start_that_is_refused_says_why(tmp_path: Path) -> None:
    done = twistd(tmp_path, "jobs: {environment: {REFUSE: '1'}}\n")
    assert done.returncode == 69
    assert done.stderr.strip() == "cumulusd: can't start: the store is damaged (restore it)"


def test_the_configuration_must_be_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twisted", "cumulusd"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "--config FILE" in done.stdout + done.stderr


def test_the_plugin_imports_nothing_of_ours_and_no_reactor() -> None:
    code = (
        "import sys, cumulusd.daemon\n"
        "assert 'twisted.internet.reactor' not in sys.modules, 'the options bring a reactor'\n"
        "for name in [n for n in sys.modules if n.startswith('cumulusd')]: del sys.modules[name]\n"
        "import runpy; runpy.run_path('twisted/plugins/cumulusd_plugin.py')\n"
        "assert not any(n.startswith('cumulusd') for n in sys.modules)\n"
        "assert 'twisted.internet.reactor' not in sys.modules, 'the plugin brings a reactor'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "code"), [("log: {level: info}\n", 0), ("log: {level: loud}\nx: 1\n", 78)]
)
def test_check_config(tmp_path: Path, text: str, code: int) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "cumulusd.cli", "check-config", str(tmp_path / "c.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code
    if code:
        assert done.stdout == "" and len(done.stderr.splitlines()) == 2
    else:
        assert ": ok" in done.stdout and done.stderr == ""
