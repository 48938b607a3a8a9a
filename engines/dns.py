"""Names of hosts for a cluster: a forwarder on its bridge to this machine's resolvers.

A resolver on loopback or at a link-local address can't be reached from a network namespace, and any
other one only where the route out leads there. This process reaches all of them.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import cast

from engines.network import nameservers

__all__ = ["Forwarder"]

PORT = 53
QUESTION_TIMEOUT_S = 5.0
STREAM_TIMEOUT_S = 30.0
MAX_QUESTIONS = 512
MAX_STREAMS = 64
_RESOLV_CONF = Path("/etc/resolv.conf")
_CHUNK_BYTES = 65_536


class _Answer(asyncio.DatagramProtocol):
    """One question on its way to a resolver."""

    def __init__(self, question: bytes) -> None:
        self._question = question
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._question)

    def datagram_received(self, data: bytes, address: object) -> None:
        if data[:2] == self._question[:2] and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, forwarder: "Forwarder") -> None:
        self._forwarder = forwarder
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        assert self._transport is not None
        self._forwarder.forward(self._transport, data, address)


class Forwarder:
    """Forwards questions, by UDP and TCP, unread. The resolvers are asked in turn."""

    def __init__(self, address: str, resolv_conf: Path = _RESOLV_CONF, port: int = PORT) -> None:
        self._address = address
        self._resolv_conf = resolv_conf
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. OSError when the port is taken on that address."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Listener(self), local_addr=(self._address, self._port)
        )
        self._server = await asyncio.start_server(self._stream, self._address, self._port)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _resolvers(self) -> list[str]:
        """Read anew each time: a machine's resolvers change with its network."""
        return [address for address in nameservers(self._resolv_conf) if address != self._address]

    def forward(
        self, transport: asyncio.DatagramTransport, question: bytes, address: tuple[str, int]
    ) -> None:
        if len(self._tasks) >= MAX_QUESTIONS or len(question) < 12:
            return  # as a resolver under load does: who asks will ask again
        task = asyncio.get_running_loop().create_task(self._ask(transport, question, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(
        self, transport: asyncio.DatagramTransport, question: bytes, address: tuple[str, int]
    ) -> None:
        for resolver in self._resolvers():
            try:
                answer = await self._answer_of(resolver, question)
            except (OSError, TimeoutError) as error:
                print(f"dns: {resolver} gave no answer: {error!r}", flush=True)
                continue
            transport.sendto(answer, address)
            return

    async def _answer_of(self, resolver: str, question: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Answer(question), remote_addr=(resolver, PORT)
        )
        try:
            return await asyncio.wait_for(protocol.answer, QUESTION_TIMEOUT_S)
        finally:
            transport.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._streams >= MAX_STREAMS:
            writer.close()
            return
        self._streams += 1
        try:
            async with asyncio.timeout(STREAM_TIMEOUT_S):
                await self._relay(reader, writer)
        except (OSError, TimeoutError) as error:
            print(f"dns: a stream ended: {error!r}", flush=True)
        finally:
            self._streams -= 1
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for resolver in self._resolvers():
            try:
                theirs, to_them = await asyncio.open_connection(resolver, PORT)
            except OSError as error:
                print(f"dns: {resolver} takes no stream: {error!r}", flush=True)
                continue
            try:
                asking = asyncio.ensure_future(_copy(reader, to_them))
                try:
                    await _copy(theirs, writer)
                finally:
                    asking.cancel()
                    with contextlib.suppress(asyncio.CancelledError, OSError):
                        await asking
            finally:
                to_them.close()
            return


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK_BYTES):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()
