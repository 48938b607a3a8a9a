"""The command line: what it takes, what it refuses, what it exits with."""

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import cli
from cumulus_client._options import make_spec
from cumulus_client.client import CumulusClient
from cumulus_client.decorators import RemoteFunction
from cumulus_client.packaging import CodePackager, package_script
from tests.unit.client.client_harness import Relay


def test_run_takes_all_of_its_options() -> None:
    line = (
        "run --gpu-memory 0.25 --duration 1h30m -r a.txt -r b.txt --requirement six --name n "
        "--env A=1 --env B=x=y --queue-timeout 0 --server http://h:1 --api-key k -q --json "
        "s.py -- --flag -q"
    )
    options = cli.build_parser().parse_args(line.split())
    assert (options.gpu_memory, options.duration, options.queue_timeout) == (0.25, 5400, 0)
    assert options.requirements_files == [Path("a.txt"), Path("b.txt")]
    assert cli.parse_environment(options.env) == {"A": "1", "B": "x=y"}
    assert options.script == Path("s.py")
    assert options.argv[-2:] == ["--flag", "-q"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5", 1.5), ("15m", 900), ("2h", 7200), ("1h30m5s", 5405)],
)
def test_durations(text: str, seconds: float) -> None:
    assert cli.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1x", "-5", "h", "5m1h", "nan"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no duration"):
        cli.parse_duration(text)


