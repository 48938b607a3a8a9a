"""Where Crossbar answers otherwise than the black-box suite expects, and why ours is right.

(group, name of the case) -> (Crossbar's outcome, one sentence).
"""

from collections.abc import Mapping
from types import MappingProxyType

_CANCELED = "ERROR CALL wamp.error.canceled"
_SAYS_NOTHING = (
    "The specification answers a violation of the protocol by ABORT with "
    "`wamp.error.protocol_violation`, and the text in it tells a client's author what was wrong; "
    "Crossbar closes the connection without a WAMP message."
)
_WAITS = (
    "A message that must not come in this state is a violation and ends the session by ABORT; "
    "Crossbar ignores it and lets the connection stand, which costs a router memory for nothing."
)
_LEAVES_CLOSING = (
    "A session that is over needs no connection, and a client that never closes would hold one; "
    "Crossbar leaves closing to the client."
)
_NO_URI = (
    "A request that names no URI is answered by ERROR with `wamp.error.invalid_uri`, as the "
    "specification lists it, and harms nothing else of the session; Crossbar closes the connection."
)
_CREDENTIALS = (
    "Who failed to prove who they are is not authenticated; `not_authorized` is of those who did "
    "and may not do something."
)
_NOT_ANNOUNCED = (
    "By decision: an option of a feature that WELCOME doesn't announce is refused, not ignored."
)
_DISCLOSES = (
    "The specification discloses on the request's own `disclose_me`, which Crossbar ignores: there "
    "only its configuration tells."
)
_BOUNDS = (
    "By decision: what one session may hold is bounded, and what is over the bound is told by its "
    "own error; Crossbar has no such bound."
)

_SILENT = ["over"]
_WRONG = "wrong messages"
_DUMB = [
    ("calls", "cancel in a mode nobody knows"),
    ("patterns", "a way to match that nobody knows"),
    ("sessions", "HELLO without roles"),
    ("sessions", "HELLO to something that is no URI"),
    ("sessions", "AUTHENTICATE nobody asked for"),
    ("sessions", "WELCOME is not for a client to send"),
    ("WebSocket", "text in a binary serialisation, binary in JSON"),
    (_WRONG, "bytes that are no value"),
    (_WRONG, "an empty message"),
    (_WRONG, "a value that is no list"),
    (_WRONG, "an empty list"),
    (_WRONG, "a type that is no number"),
    (_WRONG, "a type nobody knows"),
    (_WRONG, "a message that is too short"),
    (_WRONG, "a message that is too long"),
    (_WRONG, "options that are no dictionary"),
    (_WRONG, "arguments that are no list"),
    (_WRONG, "keyword arguments that are no dictionary"),
    (_WRONG, "a request id that is text"),
    (_WRONG, "a negative request id"),
    (_WRONG, "a request id above 2**53"),
    (_WRONG, "an option of a wrong type"),
    (_WRONG, "a negative timeout"),
    (_WRONG, "a RESULT is not for a client to send"),
    (_WRONG, "an EVENT is not for a client to send"),
    (_WRONG, "an INVOCATION is not for a client to send"),
    (_WRONG, "an ERROR of a CALL is not for a client to send"),
    (_WRONG, "an error URI that is none"),
    ("limits", "lists in lists, 30,000 deep"),
]
_ONE_ANSWERED = ["over", "over", "ERROR SUBSCRIBE wamp.error.invalid_uri", "over"]
_BAD_URIS = ["a URI with a space", "a URI with a #", "a URI that is a number"]
_EMPTY_COMPONENTS = ["a URI with an empty component", "a URI that ends in a dot", "an empty URI"]

