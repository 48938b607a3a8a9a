"""Bytes handed to an idle socket at once, the rest in order behind them."""

from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.main import CONNECTION_LOST

from cumulusd.direct_write import DirectWrite


class Transport(tcp.Connection):
    """One whose socket takes what it is told to."""

    SEND_LIMIT = 10

    def __init__(self, room: int) -> None:
        self.connected, self.disconnecting = True, False
        self.dataBuffer = b""
        self._tempDataBuffer: list[bytes] = []
        self.room: int | None = room  #: None: the connection is lost
        self.socket_has = b""

    def writeSomeData(self, data: Any) -> Any:
        if self.room is None:
            return CONNECTION_LOST
        part = bytes(data)[: min(self.SEND_LIMIT, self.room)]
        self.room -= len(part)
        self.socket_has += part
        return len(part)

    def write(self, data: bytes) -> None:
        self._tempDataBuffer.append(bytes(data))

    @property
    def waiting(self) -> bytes:
        return b"".join(self._tempDataBuffer)


DATA = bytes(range(65, 65 + 25))


@pytest.mark.parametrize("room", [0, 1, 9, 10, 11, 20, 24, 25, 100])
def test_what_the_socket_takes_is_handed_over_and_the_rest_waits(room: int) -> None:
    transport = Transport(room)
    DirectWrite(transport).write(DATA)
    assert transport.socket_has == DATA[:room]
    assert transport.waiting == DATA[room:]


def test_nothing_overtakes_what_waits() -> None:
    transport = Transport(5)
    writing = DirectWrite(transport)
    writing.write(DATA)
    transport.room = 100
    writing.write(b"next")
    assert transport.socket_has == DATA[:5]
    assert transport.waiting == DATA[5:] + b"next"


@pytest.mark.parametrize("state", ["lost", "not connected", "disconnecting"])
def test_a_connection_at_its_end_goes_twisteds_way(state: str) -> None:
    transport = Transport(100)
    if state == "lost":
        transport.room = None
    transport.connected = state != "not connected"
    transport.disconnecting = state == "disconnecting"
    DirectWrite(transport).write(DATA)
    assert (transport.socket_has, transport.waiting) == (b"", DATA)


def test_another_transport_gets_it_whole() -> None:
    written: list[bytes] = []

    class Wrapped:
        write = staticmethod(written.append)

    DirectWrite(Wrapped()).write(DATA)
    assert written == [DATA]
