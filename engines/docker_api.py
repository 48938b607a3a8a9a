"""As much of the Docker Engine API as making a Swarm takes. The daemon has a client of its own."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

__all__ = ["DockerApi", "DockerError"]

CALL_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 300.0
READ_LIMIT_BYTES = 64 << 20


class DockerError(Exception):
    """The engine refused or can't be reached; the message has its own words."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


class DockerApi:
    """Calls to the engine behind one unix socket; each has a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        """The answer: parsed JSON, text where it is no JSON, None where it is empty."""
        target = path + (f"?{urlencode(query)}" if query else "")
        headers = {}
        if isinstance(body, bytes) or hasattr(body, "read"):
            headers["Content-Type"] = "application/x-tar"
        elif body is not None:
            body = json.dumps(body)
            headers["Content-Type"] = "application/json"
        connection = _UnixConnection(self.path, timeout_s)
        try:
            connection.request(method, target, body, headers, encode_chunked=False)
            with connection.getresponse() as answer:
                text = answer.read(READ_LIMIT_BYTES).decode(errors="replace")
                status, kind = answer.status, answer.headers.get("Content-Type", "")
        except (OSError, http.client.HTTPException) as error:
            raise DockerError(f"{method} {path} at {self.path}: {error}") from error
        finally:
            connection.close()
        if status >= 400:
            raise DockerError(f"{method} {path} at {self.path}: {status} {text.strip()}", status)
        if not text:
            return None
        lines = text.strip().splitlines()
        if "json" in kind and len(lines) == 1:
            return json.loads(text)
        return text

    def is_up(self) -> bool:
        """Does the engine answer?"""
        try:
            self.call("GET", "/_ping", timeout_s=2.0)
        except DockerError:
            return False
        return True

    def image_id(self, name: str) -> str | None:
        """The image's id; None when the engine doesn't have it."""
        try:
            return str(self.call("GET", f"/images/{name}/json")["Id"])
        except DockerError as error:
            if error.status == 404:
                return None
            raise

    def load(self, archive: BinaryIO) -> None:
        """Loads a `docker save` archive."""
        answer = self.call(
            "POST", "/images/load", archive, query={"quiet": "1"}, timeout_s=LOAD_TIMEOUT_S
        )
        # Faults come inside a 200.
        if '"error' in (text := answer if isinstance(answer, str) else json.dumps(answer)):
            raise DockerError(f"the archive was not loaded at {self.path}: {text.strip()}")
