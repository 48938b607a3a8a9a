"""The one connection of a client: a WAMP session over WebSocket that comes back by itself.

Everything here runs on the event loop of the client's I/O thread. Autobahn is imported when
connecting, not before: it takes a quarter of a second.
"""

import asyncio
import os
import random
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cumulus_client._read_pause import ReadPause
from cumulus_client.exceptions import ConnectionFailed, ConnectionLost, CumulusError

if TYPE_CHECKING:
    from cumulus_client._wire_session import CallerSession, Progress

DEFAULT_PORT = 50051
#: Largest WebSocket message taken; the daemon's are a chunk of a journal at most.
MAX_MESSAGE_BYTES = 32 << 20
PING_INTERVAL_S = 15.0
PING_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 2.0


def normalise_url(server_url: str) -> str:
    """`http(s)://host:port[/prefix]` without a trailing slash. Without a port it is DEFAULT_PORT
    for http, 443 for https; ws and wss are taken for http and https. Raises ValueError."""
    if not isinstance(server_url, str):
        raise TypeError(f"server_url must be a str, not {type(server_url).__name__}")
    url = server_url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"server_url {server_url!r} is no URL: {error}") from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"server_url must look like http://host:{DEFAULT_PORT} or https://host, "
            f"not {server_url!r}"
        )
    if parts.query or parts.fragment:
        raise ValueError(f"server_url must not have a query or a fragment: {server_url!r}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port of server_url must be a number from 1 to 65535: {server_url!r}")
    netloc, path = parts.netloc.rstrip(":"), parts.path
    if port is None:
        netloc += f":{443 if scheme == 'https' else DEFAULT_PORT}"
    if parts.scheme != scheme:
        path = path.removesuffix("/ws")
    return f"{scheme}://{netloc}{path}"


