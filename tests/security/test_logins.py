"""Autobahn's own clients log in over real sockets by each method, and what an attacker tries."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.wamp import Session
from autobahn.twisted.websocket import WampWebSocketClientFactory, WampWebSocketClientProtocol
from autobahn.wamp.auth import AuthCryptoSign, AuthScram, AuthTicket
from autobahn.wamp.serializer import JsonSerializer
from autobahn.wamp.types import ComponentConfig
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from cumulusd.identity import (
    Authenticator,
    Credential,
    KnownToken,
    Principal,
    Role,
    Source,
    hash_token,
)
from cumulusd.protocol.limits import Limits
from cumulusd.scram_keys import make_scram
from tests.unit.protocol.wamp_peers import Refused, Server, joined_bare, reactor, serving, until

TOKEN = "annes-very-own-token"
SCRAM = make_scram(TOKEN)
PRIVATE = bytes(range(32)).hex()
PUBLIC = (
    Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw().hex()
)
STRANGER = (b"\1" * 32).hex()
NOT_AUTHENTICATED = r"wamp\.error\.not_authenticated"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def known(clock: Callable[[], float] = lambda: 0.0, expires_at: float | None = None) -> Any:
    authenticator = Authenticator((), wall_clock=clock)
    authenticator.put(
        KnownToken(
            sha256=hash_token(TOKEN),
            credential=Credential(
                principal=Principal(name="anne", owner="anne", role=Role.CLIENT),
                scram=SCRAM,
                public_keys=(PUBLIC,),
            ),
            source=Source.COMMAND,
            expires_at=expires_at,
        )
    )
    return authenticator


def by_ticket(token: str = TOKEN) -> Any:
    return AuthTicket(authid="anne", ticket=token)


def by_scram(password: str = TOKEN, authid: str = "anne") -> Any:
    return AuthScram(authid=authid, password=password)


def by_key(private: str = PRIVATE, **options: Any) -> Any:
    return AuthCryptoSign(privkey=private, **options)


METHODS = {"ticket": by_ticket, "scram": by_scram, "cryptosign": by_key}
WRONG = {
    "ticket": lambda: by_ticket("somebody-elses-token"),
    "scram": lambda: by_scram("somebody-elses-token"),
    "cryptosign": lambda: by_key(STRANGER),
}


class Peer(Session):
    """Autobahn's session with one of its authenticators."""

    def __init__(self, authenticator: Any) -> None:
        super().__init__(ComponentConfig(realm="cumulus"))
        self.ready: Deferred[Any] = Deferred()
        self.gone = False
        self.add_authenticator(authenticator)

    def on_join(self, details: Any) -> None:
        self.ready.callback(details)

    def on_leave(self, details: Any) -> None:
        self._fail(details.reason, details.message)
        self.disconnect()

    def on_disconnect(self) -> None:
        self.gone = True
        self._fail("disconnected", None)

    def onUserError(self, fail: Any, msg: str) -> None:
        self._fail(fail.getErrorMessage(), msg)

    def _fail(self, reason: str, text: str | None) -> None:
        if not self.ready.called:
            self.ready.errback(Refused(reason, text))

    def drop(self) -> None:
        if self._transport is not None and self._transport.transport is not None:
            self._transport.transport.abortConnection()


class Wire(WampWebSocketClientProtocol):
    """Its transport, which may alter what comes and hold back what goes."""

    factory: Any

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(self.factory.incoming(payload), isBinary)

    def sendMessage(self, payload: bytes, *args: Any, **options: Any) -> None:
        self.factory.sent.append(payload)
        super().sendMessage(payload, *args, **options)


async def log_in(
    server: Server, authenticator: Any, incoming: Callable[[bytes], bytes] = lambda data: data
) -> tuple[Peer, Any, list[bytes]]:
    """The session, its WELCOME's details, and what was sent. Raises Refused."""
    peer = Peer(authenticator)
    factory = WampWebSocketClientFactory(
        lambda: peer,
        f"ws://127.0.0.1:{server.port_number}/ws",
        serializers=[JsonSerializer()],
        reactor=reactor,
    )
    factory.protocol = Wire
    factory.incoming, factory.sent = incoming, []
    factory.noisy = False
    factory.setProtocolOptions(
        openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
    )
    server._clients.append(peer)
    await TCP4ClientEndpoint(reactor, "127.0.0.1", server.port_number).connect(factory)
    details = await peer.ready.addTimeout(20, reactor)
    return peer, details, factory.sent


