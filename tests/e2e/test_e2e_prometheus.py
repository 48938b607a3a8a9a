"""Debian's Prometheus on a real daemon, by the configuration and the rules that are shipped: it
scrapes both pages with a token, and an alert comes and goes."""

import hashlib
import json
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.harness import REPOSITORY, Daemon, free_port

MakeDaemon = Callable[..., Daemon]
TOKENS = {role: f"a-token-of-the-{role}-of-this-test" for role in ("viewer", "client")}
SCRIPT = """\
from cumulus_client import CumulusClient


def answer():
    return 42


with CumulusClient("{URL}", "a-token-of-the-client-of-this-test") as client:
    print(client.run(answer, gpu_memory=0.5, duration=30))
"""


def tokens() -> str:
    entries = [
        {
            "name": role,
            "owner": role,
            "role": role,
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        }
        for role, token in TOKENS.items()
    ]
    return f"tokens: {json.dumps(entries)}\n"


class Prometheus:
    """What it answers."""

    def __init__(self, port: int, log: Path) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._log = log

    def ask(self, path: str, **query: str) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float:
        """Of the one series; -1 while there is none."""
        found = self.ask("query", query=expression)["result"]
        assert len(found) <= 1
        return float(found[0]["value"][1]) if found else -1.0

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def targets(self) -> dict[str, str]:
        """Job -> how it is."""
        active = self.ask("targets")["activeTargets"]
        return {each["labels"]["job"]: each["health"] for each in active}

    def until(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + 90
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass  # it starts
            assert time.monotonic() < ends, self._log.read_text()[-4000:]
            time.sleep(0.1)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Runs on what etc/prometheus has; only the target, its token and the pace are this test's."""
    program = shutil.which("prometheus")
    assert program is not None, "script/setup installs it"
    folder.mkdir()
    source = REPOSITORY / "etc/prometheus"
    shutil.copy(source / "alerts.yml", folder)
    token = folder / "cumulus.token"
    token.write_text(TOKENS["viewer"] + "\n")
    config = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    for job in config["scrape_configs"]:
        job["scheme"] = "http"
        job["authorization"]["credentials_file"] = str(token)
        job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port, log = free_port(), folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    try:
        yield Prometheus(port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def test_prometheus_scrapes_the_daemon_and_an_alert_fires(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    daemon = make_daemon(extra=tokens()).start()
    for path in ("/metrics", "/metrics/workers"):
        assert daemon.get(path)[0] == 401
        assert daemon.get(path, TOKENS["client"])[0] == 403
    good = daemon.config.read_text()
    with prometheus(tmp_path / "prometheus", f"127.0.0.1:{daemon.port}") as scraper:
        scraper.until(lambda: scraper.targets() == {"cumulus": "up", "cumulus-workers": "up"})
        scraper.until(lambda: scraper.value('cumulus_workers{state="ready"}') == 1)
        assert daemon.run(SCRIPT).stdout.strip().endswith("42")
        wanted = {
            'cumulus_jobs_ended_total{state="completed"}': 1,
            'cumulus_job_phase_seconds_count{phase="queued"}': 1,
            'cumulus_job_phase_seconds_count{phase="launching"}': 1,
            'cumulus_job_phase_seconds_count{phase="ending"}': 1,
            "cumulus_job_run_seconds_count": 1,
        }
        scraper.until(lambda: {each: scraper.value(each) for each in wanted} == wanted)
        for expression in (
            "cumulus_journal_received_bytes_total",
            "cumulus_journal_sent_bytes_total",
            "cumulus_store_commit_seconds_count",
            "cumulus_event_loop_lag_seconds_count",
        ):
            assert scraper.value(expression) > 0, expression
        assert scraper.firing() == set()

        daemon.config.write_text(good + "no_such_key: 1\n")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        scraper.until(lambda: scraper.firing() == {"CumulusReloadFailed"})
        daemon.config.write_text(good)
        daemon.process.send_signal(signal.SIGHUP)
        scraper.until(lambda: scraper.firing() == set())
