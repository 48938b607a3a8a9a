"""What script/bench compares is the same on both sides, and a bare service is what it says."""

import json
import socketserver
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bench import start
from bench.parts import bare
from bench.parts.bare import BareServices
from bench.parts.errors import BenchError
from bench.parts.output import Sink, Ticks, file_of, say
from engines.docker_api import DockerApi


def run(text: str, folder: Path) -> bytes:
    """A file by `python3 -u`, as a bare service runs it."""
    path = folder / "function.py"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, "-u", path], check=True, capture_output=True, timeout=60
    ).stdout


def test_a_file_prints_what_the_job_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = say(250_000, 100)
    printed = capsys.readouterr().out.encode()
    assert run(file_of("say(250_000, 100)"), tmp_path) == printed
    assert told == {"crc": zlib.crc32(printed), "bytes": len(printed)}
    assert len(set(printed.splitlines())) == 2500
    assert {len(line) for line in printed.splitlines()} == {99}


def test_the_function_that_begins_is_the_same_in_a_file(tmp_path: Path) -> None:
    line, ended = run(start.file_source(), tmp_path).splitlines()
    assert line == start.WORD.encode()
    assert float(ended) > 1.6e9


def test_output_that_is_not_exact_is_no_measurement() -> None:
    sink = Sink()
    sink.write("a line\n")
    wanted = {"bytes": 7, "crc": zlib.crc32(b"a line\n")}
    assert sink.rate_mb_s(wanted) > 0
    for wrong in ({"bytes": 8}, {"crc": 1}):
        with pytest.raises(BenchError):
            sink.rate_mb_s({**wanted, **wrong})


def test_the_age_of_a_line_is_known_when_all_of_it_is_there() -> None:
    sink = Ticks()
    sink.write("1000000")
    assert sink.ages_ms == []
    sink.write("000000\n2000000000000\n")
    assert len(sink.ages_ms) == 2
    assert sink.ages_ms[0] - sink.ages_ms[1] == pytest.approx(1e6, rel=1e-3)


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "lock"
    with open(path, "w") as file:
        inode = str(path.stat().st_ino)
        assert not start.is_locked(inode)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert start.is_locked(inode)
    assert not start.is_locked(inode)


# -- a bare service, at an engine that says what it is told


class _Engine(socketserver.ThreadingUnixStreamServer):
    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.specs: list[dict[str, Any]] = []
        self.states = iter(["running", "complete"])
        self.gone = threading.Event()
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Engine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        spec = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(("POST", self.path))
        self.server.specs.append(spec)
        self._answer({"ID": self.path.split("/")[1]})

    def do_DELETE(self) -> None:
        self.server.asked.append(("DELETE", self.path))
        self._answer({})

    def do_GET(self) -> None:
        self.server.asked.append(("GET", self.path))
        if self.path.startswith("/tasks"):
            self._answer([{"Status": {"State": next(self.server.states)}}])
            return
        if self.path.startswith(("/services?", "/configs?")):
            self._answer([{"ID": f"left-{number}"} for number in range(2)])
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for data in (b"first\n", b"second\n"):
            frame = struct.pack(">BxxxI", 1, len(data)) + data
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
            self.wfile.flush()
        # As a followed log, it has no end until the reader goes.
        self.connection.settimeout(30.0)
        assert self.connection.recv(1) == b""
        self.close_connection = True
        self.server.gone.set()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[_Engine]:
    server = _Engine(tmp_path / "engine.sock")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bare_service_is_made_followed_and_removed(engine: _Engine) -> None:
    api = DockerApi(Path(str(engine.server_address)))
    with BareServices(api, "sha256:ab", "print(1)\n") as services:
        service = services.create()
        said = b""
        for data in services.log(service, 10.0):
            said += data
            if said.endswith(b"second\n"):
                break
        assert engine.gone.wait(10.0), "the reader has hung up"
        assert services.wait_over(service, 10.0) > 0
        services.remove(service)
    assert said == b"first\nsecond\n"
    config, made = engine.specs
    assert config["Data"] == "cHJpbnQoMSkK"
    assert "cumulus-bench" in config["Labels"] and "cumulus-bench" in made["Labels"]
    task = made["TaskTemplate"]
    assert task["ContainerSpec"]["Image"] == "sha256:ab"
    assert task["ContainerSpec"]["Command"] == ["python3", "-u", "/function.py"]
    assert task["RestartPolicy"] == {"Condition": "none"}
    assert made["Mode"] == {"Replicated": {"Replicas": 1}}
    deleted = [path for method, path in engine.asked if method == "DELETE"]
    assert deleted == ["/services/services", "/configs/configs"]


def test_what_a_killed_measurement_left_is_removed(engine: _Engine) -> None:
    bare.remove_all(DockerApi(Path(str(engine.server_address))))
    asked = [unquote(path) for method, path in engine.asked if method == "GET"]
    assert all('{"label": ["cumulus-bench"]}' in path.replace("+", " ") for path in asked)
    assert [path for method, path in engine.asked if method == "DELETE"] == [
        "/services/left-0",
        "/services/left-1",
        "/configs/left-0",
        "/configs/left-1",
    ]


def test_a_log_that_says_nothing_ends_the_measurement(engine: _Engine) -> None:
    api = DockerApi(Path(str(engine.server_address)))
    services = BareServices(api, "sha256:ab", "")
    with pytest.raises(BenchError, match="nothing more came"):
        for _ in services.log("one", 0.2):
            pass


def test_an_engine_that_is_not_there_is_told(tmp_path: Path) -> None:
    services = BareServices(DockerApi(tmp_path / "none.sock"), "sha256:ab", "")
    with pytest.raises(FileNotFoundError):
        next(services.log("one", 1.0))
