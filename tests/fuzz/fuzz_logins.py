"""Logins by every method: whatever is said, nobody gets in without a proof."""

import base64
import json
from typing import Any

from hypothesis import strategies as st
from twisted.internet.task import Clock

from cumulusd.identity import (
    Authenticator,
    Credential,
    KnownToken,
    Principal,
    Role,
    ScramCredential,
    hash_token,
)
from cumulusd.identity import (
    Source as TokenSource,
)
from cumulusd.protocol.router import Router
from tests.fuzz.fuzz_engine import Finding, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_messages import as_json
from tests.fuzz.fuzz_parts import Wire, left_behind, no_failures
from tests.fuzz.fuzz_values import SCALARS, objects
from tests.fuzz.fuzz_wire import TEXT, frame, frames_of, upgrade

_METHODS = ("ticket", "wamp-scram", "scram", "cryptosign", "anonymous", "x")
_NONCE = base64.b64encode(bytes(16)).decode()
#: Of Ed25519: one that is known here, one that is not, one that is no point of the curve.
_KEYS = ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "00" * 32, "ff" * 32)
_WORDS = ("nonce", "pubkey", "channel_binding", "cbind_data", "channel_id", "trustroot")
_AUTHIDS = st.sampled_from(("ann", "nobody", "", "é", "a" * 300, "ann\0")) | SCALARS
_EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "nonce": st.sampled_from((_NONCE, "", "A" * 22 + "==", "!" * 24)) | SCALARS,
        "pubkey": st.sampled_from(_KEYS) | SCALARS,
        "channel_binding": st.sampled_from((None, "null", "tls-unique", "tls-exporter")),
    },
) | objects(_WORDS)
_HELLOS = st.builds(
    lambda methods, authid, extra: [
        1,
        "cumulus",
        {"roles": {"caller": {}}, "authmethods": methods, "authid": authid, "authextra": extra},
    ],
    st.lists(st.sampled_from(_METHODS), min_size=1, max_size=3),
    _AUTHIDS,
    _EXTRAS,
)
_SIGNATURES = st.sampled_from(
    (
        *("", "x", "0" * 192, "f" * 192, base64.b64encode(bytes(32)).decode(), "=" * 44),
        *("{NONCE}", "A" * 100_000, "\0" * 3, "é"),
    )
)
_AUTHENTICATES = st.builds(
    lambda signature, extra: [5, signature, extra],
    _SIGNATURES | SCALARS,
    st.just({"nonce": "{NONCE}"}) | objects(_WORDS),
)
#: What a session may hear before it has joined.
_CHALLENGE, _WELCOME = 4, 2


class Logins(Target):
    """HELLO and AUTHENTICATE, one a line, on a router that has one token. `{NONCE}` becomes what
    the challenge said. Each message that was heard counts."""

    batch = 200

    def make(self, source: Source, count: int) -> list[bytes]:
        script = st.builds(
            lambda hello, answers: b"\n".join(map(as_json, (hello, *answers))),
            _HELLOS,
            st.lists(_AUTHENTICATES, min_size=1, max_size=2),
        )
        return source.mixed(script, ("logins",), count)

    def run(self, data: bytes) -> Tally:
        clock: Any = Clock()
        router = Router(clock=clock, authenticator=_authenticator())
        resource: Any = router.websocket_resource()
        tally = Tally()
        with no_failures():
            wire = Wire(resource._factory.buildProtocol(None))
            wire.give(upgrade("/ws", "wamp.2.json"))
            nonce = b""
            for line in data.split(b"\n"):
                if not wire.open:
                    break
                wire.give(frame(line.replace(b"{NONCE}", nonce), TEXT))
                tally.inputs += 1
                heard = [json.loads(text) for code, text in frames_of(wire.value()) if code == TEXT]
                if any(message[0] == _WELCOME for message in heard):
                    raise Finding(f"somebody got in: {heard!r:.500}")
                for message in heard:
                    if message[0] == _CHALLENGE:
                        nonce = json.dumps(message[2].get("nonce", ""))[1:-1].encode()
            tally.refusals = int(not wire.open)
            wire.end()
        left_behind(clock)
        return tally


def _authenticator() -> Authenticator:
    who = Principal(name="ann", owner="ann", role=Role.CLIENT)
    scram = ScramCredential(
        kdf="pbkdf2",
        salt="73" * 16,
        iterations=5000,
        memory=None,
        stored_key="11" * 32,
        server_key="22" * 32,
    )
    credential = Credential(principal=who, scram=scram, public_keys=_KEYS[:1])
    authenticator = Authenticator([])
    digest = hash_token("a token that nobody here has")
    authenticator.put(KnownToken(sha256=digest, credential=credential, source=TokenSource.COMMAND))
    return authenticator
