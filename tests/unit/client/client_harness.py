"""The relay's process for the tests of the client, and users' scripts run against it."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
TIMEOUT_S = 60

HEAD = """\
import json, sys, time, threading
from cumulus_client import *
from cumulus_client.packaging import Package
def f(): pass
client = CumulusClient({url!r})
def submit(name, client=client):
    return client.submit(f, name=name)
def follow(name, **options):
    from cumulus_client.display import Display
    from cumulus_client._options import make_spec
    package = Package(name=name, data=b"x" * 450)
    view, got = client._follow(package, make_spec(gpu_memory=1, duration=1), None, Display())
    return client._call(client._core.value(view, got))
def counts():
    return client.get_server_info()["counts"]
"""


class Relay:
    """The relay's process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("client_relay.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait(10)
            self.process.stdout.close()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error"}


def run(path: Path, text: str = "") -> "subprocess.CompletedProcess[str]":
    if text:
        path.write_text(text)
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(),
    )