_ALL: dict[tuple[str, str], tuple[list[str], str]] = {
    **dict.fromkeys(_DUMB, (_SILENT, _SAYS_NOTHING)),
    **{(_WRONG, name): (["over"] * 4, _NO_URI) for name in _BAD_URIS},
    **{
        (_WRONG, name): (
            ["over", "over", "ERROR SUBSCRIBE wamp.error.invalid_uri", "over"],
            _NO_URI,
        )
        for name in _EMPTY_COMPONENTS
    },
    ("calls", "progressive results that nobody asked for"): (
        ["RESULT {'progress': True} [0]"],
        "A caller that didn't ask takes the first RESULT for the last one; a progressive one must "
        "not come to it.",
    ),
    ("calls", "cancel skip: the callee isn't told, its late result is dropped"): (
        ["nothing comes", "to the callee: ", "to the caller: "],
        "Skip ends the call for its caller at once, by ERROR; in Crossbar it waits for ever.",
    ),
    ("calls", "cancel kill where the callee can't be interrupted is skip"): (
        ["nothing comes", "to the callee: "],
        "Skip ends the call for its caller at once, by ERROR; in Crossbar it waits for ever.",
    ),
    ("calls", "cancel kill: the caller has the callee's own error"): (
        ["INTERRUPT {'mode': 'kill'}", "", _CANCELED],
        "With kill the caller waits for what the callee says of its end; Crossbar puts an error of "
        "its own in its place.",
    ),
    ("calls", "cancel kill: the callee had its result ready"): (
        ["INTERRUPT {'mode': 'kill'}", _CANCELED],
        "A result that crossed the INTERRUPT is the call's result: the work was done.",
    ),
    ("calls", "cancel without a mode is killnowait"): (
        [_CANCELED, "INTERRUPT"],
        "The default mode is killnowait, and the callee may be told it; both are permitted.",
    ),
    ("calls", "a call that its callee doesn't answer in time"): (
        ["nothing comes", "nothing comes"],
        "A timeout is given in milliseconds; Crossbar takes them for seconds.",
    ),
    ("calls", "another session's answer to an invocation"): (
        ["to the forger: over", "RESULT ['mine']"],
        "An answer to what isn't in flight for this session can be one that crossed an INTERRUPT, "
        "so ours ignores it, as the specification says of late ones; neither lets it through.",
    ),
    ("calls", "a request id that is still in flight"): (
        ["still open"],
        "Two calls of one id could not be told apart in their answers: a violation.",
    ),
    ("calls", "a caller that wants to be known"): (["nobody"], _DISCLOSES),
    ("events", "a publisher that wants to be known"): (["nobody"], _DISCLOSES),
    ("calls", "shared registration, which we don't announce"): (["REGISTERED"], _NOT_ANNOUNCED),
    ("events", "retained events, which we don't announce"): (["PUBLISHED"], _NOT_ANNOUNCED),
    ("events", "eligible: an empty list"): (
        ["PUBLISHED", "first"],
        "Eligible are those on the list, and on an empty one is nobody; Crossbar sends to all, "
        "which is the worst reading of a white list.",
    ),
    ("meta API", "session.kill of oneself"): (
        ["RESULT [None]"],
        "The specification refuses it with `wamp.error.no_such_session`.",
    ),
    ("meta API", "a meta procedure without its argument"): (
        ["ERROR CALL wamp.error.runtime_error"],
        "It is the caller's mistake, not a fault of the router.",
    ),
    ("sessions", "a wrong ticket"): (
        ["CHALLENGE ticket", "ABORT wamp.error.not_authorized", "over"],
        _CREDENTIALS,
    ),
    ("sessions", "a ticket for nobody's name"): (
        ["ABORT wamp.error.not_authorized", "over"],
        "Whether a name exists is not for strangers to learn: both wrong names and wrong tickets "
        "are challenged, and refused alike.",
    ),
    ("sessions", "an unknown authentication method"): (
        ["ABORT wamp.error.not_authorized", "over"],
        "The client is told that no method of its is offered here, so that it can offer another.",
    ),
    ("sessions", "HELLO twice"): (["still open"], _WAITS),
    ("sessions", "HELLO again instead of AUTHENTICATE"): (
        ["CHALLENGE ticket", "ABORT wamp.error.no_auth_method", "over"],
        "A second HELLO is a violation at any time; Crossbar begins anew.",
    ),
    ("sessions", "CALL instead of AUTHENTICATE"): (["CHALLENGE ticket", "still open"], _WAITS),
    ("sessions", "ABORT instead of AUTHENTICATE"): (
        ["CHALLENGE ticket", "still open"],
        _LEAVES_CLOSING,
    ),
    ("sessions", "CALL before HELLO"): (["still open"], _WAITS),
    ("sessions", "GOODBYE before HELLO"): (["still open"], _WAITS),
    ("sessions", "AUTHENTICATE before HELLO"): (
        ["ABORT wamp.error.not_authorized", "over"],
        "Nothing was asked: it is the order that is wrong.",
    ),
    ("sessions", "GOODBYE is answered"): (
        ["GOODBYE wamp.close.normal", "over"],
        "The specification names `wamp.close.goodbye_and_out` for the answer to a GOODBYE.",
    ),
    ("sessions", "what comes after GOODBYE is ignored"): (
        ["GOODBYE wamp.close.normal", "over"],
        "The specification names `wamp.close.goodbye_and_out` for the answer to a GOODBYE.",
    ),
    ("sessions", "the connection after ABORT"): (["still open"], _LEAVES_CLOSING),
    ("sessions", "the connection after GOODBYE"): (["still open"], _LEAVES_CLOSING),
    **dict.fromkeys(
        [
            ("WebSocket", "a close frame with a code that must not be sent"),
            ("WebSocket", "a close frame of one byte"),
        ],
        (["cut"], "RFC 6455 (7.1.7) wants a close frame that says 1002; Crossbar cuts the line."),
    ),
    ("WebSocket", "a page of another origin"): (
        ["101"],
        "By decision: a page of any site could use what its visitor may; Crossbar permits all "
        "origins unless its configuration names some.",
    ),
    (_WRONG, "a request id of 0"): (
        ["ERROR CALL wamp.error.no_such_procedure", "still open"],
        "Ids are from 1 to 2**53.",
    ),
    ("limits", "a URI of 300 characters"): (
        ["ERROR CALL wamp.error.no_such_procedure", "REGISTERED", "SUBSCRIBED", "PUBLISHED"],
        _BOUNDS,
    ),
    ("limits", "300 calls in flight"): (["300 INVOCATION"], _BOUNDS),
    ("limits", "70 registrations of one session"): (["70 REGISTERED"], _BOUNDS),
}
DIFFERENCES: Mapping[tuple[str, str], tuple[list[str], str]] = MappingProxyType(_ALL)
