"""Asking a running daemon over its admin socket, from a command: HTTP, bounded and blocking."""

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cumulusd.admin.unix_socket import connect
from cumulusd.errors import BY_CODE, CumulusError, InternalError, NotAuthorized, Unavailable

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 64 << 20


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path, TIMEOUT_S)


class AdminClient:
    """One daemon, by its admin socket. Errors are CumulusError: its own, or why none was had."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self) -> dict[str, Any]:
        """How it is: `cumulusd.parts.Parts.status`."""
        status: dict[str, Any] = self._ask("GET", "/status", ("status",))["status"]
        return status

    def tokens(self) -> list[dict[str, Any]]:
        """What is shown of each token."""
        tokens: list[dict[str, Any]] = self._ask("GET", "/tokens", ("tokens",))["tokens"]
        return tokens

    def create_token(self, wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """(the token, what is shown of it)."""
        answer = self._ask("POST", "/tokens", ("token", "shown"), wanted)
        return str(answer["token"]), answer["shown"]

    def revoke_token(self, name: str) -> dict[str, Any]:
        """What was shown of it."""
        path = f"/tokens/{quote(name, safe='')}"
        shown: dict[str, Any] = self._ask("DELETE", path, ("shown",))["shown"]
        return shown

    def _ask(
        self,
        method: str,
        path: str,
        keys: tuple[str, ...],
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer, an object with these keys."""
        connection = _Connection(self._path)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _no_daemon(self._path, error) from error
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                status, text = response.status, response.read(MAX_ANSWER_BYTES + 1)
            value = json.loads(text)
            if not isinstance(value, dict):
                raise ValueError("it is no object")
            if status < 400 and not value.keys() >= set(keys):
                raise ValueError(f"it lacks {' or '.join(keys)}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(
                f"the daemon at {self._path} gave no whole answer: {error or type(error).__name__}",
                hint="look with `cumulusd token list` what became of it, and at the daemon's log",
            ) from error
        finally:
            connection.close()
        if status >= 400:
            raise _error_of(value)
        return value


def _no_daemon(path: Path, error: OSError) -> CumulusError:
    if isinstance(error, PermissionError):
        return NotAuthorized(
            f"{path} may not be opened by this user",
            hint="run this as root, or as the daemon's user",
        )
    return Unavailable(
        f"no daemon answers on {path}: {error.strerror or error}",
        hint="is cumulusd running, with this configuration? `--config` and `--socket` name it",
    )


def _error_of(value: Mapping[str, Any]) -> CumulusError:
    codes = {code.value: cls for code, cls in BY_CODE.items()}
    cls = codes.get(str(value.get("code")), InternalError)
    details, hint = value.get("details"), value.get("hint")
    return cls(
        str(value.get("message") or "the daemon refused"),
        details=details if isinstance(details, dict) else None,
        hint=hint if isinstance(hint, str) else None,
    )
