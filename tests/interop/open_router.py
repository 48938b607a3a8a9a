"""The daemon's router and transport alone, open to whatever WAMP clients do: for the black-box
suite, the fuzzer and the benchmark. Run as `python -m tests.interop.open_router`.
"""

import argparse
import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.log import startLoggingWithObserver
from twisted.web.resource import Resource
from twisted.web.server import Site

from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.protocol.authorize import ANYTHING, Action
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.router import Router

reactor: Any = _reactor

#: Every role may do everything.
OPEN = {(role, action): (ANYTHING,) for role in Role for action in Action}
#: A procedure of the router's own: gives back its keyword arguments.
ECHO = "bench.echo"
#: The same with `count` progressive results `{data}` of `size_bytes` before.
STREAM = "bench.stream"


async def echo(call: Call) -> dict[str, Any]:
    return call.kwargs


async def stream(call: Call) -> dict[str, Any]:
    data = "x" * call.kwargs["size_bytes"]
    for _ in range(call.kwargs["count"]):
        await call.progress({"data": data})
    return {}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=0)
    options.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="NAME:ROLE:TOKEN",
        help="who may join by ticket; without any, everybody may, anonymously",
    )
    options.add_argument(
        "--messages-per-s",
        type=float,
        default=0.0,
        help="bound of one session's messages; 0: none (the daemon's own is 2000)",
    )
    tokens = []
    chosen = options.parse_args()
    for text in chosen.token:
        name, role, token = text.split(":", 2)
        tokens.append((hash_token(token), Principal(name=name, owner=name, role=Role(role))))
    # Warnings and worse, to be looked for.
    startLoggingWithObserver(_tell_faults, setStdout=False)
    router = Router(
        clock=reactor,
        authenticator=Authenticator(tokens),
        allowed=OPEN,
        # Measured as fast as it goes, and compared with routers that have no such bound.
        limits=Limits(max_messages_per_s=chosen.messages_per_s),
    )
    router.local().register(ECHO, echo)
    router.local().register(STREAM, stream)
    root = Resource()
    root.putChild(b"ws", router.websocket_resource())
    site = Site(root)
    site.noisy = False
    port = reactor.listenTCP(chosen.port, site, interface="127.0.0.1", backlog=1024)
    print(f"listening on 127.0.0.1:{port.getHost().port}", flush=True)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: _stop(router))
    reactor.run()


def _stop(router: Router) -> "Deferred[None]":
    return ensureDeferred(router.stop(1.0))


def _tell_faults(event: Any) -> None:
    if event.get("isError"):
        print(event.get("log_text") or event.get("failure") or event, file=sys.stderr, flush=True)
        failure = event.get("log_failure")
        if failure is not None:
            failure.printTraceback(sys.stderr)


if __name__ == "__main__":
    main()