@contextmanager
def altered(kind: int, change: Callable[[list[Any]], None]) -> Iterator[Callable[[bytes], bytes]]:
    """Changes each message of that kind on its way to the client; at least one must have come."""
    seen = []

    def incoming(payload: bytes) -> bytes:
        message = json.loads(payload)
        if message[0] != kind:
            return payload
        seen.append(message)
        change(message)
        return json.dumps(message).encode()

    yield incoming
    assert seen


@pytest.mark.parametrize("method", METHODS)
@pytest_twisted.ensureDeferred
async def test_each_method_lets_its_holder_in(method: str) -> None:
    async with serving(known()) as server:
        peer, details, sent = await log_in(server, METHODS[method]())
        assert (details.authid, details.authrole) == ("anne", "client")
        assert details.authmethod == method
        shown = [TOKEN.encode() in payload for payload in sent]
        assert any(shown) == (method == "ticket")
        assert server.router.stats().sessions[Role.CLIENT] == 1
        peer.leave()


@pytest.mark.parametrize("method", WRONG)
@pytest_twisted.ensureDeferred
async def test_each_method_refuses_a_wrong_secret(method: str) -> None:
    async with serving(known()) as server:
        with pytest.raises(Refused, match=NOT_AUTHENTICATED):
            await log_in(server, WRONG[method]())
        await until(lambda: server.router.stats().connections == 0)
        assert server.router.stats().refused_sessions == 1
        assert server.router.stats().sessions[Role.CLIENT] == 0


@pytest.mark.parametrize("method", METHODS)
@pytest_twisted.ensureDeferred
async def test_each_method_refuses_an_expired_token(method: str) -> None:
    clock = Clock()
    async with serving(known(clock, expires_at=1010.0)) as server:
        await log_in(server, METHODS[method]())
        clock.now = 1010.0
        with pytest.raises(Refused, match=NOT_AUTHENTICATED):
            await log_in(server, METHODS[method]())


@pytest_twisted.ensureDeferred
async def test_scram_of_a_name_that_is_not_there() -> None:
    async with serving(known()) as server:
        with pytest.raises(Refused, match=NOT_AUTHENTICATED) as unknown:
            await log_in(server, by_scram(authid="bert"))
        with pytest.raises(Refused) as wrong:
            await log_in(server, by_scram("somebody-elses-token"))
        assert unknown.value.args == wrong.value.args


@pytest_twisted.ensureDeferred
async def test_a_key_with_its_authid_and_with_anothers() -> None:
    async with serving(known()) as server:
        _, details, _ = await log_in(server, by_key(authid="anne"))
        assert details.authid == "anne"
        with pytest.raises(Refused, match=NOT_AUTHENTICATED):
            await log_in(server, by_key(authid="bert"))


@pytest.mark.parametrize("method", ["scram", "cryptosign"])
@pytest_twisted.ensureDeferred
async def test_a_login_that_was_overheard_can_not_be_sent_again(method: str) -> None:
    async with serving(known()) as server:
        _, _, sent = await log_in(server, METHODS[method]())
        hello, authenticate = sent[:2]
        assert (json.loads(hello)[0], json.loads(authenticate)[0]) == (1, 5)
        bare = await server.bare()
        bare.sendMessage(hello)
        await until(lambda: len(bare.received) == 1)
        bare.sendMessage(authenticate)
        await until(lambda: bare.gone)
        assert json.loads(bare.received[1])[2] == "wamp.error.not_authenticated"


def flip(text: str, bit: int) -> str:
    """That base64 or hex text with another of its characters at the place that `bit` names."""
    place = bit % len(text.rstrip("="))
    other = "0" if text[place] != "0" else "1"
    return text[:place] + other + text[place + 1 :]


@pytest.mark.parametrize("key", ["nonce", "salt", "iterations", "memory"])
@pytest_twisted.ensureDeferred
async def test_a_challenge_of_scram_that_was_altered(key: str) -> None:
    def change(message: list[Any]) -> None:
        value = message[2][key]
        message[2][key] = flip(value, 3) if isinstance(value, str) else value + 1

    with altered(4, change) as incoming:
        async with serving(known()) as server:
            with pytest.raises(Refused, match=NOT_AUTHENTICATED):
                await log_in(server, by_scram(), incoming)


