"""WAMP messages, as hypothesis draws them: every type, with fields that are likely and some not."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.fuzz_values import SCALARS, objects, values

PROCEDURES = (
    *("cumulus.server.info", "cumulus.job.list", "cumulus.job.get", "cumulus.worker.list"),
    *("cumulus.package.check", "cumulus.package.put", "cumulus.package.commit"),
    *("cumulus.job.submit", "cumulus.job.attach", "cumulus.job.cancel", "cumulus.job.result"),
    *("cumulus.agent.fuzz.prepare", "fuzz.echo", "fuzz.stream", "fuzz.never", "a.b", "a.b.c"),
    *("wamp.session.count", "wamp.session.list", "wamp.session.get", "wamp.registration.list"),
    *("wamp.subscription.list", "wamp.subscription.match", "wamp.session.kill"),
)
TOPICS = ("cumulus.jobs", "cumulus.workers", "cumulus.job.j1.status", "a.b", "a.b.c", "wamp.x")
#: For sessions on a router that is open to all.
URIS = ("a", "a.b", "a.b.c", "a.c", "fuzz.echo", "fuzz.stream", "fuzz.never", "x.y")
ODD_URIS = ("", ".", "a..b", "a b", "a.", "#", "é.x", "x" * 300, "a.\0", 17, None)
_KWARGS = (
    *("job_id", "spec", "sha256", "size_bytes", "offset", "data", "active", "limit", "name"),
    *("from_offset", "count", "session", "gpu_memory", "duration_s", "package", "requirements"),
)
_OPTIONS = (
    *("match", "invoke", "receive_progress", "progress", "acknowledge", "exclude_me", "exclude"),
    *("eligible", "exclude_authid", "eligible_authrole", "timeout", "mode", "disclose_me"),
    *("get_retained", "retain", "concurrency", "force_reregister", "ppt_scheme", "enc_algo"),
    *("forward_for", "rkey", "transaction_hash", "caller", "reason", "procedure", "topic"),
)
_OPTION_VALUES = st.sampled_from(
    (
        *("exact", "prefix", "wildcard", "single", "roundrobin", "random", "first", "last"),
        *("skip", "kill", "killnowait", True, False, None, 0, 1, -1, 100, [], [1], ["x"], {}),
    )
)
_IDS = st.one_of(
    st.integers(1, 4), st.sampled_from((0, -1, 1 << 53, (1 << 53) + 1, "1", None, 1.5, True, []))
)
_GOOD_IDS = st.integers(1, 4)
_ROLES = st.fixed_dictionaries(
    {},
    optional={
        role: st.fixed_dictionaries(
            {},
            optional={
                "features": st.dictionaries(
                    st.sampled_from(("call_canceling", "progressive_call_results", "x")),
                    st.booleans() | SCALARS,
                    max_size=2,
                )
            },
        )
        for role in ("caller", "callee", "publisher", "subscriber")
    },
)
_HELLO = st.fixed_dictionaries(
    {"roles": _ROLES},
    optional={
        "authmethods": st.lists(
            st.sampled_from(("ticket", "anonymous", "wamp-scram", "cryptosign", "x")), max_size=3
        ),
        "authid": st.sampled_from(("client", "admin", "", "nobody")) | SCALARS,
        "authextra": st.dictionaries(
            st.sampled_from(("nonce", "pubkey", "channel_binding")), SCALARS, max_size=3
        ),
        "resumable": SCALARS,
    },
)
_OPTION_DICTS = st.dictionaries(st.sampled_from(_OPTIONS), _OPTION_VALUES | SCALARS, max_size=3)
_DETAILS = _OPTION_DICTS | st.just({})
_ARGS = st.lists(values(_KWARGS), max_size=2) | SCALARS
_KW = st.dictionaries(st.sampled_from(_KWARGS), values(_KWARGS), max_size=3) | SCALARS
_REASONS = st.sampled_from(("wamp.close.normal", "wamp.error.canceled", "a.b", "", "a..b"))
_CALLED = st.sampled_from(PROCEDURES) | st.sampled_from(ODD_URIS)
_HEARD = st.sampled_from(TOPICS) | st.sampled_from(ODD_URIS)
_SIGNATURES = st.sampled_from(("wrong", "", "a" * 128, "\0QUJD")) | SCALARS


def _shape(type_id: int, *fields: st.SearchStrategy[Any], payload: bool = False) -> Any:
    """A message of that type; with `payload` arguments may follow."""
    plain = st.tuples(st.just(type_id), *fields).map(list)
    if not payload:
        return plain
    rest = st.one_of(st.just([]), st.tuples(_ARGS).map(list), st.tuples(_ARGS, _KW).map(list))
    return st.builds(lambda head, tail: head + tail, plain, rest)


_SHAPES: Sequence[st.SearchStrategy[list[Any]]] = (
    _shape(1, st.sampled_from(("cumulus", "realm1", "", None)), _HELLO),
    _shape(2, _IDS, _DETAILS),
    _shape(3, _DETAILS, _REASONS),
    _shape(4, st.sampled_from(("ticket", "x")), _DETAILS),
    _shape(5, _SIGNATURES, _DETAILS),
    _shape(6, _DETAILS, _REASONS),
    _shape(8, st.sampled_from((68, 48, 32, 64, 16, 0)), _IDS, _DETAILS, _REASONS, payload=True),
    _shape(16, _GOOD_IDS, _DETAILS, _HEARD, payload=True),
    _shape(17, _IDS, _IDS),
    _shape(32, _GOOD_IDS, _DETAILS, _HEARD),
    _shape(33, _IDS, _IDS),
    _shape(34, _GOOD_IDS, _IDS),
    _shape(35, _IDS),
    _shape(36, _IDS, _IDS, _DETAILS, payload=True),
    _shape(48, _GOOD_IDS, _DETAILS, _CALLED, payload=True),
    _shape(48, st.integers(1, 99), st.just({"receive_progress": True}), _CALLED, payload=True),
    _shape(49, _GOOD_IDS, _DETAILS),
    _shape(50, _IDS, _DETAILS, payload=True),
    _shape(64, _GOOD_IDS, _DETAILS, _CALLED),
    _shape(65, _IDS, _IDS),
    _shape(66, _GOOD_IDS, _IDS),
    _shape(67, _IDS),
    _shape(68, _IDS, _IDS, _DETAILS, payload=True),
    _shape(69, _IDS, _DETAILS),
    _shape(70, _GOOD_IDS, _DETAILS, payload=True),
)
#: What a joined client may send.
_ALLOWED = (7, 9, 11, 14, 15, 16, 18, 20, 24)

_NUMBERS = st.integers(1, 6)
_ARGUMENTS = st.one_of(
    st.just([]),
    st.just([[1, "two"]]),
    st.just([[], {"count": 2, "job_id": "j1"}]),
    st.tuples(st.lists(values(_KWARGS), max_size=2), objects(_KWARGS)).map(list),
)
_LISTS = st.lists(st.integers(1, 1 << 53), max_size=3)
_NAMES = st.lists(st.sampled_from(("anonymous", "client", "admin", "x")), max_size=3)
_FLAG = st.booleans()


def _options(**likely: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.just({}) | st.fixed_dictionaries({}, optional=likely)


def valid_messages(uris: Sequence[str]) -> st.SearchStrategy[list[Any]]:
    """What a joined client may send, whole; only the order may be odd, and the ids used already."""
    uri = st.sampled_from(uris)
    match = st.sampled_from(("exact", "prefix", "wildcard"))
    call = _options(
        receive_progress=_FLAG, timeout=st.sampled_from((0, 1, 5000)), disclose_me=_FLAG
    )
    publish = _options(
        acknowledge=_FLAG, exclude_me=_FLAG, disclose_me=_FLAG, exclude=_LISTS, eligible=_LISTS,
        exclude_authid=_NAMES, eligible_authid=_NAMES, exclude_authrole=_NAMES,
        eligible_authrole=_NAMES,
    )  # fmt: skip

    def message(type_id: int, *fields: Any, arguments: bool = False) -> Any:
        head = st.tuples(st.just(type_id), *fields).map(list)
        return st.builds(lambda one, rest: one + rest, head, _ARGUMENTS) if arguments else head

    register = message(64, _NUMBERS, _options(match=match, disclose_caller=_FLAG), uri)
    subscribe = message(32, _NUMBERS, _options(match=match), uri)
    calls = message(48, _NUMBERS, call, uri, arguments=True)
    yields = message(70, _NUMBERS, _options(progress=_FLAG), arguments=True)
    return st.one_of(
        register,
        register,
        subscribe,
        calls,
        calls,
        calls,
        yields,
        yields,
        message(16, _NUMBERS, publish, uri, arguments=True),
        message(66, _NUMBERS, _NUMBERS),
        message(34, _NUMBERS, _NUMBERS),
        message(49, _NUMBERS, _options(mode=st.sampled_from(("skip", "kill", "killnowait")))),
        message(8, st.just(68), _NUMBERS, st.just({}), st.just("a.error"), arguments=True),
    )


ANY_MESSAGE = st.one_of(*_SHAPES)
LIKELY_MESSAGE = st.one_of(*(_SHAPES[index] for index in _ALLOWED))
MESSAGE = LIKELY_MESSAGE | LIKELY_MESSAGE | LIKELY_MESSAGE | ANY_MESSAGE


def as_json(message: Any) -> bytes:
    """As Python writes it: with NaN, and what is no text as escapes."""
    return json.dumps(message).encode()
