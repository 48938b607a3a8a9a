"""The WebSocket beneath: frames as RFC 6455 has them, and as it doesn't."""

from tests.interop import raw_client as wire
from tests.interop.black_box import VIOLATION, Outcome, World, case
from tests.interop.raw_client import BINARY, CLOSE, PING, PONG, TEXT, Refused, Session

GROUP = "WebSocket"
NOT_THERE = "ERROR CALL wamp.error.no_such_procedure"


def call(world: World, session: Session) -> bytes:
    """The bytes of a call that is answered by an error."""
    uri = world.uri("procedure")
    return session.serializer.dump([wire.CALL, session.next_request(), {}, uri])


def kind(session: Session) -> int:
    return BINARY if session.serializer.is_binary else TEXT


def code(session: Session) -> Outcome:
    number = session.socket.closing_code()
    return ["cut" if number is None else f"closed with {number}"]


@case(GROUP, "a message in three frames", [NOT_THERE])
def fragmented(world: World) -> Outcome:
    session = world.session()
    data = call(world, session)
    session.socket.send_frame(data[:3], kind(session), fin=False)
    session.socket.send_frame(data[3:9], 0, fin=False)
    session.socket.send_frame(data[9:], 0)
    return [world.say(session.receive())]


@case(GROUP, "a message in frames of one byte, and empty ones", [NOT_THERE])
def fragmented_finely(world: World) -> Outcome:
    session = world.session()
    data = call(world, session)
    session.socket.send_frame(b"", kind(session), fin=False)
    for at in range(len(data)):
        session.socket.send_frame(data[at : at + 1], 0, fin=False)
    session.socket.send_frame(b"", 0)
    return [world.say(session.receive())]


@case(GROUP, "a message byte by byte in TCP", [NOT_THERE])
def byte_by_byte(world: World) -> Outcome:
    session = world.session()
    for byte in wire.frame(call(world, session), kind(session)):
        session.socket.send_bytes(bytes([byte]))
    return [world.say(session.receive())]


@case(GROUP, "two messages in one TCP segment", [NOT_THERE, NOT_THERE])
def together(world: World) -> Outcome:
    session = world.session()
    frames = [wire.frame(call(world, session), kind(session)) for _ in range(2)]
    session.socket.send_bytes(b"".join(frames))
    return [world.say(session.receive()) for _ in range(2)]


@case(GROUP, "a ping between a message's frames", [NOT_THERE, "pong b'between'"])
def ping_between(world: World) -> Outcome:
    session = world.session()
    data = call(world, session)
    session.socket.send_frame(data[:5], kind(session), fin=False)
    session.socket.send_frame(b"between", PING)
    session.socket.send_frame(data[5:], 0)
    told = world.say(session.receive())
    return [told, *(f"pong {payload!r}" for payload in session.socket.pongs)]


@case(GROUP, "a pong that nobody asked for", [NOT_THERE])
def unasked_pong(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"?", PONG)
    session.socket.send_frame(call(world, session), kind(session))
    return [world.say(session.receive())]


@case(GROUP, "a close frame is answered", ["closed with 1000"])
def closing(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame((1000).to_bytes(2, "big"), CLOSE)
    return code(session)


@case(GROUP, "a close frame without a code is answered", ["closed with 1000"])
def closing_without_code(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"", CLOSE)
    return code(session)


@case(GROUP, "a close frame with a code that must not be sent", ["closed with 1002"])
def closing_wrongly(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame((1005).to_bytes(2, "big"), CLOSE)
    return code(session)


@case(GROUP, "a close frame of one byte", ["closed with 1002"])
def closing_short(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"\x03", CLOSE)
    return code(session)


@case(GROUP, "a frame that isn't masked", ["closed with 1002"])
def unmasked(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(call(world, session), kind(session), masked=False)
    return code(session)


@case(GROUP, "a reserved bit", ["closed with 1002"])
def reserved_bit(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(call(world, session), kind(session), rsv=4)
    return code(session)


@case(GROUP, "an opcode nobody knows", ["closed with 1002"])
def unknown_opcode(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"", 5)
    return code(session)


@case(GROUP, "a ping in two frames", ["closed with 1002"])
def fragmented_ping(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"half", PING, fin=False)
    return code(session)


@case(GROUP, "a ping of 126 bytes", ["closed with 1002"])
def large_ping(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"x" * 126, PING)
    return code(session)


@case(GROUP, "a continuation of nothing", ["closed with 1002"])
def continuation(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"more", 0)
    return code(session)


@case(GROUP, "a new message inside another", ["closed with 1002"])
def inside(world: World) -> Outcome:
    session = world.session()
    session.socket.send_frame(b"[48", kind(session), fin=False)
    session.socket.send_frame(b"[48", kind(session))
    return code(session)


@case(GROUP, "text in a binary serialisation, binary in JSON", [VIOLATION, "over"])
def wrong_kind(world: World) -> Outcome:
    session = world.session()
    # Text in either, so that only its kind is wrong.
    session.socket.send_frame(b"[48]", TEXT if session.serializer.is_binary else BINARY)
    return world.rest(session)


@case(GROUP, "text that is no UTF-8", ["closed with 1007"])
def no_utf8(world: World) -> Outcome:
    session = world.session(serializer="json")
    session.socket.send_frame(b'[48, "\xff"]', TEXT)
    return code(session)


@case(GROUP, "a version nobody speaks", ["HTTP 400"])
def wrong_version(world: World) -> Outcome:
    try:
        # The second header of that name: both can't be right.
        world.websocket("wamp.2.json", headers={"Sec-WebSocket-Version": "12"})
    except Refused as refused:
        return [str(refused)]
    return ["101"]


@case(GROUP, "a page of another origin", ["HTTP 403"])
def other_origin(world: World) -> Outcome:
    try:
        world.websocket("wamp.2.json", headers={"Origin": "https://elsewhere.example"})
    except Refused as refused:
        return [str(refused)]
    return ["101"]


@case(GROUP, "a page of the router's own origin", ["101"])
def own_origin(world: World) -> Outcome:
    host = world.target.url.split("/")[2]
    world.websocket("wamp.2.json", headers={"Origin": f"http://{host}"})
    return ["101"]


@case(GROUP, "an offer to compress, as browsers make it", ["101", NOT_THERE])
def compression(world: World) -> Outcome:
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    session = world.session(headers=offer)
    session.socket.send_frame(call(world, session), kind(session))
    return ["101", world.say(session.receive())]
