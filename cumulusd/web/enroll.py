"""`POST /provision/enroll`: a worker's node redeems its provisioning token."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from cumulusd.errors import CumulusError, InvalidArgument, NotFound, TooMany
from cumulusd.web.answers import Answer, error_answer, json_answer, unknown_error

PATH = b"/provision/enroll"
#: Enough for the token and a node's id.
MAX_ENROLL_BYTES = 4096
MAX_TEXT = 200
#: Requests under way at a time; each costs the daemon a few calls to the engine.
MAX_UNDER_WAY = 16

#: `enroll(token, node_id)`: what is answered. Raises CumulusError.
Enroll = Callable[[str, str], Awaitable[dict[str, Any]]]


class EnrollResource(Resource):
    """Decodes, asks, answers. Whoever has the token needs no other."""

    isLeaf = True
    _log = Logger()

    def __init__(self, enroll: Enroll) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._enroll = enroll
        self._under_way = 0

    def render(self, request: Request) -> int:
        """Answers later; when the asker leaves meanwhile, the work is cancelled."""
        working = Deferred.fromCoroutine(self._work(request))
        gone: list[object] = []

        def left(reason: Failure) -> None:
            gone.append(reason)
            working.cancel()

        request.notifyFinish().addErrback(left)

        def ended(answer: Answer | Failure) -> None:
            if isinstance(answer, Failure):
                if not answer.check(CancelledError):  # type: ignore[no-untyped-call]
                    self._log.failure("answering {path} failed", answer, path=PATH.decode())
                return
            if not gone:
                _write(request, answer)

        working.addBoth(ended)
        return NOT_DONE_YET

    async def _work(self, request: Request) -> Answer:
        if request.postpath not in ([], [b""]):
            return error_answer(NotFound(f"There is nothing below {PATH.decode()}"))
        if request.method != b"POST":
            answer = error_answer(InvalidArgument(f"{PATH.decode()} takes POST only"))
            return Answer(status=405, body=answer.body, headers={"Allow": "POST"})
        self._under_way += 1
        try:
            if self._under_way > MAX_UNDER_WAY:
                raise TooMany(f"{MAX_UNDER_WAY} nodes are being enrolled", hint="try again soon")
            body = b"" if request.content is None else request.content.read(MAX_ENROLL_BYTES + 1)
            token, node_id = read_body(body)
            return json_answer(await self._enroll(token, node_id))
        except CancelledError:
            raise
        except CumulusError as error:
            self._log.warn("a node was not enrolled: {why}", why=error.message)
            return error_answer(error)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            return error_answer(unknown_error(self._log, failure, f"POST {PATH.decode()}", None))
        finally:
            self._under_way -= 1


def read_body(body: bytes) -> tuple[str, str]:
    """(token, node id). Raises InvalidArgument with every fault; the token is never repeated."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidArgument('The body must be JSON: {"token": "…", "node_id": "…"}') from None
    if not isinstance(value, dict):
        raise InvalidArgument('The body must be an object: {"token": "…", "node_id": "…"}')
    faults = [
        {"key": key[:MAX_TEXT], "message": "is not known"}
        for key in value
        if key not in ("token", "node_id")
    ]
    for key in ("token", "node_id"):
        text = value.get(key)
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or not text:
            faults.append({"key": key, "message": "must be a text"})
        elif len(text) > MAX_TEXT:
            faults.append({"key": key, "message": f"must be at most {MAX_TEXT} characters"})
    if faults:
        words = "; ".join(f"{fault['key']} {fault['message']}" for fault in faults[:20])
        raise InvalidArgument(f"The body is wrong: {words}", details={"faults": faults[:20]})
    return value["token"], value["node_id"]


def _write(request: Request, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    request.setHeader("Content-Type", answer.content_type)  # type: ignore[no-untyped-call]
    request.setHeader("Content-Length", str(len(answer.body)))  # type: ignore[no-untyped-call]
    request.setHeader("Cache-Control", "no-store")  # type: ignore[no-untyped-call]
    for name, text in answer.headers.items():
        request.setHeader(name, text)  # type: ignore[no-untyped-call]
    request.write(answer.body)  # type: ignore[no-untyped-call]
    request.finish()  # type: ignore[no-untyped-call]