@pytest_twisted.ensureDeferred
async def test_the_client_does_not_take_a_server_that_does_not_know_its_keys() -> None:
    def change(message: list[Any]) -> None:
        extra = message[2]["authextra"]
        extra["scram_server_signature"] = flip(extra["scram_server_signature"], 5)

    with altered(2, change) as incoming:
        async with serving(known()) as server:
            with pytest.raises(Refused):
                await log_in(server, by_scram(), incoming)


@pytest_twisted.ensureDeferred
async def test_a_challenge_of_cryptosign_that_was_altered() -> None:
    def change(message: list[Any]) -> None:
        message[2]["challenge"] = flip(message[2]["challenge"], 9)

    with altered(4, change) as incoming:
        async with serving(known()) as server:
            with pytest.raises(Refused, match=NOT_AUTHENTICATED):
                await log_in(server, by_key(), incoming)


HELLOS = {
    "ticket": {"authmethods": ["ticket"], "authid": "anne"},
    "wamp-scram": {"authmethods": ["wamp-scram"], "authid": "anne", "authextra": {"nonce": "bm4="}},
    "cryptosign": {"authmethods": ["cryptosign"], "authextra": {"pubkey": PUBLIC}},
}


def hello(method: str) -> bytes:
    return json.dumps([1, "cumulus", {"roles": {"caller": {}}, **HELLOS[method]}]).encode()


@pytest.mark.parametrize("method", HELLOS)
@pytest_twisted.ensureDeferred
async def test_a_challenge_that_stays_unanswered_ends_in_time(method: str) -> None:
    async with serving(known(), Limits(hello_timeout_s=2.0)) as server:
        bare = await server.bare()
        bare.sendMessage(hello(method))
        await until(lambda: bare.gone)
        kinds = [json.loads(each)[0] for each in bare.received]
        assert kinds == [4, 3]
        assert "not opened within" in json.loads(bare.received[1])[1]["message"]
        await until(lambda: server.router.stats().connections == 0)
        assert server.router.stats().refused_sessions == 1


@pytest.mark.parametrize("method", HELLOS)
@pytest_twisted.ensureDeferred
async def test_one_guess_a_connection(method: str) -> None:
    """A second AUTHENTICATE is for nobody, also when it is right."""
    async with serving(known()) as server:
        bare = await server.bare()
        bare.sendMessage(hello(method))
        await until(lambda: len(bare.received) == 1)
        bare.sendMessage(b'[5,"wrong",{}]')
        bare.sendMessage(json.dumps([5, TOKEN, {}]).encode())
        await until(lambda: bare.gone)
        assert [json.loads(each)[0] for each in bare.received] == [4, 3]
        assert json.loads(bare.received[1])[2] == "wamp.error.not_authenticated"
        assert server.router.stats().sessions[Role.CLIENT] == 0


@pytest.mark.parametrize(
    "message",
    ['[5,"x",{}]', '[1,"cumulus",{"roles":{"caller":{}}}]', '[48,1,{},"cumulus.job.list"]', "[5]"],
)
@pytest_twisted.ensureDeferred
async def test_nothing_is_taken_out_of_its_turn(message: str) -> None:
    """AUTHENTICATE first, a second HELLO, a call before WELCOME, half a message."""
    async with serving(known()) as server:
        early = await server.bare()
        if not message.startswith("[1"):
            early.sendMessage(message.encode())
            await until(lambda: early.gone)
            assert json.loads(early.received[-1])[0] == 3
        challenged = await server.bare()
        challenged.sendMessage(hello("ticket"))
        if not message.startswith('[5,"'):
            challenged.sendMessage(message.encode())
            await until(lambda: challenged.gone)
            assert json.loads(challenged.received[-1])[2] == "wamp.error.protocol_violation"
    async with serving() as server:
        joined = await joined_bare(server)
        joined.sendMessage(message.encode())
        if message.startswith("[48"):
            await until(lambda: len(joined.received) == 2)
            assert json.loads(joined.received[1])[4] == "wamp.error.no_such_procedure"
        else:
            await until(lambda: joined.gone)
            assert json.loads(joined.received[-1])[2] == "wamp.error.protocol_violation"


@pytest.mark.parametrize("method", METHODS)
@pytest_twisted.ensureDeferred
async def test_others_come_in_while_challenges_stay_unanswered(method: str) -> None:
    async with serving(known()) as server:
        for _ in range(20):
            for each in HELLOS:
                bare = await server.bare()
                bare.sendMessage(hello(each))
        await log_in(server, METHODS[method]())
        assert server.router.stats().connections == 61
