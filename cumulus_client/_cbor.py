"""WAMP messages as CBOR. Autobahn's own serializer loads FlatBuffers and NumPy, which takes as long
as all else that connecting needs."""

from typing import Any

import cbor2  # Autobahn brings it
from autobahn.wamp import message as wamp_message
from autobahn.wamp.exception import ProtocolError

message: Any = wamp_message  # untyped

#: What a router has to tell a caller.
_TOLD = {
    kind.MESSAGE_TYPE: kind
    for kind in (
        message.Welcome,
        message.Abort,
        message.Challenge,
        message.Goodbye,
        message.Error,
        message.Result,
    )
}


class CborSerializer:
    """What Autobahn's WebSocket wants of a serializer (`autobahn.wamp.interfaces.ISerializer`)."""

    SERIALIZER_ID = "cbor"

    def serialize(self, msg: Any) -> tuple[bytes, bool]:
        """The bytes, and that they are binary."""
        return cbor2.dumps(msg.marshal()), True

    def plain(self, payload: bytes) -> Any:
        """What the bytes hold. Raises ProtocolError."""
        try:
            return cbor2.loads(payload)
        except Exception as error:
            raise ProtocolError(f"no CBOR: {type(error).__name__}: {error}") from error

    def unserialize(self, payload: bytes, is_binary: bool | None = None) -> list[Any]:
        """The message in them. Raises ProtocolError."""
        raw = self.plain(payload)
        kind = raw[0] if type(raw) is list and raw else None
        if is_binary is False or type(kind) is not int or kind not in _TOLD:
            raise ProtocolError(f"a message of the kind {str(kind)[:40]!r} to a caller")
        return [_TOLD[kind].parse(raw)]
