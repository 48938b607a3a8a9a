"""WAMP's three serialisations, written out: for a client that shares no code with the router.

Only what JSON values and bytes need.
"""

import base64
import json
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


def dump_json(value: Any) -> bytes:
    def plain(each: Any) -> Any:
        if isinstance(each, bytes):
            return "\0" + base64.b64encode(each).decode()
        if isinstance(each, dict):
            return {key: plain(item) for key, item in each.items()}
        return [plain(item) for item in each] if isinstance(each, list) else each

    return json.dumps(plain(value)).encode()


def load_json(data: bytes) -> Any:
    def restored(each: Any) -> Any:
        if isinstance(each, str) and each.startswith("\0"):
            return base64.b64decode(each[1:], validate=True)
        if isinstance(each, dict):
            return {key: restored(item) for key, item in each.items()}
        return [restored(item) for item in each] if isinstance(each, list) else each

    return restored(json.loads(data.decode()))


def _head(major: int, number: int) -> bytes:
    """CBOR: a data item's first bytes."""
    if number < 24:
        return bytes([major << 5 | number])
    for code, form, bound in ((24, ">B", 2**8), (25, ">H", 2**16), (26, ">I", 2**32)):
        if number < bound:
            return bytes([major << 5 | code]) + struct.pack(form, number)
    return bytes([major << 5 | 27]) + struct.pack(">Q", number)


def dump_cbor(value: Any) -> bytes:
    match value:
        case None | True | False:
            return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(dump_cbor, value))
        case dict():
            items = (dump_cbor(part) for item in value.items() for part in item)
            return _head(5, len(value)) + b"".join(items)
    raise TypeError(type(value).__name__)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        if len(taken) != count:
            raise ValueError("the bytes end too early")
        self.at += count
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def cbor(self) -> Any:
        first = self.take(1)[0]
        major, short = first >> 5, first & 31
        if major == 7:
            if short in (25, 26, 27):
                return self.number({25: ">e", 26: ">f", 27: ">d"}[short])
            return {20: False, 21: True, 22: None}[short]
        count = (
            short if short < 24 else self.number({24: ">B", 25: ">H", 26: ">I", 27: ">Q"}[short])
        )
        match major:
            case 0:
                return count
            case 1:
                return -1 - count
            case 2:
                return self.take(count)
            case 3:
                return self.take(count).decode()
            case 4:
                return [self.cbor() for _ in range(count)]
            case 5:
                return {self.cbor(): self.cbor() for _ in range(count)}
        raise ValueError(f"CBOR major type {major} is not WAMP")

    def msgpack(self) -> Any:
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self._map(first & 15)
        if first < 0xA0:
            return [self.msgpack() for _ in range(first & 15)]
        if first < 0xC0:
            return self.take(first & 31).decode()
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        numbers = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
        numbers |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
        if first in numbers:
            return self.number(numbers[first])
        if first in (0xC4, 0xC5, 0xC6):
            return self.take(self.number({0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}[first]))
        if first in (0xD9, 0xDA, 0xDB):
            return self.take(self.number({0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}[first])).decode()
        if first in (0xDC, 0xDD):
            return [self.msgpack() for _ in range(self.number({0xDC: ">H", 0xDD: ">I"}[first]))]
        if first in (0xDE, 0xDF):
            return self._map(self.number({0xDE: ">H", 0xDF: ">I"}[first]))
        raise ValueError(f"MessagePack type {first:#x} is not WAMP")

    def _map(self, count: int) -> dict[Any, Any]:
        return {self.msgpack(): self.msgpack() for _ in range(count)}


def _whole(read: Callable[[_Reader], Any]) -> Callable[[bytes], Any]:
    def load(data: bytes) -> Any:
        reader = _Reader(data)
        value = read(reader)
        if reader.at != len(data):
            raise ValueError("bytes are left over")
        return value

    return load


def _sized(count: int, fix: tuple[int, int] | None, codes: tuple[int | None, int, int]) -> bytes:
    """MessagePack: the first bytes of text, bytes, a list or a map."""
    if fix is not None and count < fix[1]:
        return bytes([fix[0] | count])
    for code, form, bound in zip(codes, (">B", ">H", ">I"), (2**8, 2**16, 2**32), strict=True):
        if code is not None and count < bound:
            return bytes([code]) + struct.pack(form, count)
    raise ValueError("too large")


def dump_msgpack(value: Any) -> bytes:
    match value:
        case None | True | False:
            return {None: b"\xc0", True: b"\xc3", False: b"\xc2"}[value]
        case int():
            if 0 <= value < 0x80:
                return bytes([value])
            if -32 <= value < 0:
                return bytes([value + 0x100])
            unsigned = ((0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"))
            signed = ((0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"))
            for code, form in unsigned if value >= 0 else signed:
                try:
                    return bytes([code]) + struct.pack(form, value)
                except struct.error:
                    pass
            raise ValueError("a number of more than 64 bits")
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case bytes():
            return _sized(len(value), None, (0xC4, 0xC5, 0xC6)) + value
        case str():
            return _sized(len(value.encode()), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + value.encode()
        case list():
            head = _sized(len(value), (0x90, 16), (None, 0xDC, 0xDD))
            return head + b"".join(map(dump_msgpack, value))
        case dict():
            head = _sized(len(value), (0x80, 16), (None, 0xDE, 0xDF))
            return head + b"".join(dump_msgpack(part) for item in value.items() for part in item)
    raise TypeError(type(value).__name__)


class Serializer(NamedTuple):
    """One serialisation, as a WebSocket sub-protocol."""

    name: str
    is_binary: bool
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]

    @property
    def subprotocol(self) -> str:
        return f"wamp.2.{self.name}"


SERIALIZERS: Mapping[str, Serializer] = MappingProxyType(
    {
        "json": Serializer("json", False, dump_json, load_json),
        "msgpack": Serializer("msgpack", True, dump_msgpack, _whole(_Reader.msgpack)),
        "cbor": Serializer("cbor", True, dump_cbor, _whole(_Reader.cbor)),
    }
)
