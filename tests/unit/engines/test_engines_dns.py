"""The forwarder of names, against resolvers on loopback."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engines import dns
from engines.dns import Forwarder

QUESTION = b"\x12\x34" + b"\0" * 14
ADDRESS = "127.0.0.2"


class Resolver(asyncio.DatagramProtocol):
    """Answers with the question and `!`, or stays silent."""

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: object) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: object) -> None:
        assert self._transport is not None
        if not self._silent:
            self._transport.sendto(b"zz not its answer", address)  # type: ignore[arg-type]
            self._transport.sendto(data + b"!", address)  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def ask(port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(QUESTION, (ADDRESS, port))
        return client.recv(4096)


def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resolvers: list[tuple[str, bool]],
    test: Callable[[int], Awaitable[None]],
) -> None:
    """Runs `test` on a forwarder's port; the resolvers are on loopback addresses, or silent."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(dns, "PORT", free_port())
        monkeypatch.setattr(dns, "QUESTION_TIMEOUT_S", 0.3)
        conf = tmp_path / "resolv.conf"
        conf.write_text("".join(f"nameserver {address}\n" for address, _ in resolvers))
        transports = []
        for address, silent in resolvers:
            transport, _ = await loop.create_datagram_endpoint(
                lambda silent=silent: Resolver(silent),  # type: ignore[misc]
                local_addr=(address, dns.PORT),
            )
            transports.append(transport)
        port = free_port()
        forwarder = Forwarder(ADDRESS, conf, port)
        await forwarder.start()
        try:
            await test(port)
        finally:
            await forwarder.close()
            for transport in transports:
                transport.close()
            await asyncio.sleep(0)

    asyncio.run(body())


def test_a_question_gets_its_own_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(port: int) -> None:
        assert await asyncio.to_thread(ask, port) == QUESTION + b"!"

    run(tmp_path, monkeypatch, [("127.0.0.3", False)], test)


def test_a_silent_resolver_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(port: int) -> None:
        assert await asyncio.to_thread(ask, port) == QUESTION + b"!"

    run(tmp_path, monkeypatch, [("127.0.0.3", True), ("127.0.0.4", False)], test)


def test_answers_over_tcp_pass_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5) + b"!")
        await writer.drain()
        writer.close()

    async def test(port: int) -> None:
        server = await asyncio.start_server(echo, "127.0.0.3", dns.PORT)
        async with server:
            reader, writer = await asyncio.open_connection(ADDRESS, port)
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.read(), 10) == b"hello!"
            writer.close()
            await writer.wait_closed()

    run(tmp_path, monkeypatch, [("127.0.0.3", False)], test)