def websocket_url(url: str) -> str:
    """Where the WAMP router listens, from a normalised server URL."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    netloc = parts.netloc.rpartition("@")[2]
    return f"{scheme}://{netloc}{parts.path}/ws"


def backoff_s(failures: int, *, first_s: float = 0.2, cap_s: float = 15.0) -> float:
    """The pause after `failures` failed attempts (0: none): doubling, capped, half of it random."""
    if failures <= 0:
        return 0.0
    full = min(cap_s, first_s * 2.0 ** min(failures - 1, 16))
    return full * random.uniform(0.5, 1.0)


class Connection:
    """Opens the session at first need, opens it anew after a loss, makes calls on it.

    The first connect is one attempt, so that a wrong URL is told at once; later ones go on, with
    pauses, for `reconnect_timeout_s`.
    """

    def __init__(
        self,
        server_url: str,
        api_key: str | None,
        *,
        api_key_name: str | None = None,
        ca_file: str | None = None,
        connect_timeout_s: float = 10.0,
        call_timeout_s: float = 60.0,
        reconnect_timeout_s: float = 3600.0,
    ) -> None:
        """`ca_file`: the certificates by which an https daemon is known; None: this machine's."""
        self.server_url = normalise_url(server_url)
        self.ca_file = ca_file
        self.reconnect_timeout_s = reconnect_timeout_s
        self._api_key = api_key
        self._api_key_name = api_key_name
        self._connect_timeout_s = connect_timeout_s
        self._call_timeout_s = call_timeout_s
        self._session: CallerSession | None = None
        self._transport: Any = None
        self.read_pause = ReadPause(lambda: self._transport)
        self._opening: asyncio.Task[CallerSession] | None = None
        self._was_open = False
        self._closed = False

    async def session(self) -> "CallerSession":
        """The open session. Raises ConnectionFailed, NotAuthenticated."""
        if self._closed:
            raise ConnectionFailed("this Cumulus client is closed", hint="make a new one")
        if self._session is not None and self._session.open:
            return self._session
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        # Shielded: one caller who gives up must not end the attempt for the others.
        return await asyncio.shield(self._opening)

    def _opened(self, task: "asyncio.Task[CallerSession]") -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # every waiter got it; asyncio must not call it unheard

    async def _open(self) -> "CallerSession":
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.reconnect_timeout_s
        failures = 0
        while True:
            try:
                session = await self._connect()
            except ConnectionFailed as error:
                failures += 1
                pause_s = backoff_s(failures)
                if not self._was_open:
                    raise
                if loop.time() + pause_s > give_up_at:
                    raise ConnectionFailed(
                        f"gave up reconnecting after {self.reconnect_timeout_s:g} s: "
                        f"{error.message}",
                        hint="jobs go on without this client: attach to them by their job id",
                    ) from error
                await asyncio.sleep(pause_s)
            else:
                self._session, self._was_open = session, True
                return session

    async def _connect(self) -> "CallerSession":
        """One attempt, bounded by `connect_timeout_s`."""
        try:
            from cumulus_client._tls import not_trusted
            from cumulus_client._transport import NoTls, open_transport
        except RuntimeError as error:  # txaio: one framework a process
            raise ConnectionFailed(
                f"Autobahn can't run on asyncio in this process: {error}",
                hint="this process already uses Autobahn on Twisted; run the Cumulus client in "
                "another process",
            ) from error
        where = self.server_url
        transport: Any = None
        session: CallerSession | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                session, transport = await open_transport(
                    websocket_url(where),
                    api_key=self._api_key,
                    api_key_name=self._api_key_name,
                    shown_url=where,
                    ca_file=self.ca_file,
                )
                await session.joined
        except TimeoutError:
            _abort(transport)
            raise ConnectionFailed(
                f"{where} did not open a session within {self._connect_timeout_s:g} s",
                hint="is this the URL of a Cumulus daemon, and is it reachable from here?"
                + (" Does it speak https, or only http?" if where.startswith("https") else ""),
            ) from None
        except NoTls:
            plain = "http" + where.removeprefix("https")
            raise ConnectionFailed(
                f"{where} does not speak https, only http",
                hint=f"use {plain}, or an https proxy before the daemon",
            ) from None
        except ssl.SSLError as error:
            raise not_trusted(where, self.ca_file, error) from error
        except CumulusError as error:
            _abort(transport)
            if session is not None and not session.reached and where.startswith("http:"):
                await self._look_for_tls(error)
            raise
        except OSError as error:
            raise ConnectionFailed(
                f"can't connect to {where}: {_os_reason(error)}",
                hint="is cumulusd running there? CUMULUS_SERVER_URL or server_url names it",
            ) from error
        except BaseException:
            _abort(transport)
            raise
        self._transport = transport
        return session

    async def _look_for_tls(self, error: CumulusError) -> None:
        """An http URL led to no WebSocket: raises ConnectionFailed if TLS is spoken there."""
        from cumulus_client._tls import speaks_tls

        parts = urlsplit(self.server_url)
        if await speaks_tls(str(parts.hostname), parts.port or DEFAULT_PORT):
            raise ConnectionFailed(
                f"{self.server_url} does not speak http, only https",
                hint=f"use https{self.server_url.removeprefix('http')}",
            ) from error

    async def call(self, procedure: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of a procedure that may safely be called twice: it is repeated when the
        connection breaks under it. Raises the daemon's error, ConnectionFailed when there is no
        answer within `call_timeout_s` (while reconnecting: within `reconnect_timeout_s`)."""
        failures = 0
        while True:
            session = await self.session()
            try:
                async with asyncio.timeout(self._call_timeout_s):
                    return await session.call(procedure, kwargs)
            except TimeoutError:
                raise ConnectionFailed(
                    f"{self.server_url} did not answer {procedure} within "
                    f"{self._call_timeout_s:g} s",
                    hint="the daemon may be overloaded; try again",
                ) from None
            except ConnectionLost as error:
                failures += 1
                if failures > 5:
                    raise
                del error
                await asyncio.sleep(backoff_s(failures))

    async def call_once(
        self, procedure: str, kwargs: Mapping[str, Any], on_progress: "Progress"
    ) -> dict[str, Any]:
        """A call with progressive results, as long as it takes. Raises ConnectionLost."""
        session = await self.session()
        return await session.call(procedure, kwargs, on_progress)

    async def close(self) -> None:
        """Leaves, bounded by CLOSE_TIMEOUT_S. Idempotent; afterwards every call is refused."""
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        session, transport = self._session, self._transport
        self._session = self._transport = None
        if session is None:
            return
        session.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await session.disconnected
        except TimeoutError:
            pass  # the peer doesn't close in good order: abort
        _abort(transport)


def _os_reason(error: OSError) -> str:
    # asyncio words strerror itself ("Connect call failed"); the number says more.
    if error.errno and error.errno > 0 and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _abort(transport: Any) -> None:
    if transport is not None:
        transport.abort()