def test_requirements_from_a_pipe() -> None:
    """As the shell's `-r <(pip freeze)` hands them over."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"six\n")
    finally:
        os.close(writing)
    try:
        assert cli.read_requirements(Path(f"/dev/fd/{reading}")) == ["six"]
    finally:
        os.close(reading)


def test_requirements_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/base.txt").write_text("torch==2 \\\n  --hash=sha256:0\n")
    main = tmp_path / "r.txt"
    main.write_text("# a comment\nsix  # why\n\n-r sub/base.txt\npkg @ https://h/x#egg=pkg\n")
    assert cli.read_requirements(main) == [
        "six",
        "torch==2    --hash=sha256:0",
        "pkg @ https://h/x#egg=pkg",
    ]
    main.write_text("six\n--index-url https://h\n")
    with pytest.raises(cli.UsageError, match=r"r.txt, line 2: the option '--index-url'"):
        cli.read_requirements(main)
    main.write_text("-r r.txt\n")
    with pytest.raises(cli.UsageError, match="includes itself"):
        cli.read_requirements(main)
    with pytest.raises(cli.UsageError, match="can't be read"):
        cli.read_requirements(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("status", "end", "code"),
    [
        ("completed", {}, 0),
        ("failed", {"reason": "exit_code", "exit_code": 3}, 3),
        ("failed", {"reason": "exit_code", "exit_code": 256}, 1),
        ("failed", {"reason": "user_error"}, 1),
        ("failed", {"reason": "signalled", "signal": 11}, 139),
        ("failed", {"reason": "worker_lost"}, 69),
        ("failed", {"reason": "queue_timeout"}, 69),
        ("timeout", {"reason": "duration_exceeded"}, 124),
        ("cancelled", {"reason": "cancelled_by_user"}, 130),
    ],
)
def test_exit_codes(status: str, end: dict[str, Any], code: int) -> None:
    assert cli.exit_code({"status": status, "end": end}) == code


def run_cumulus(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cumulus_client.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_wrong_usage_is_2_and_no_daemon_69(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print(1)\n")
    for arguments, words in [
        (["run", "none.py"], "there is no script 'none.py'"),
        (["run", "--env", "x", str(script)], "NAME=VALUE"),
        (["run", "--server", "nowhere", str(script)], "http://host"),
        (["run", "--gpu-memory", "lots", str(script)], "no share"),
        (["run", str(tmp_path)], "is a folder: name the script in it"),
        (["run", "--server", "http://h:99999", str(script)], "the port of server_url"),
        (["run"], "usage: cumulus run [options] script.py [-- args ...]"),
        (["run"], "required: script.py\n"),
        ([], "VERB"),
    ]:
        done = run_cumulus(*arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    done = run_cumulus("info", "--server", "http://127.0.0.1:1")
    assert done.returncode == 69
    assert "can't connect to http://127.0.0.1:1: Connection refused" in done.stderr


def test_syntax_errors_are_shown_where_they_are(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("x = 1\nif x = 2:\n    pass\n")
    done = run_cumulus("run", str(script))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert f'  File "{script}", line 2' in lines
    assert lines[lines.index("    if x = 2:") + 1].strip(" ^") == ""
    assert any(line.startswith("SyntaxError: invalid syntax") for line in lines)
    script.write_text("import beside\n")
    (tmp_path / "beside.py").write_text("def f(:\n")
    done = run_cumulus("run", str(script))
    assert "the local module 'beside' is no Python" in done.stderr and "line 1" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_ending_signals_cancel_the_job_and_say_so(
    relay: Relay, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    script = tmp_path / "pending"
    script.write_text("pass\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "cumulus_client.cli", "run", "--server", relay.url, str(script)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "line 1998" in line:
                break
        process.send_signal(number)
        rest = process.stderr.read()
    killer.cancel()
    killer.join()
    by = "" if number is signal.SIGINT else f"{number.name}: "
    assert f"[cumulus] {by}cancelling job job-1" in rest
    assert "[cumulus] cancelled" in rest and "Traceback" not in rest
    assert process.returncode == code


def test_scripts_take_their_modules_along(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import other\n")
    (tmp_path / "other.py").write_text("X = 1\n")
    (tmp_path / "unused.py").write_text("X = 1\n")
    script = tmp_path / "s.py"
    script.write_text("import json, helper\n")
    package = package_script(script, ["-a", "b"])
    import io
    import json
    import zipfile

    with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("cumulus_package.json"))
    assert names == {"cumulus_package.json", "s.py", "helper.py", "other.py"}
    assert manifest == {"version": 1, "kind": "script", "path": "s.py", "argv": ["-a", "b"]}
    assert package.data == package_script(script, ["-a", "b"]).data


def test_types_are_checked_here_and_values_by_the_daemon() -> None:
    assert make_spec(gpu_memory=7, duration=-1)["gpu_memory"] == 7.0
    wrong: list[dict[str, Any]] = [
        {"gpu_memory": "half"},
        {"gpu_memory": True},
        {"duration": None},
        {"requirements": "six"},
        {"requirements": [1]},
        {"env": {"A": 1}},
        {"env": ["A=1"]},
        {"name": 3},
        {"priority": 1.5},
        {"retries": True},
    ]
    for options in wrong:
        with pytest.raises(TypeError, match=next(iter(options))):
            make_spec(**{"gpu_memory": 1, "duration": 1, **options})


def test_remote_functions_look_like_their_function() -> None:
    def train(x: int) -> int:
        """Trains."""
        return x

    with CumulusClient("http://127.0.0.1:1/") as client:
        assert client.server_url == "http://127.0.0.1:1"
        made = RemoteFunction(client, train, requirements=["six"])
    assert (getattr(made, "__name__", None), made.__doc__, made.func(3)) == ("train", "Trains.", 3)
    with pytest.raises(TypeError, match="a function is needed"):
        RemoteFunction(client, 3)  # type: ignore[arg-type]


def test_code_packager_takes_extra_files() -> None:
    import io
    import textwrap
    import zipfile

    packager = CodePackager()
    packager.add_source_file("data/x.txt", "hello")
    with pytest.raises(RuntimeError, match="outside"):
        packager.add_source_file("../x", "")
    data = packager.package_function(textwrap.dedent, ["six"], "j1", args=["  a"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("data/x.txt") == b"hello"
        assert "call.json" in archive.namelist()
