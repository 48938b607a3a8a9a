"""Requests' bodies as they come: small ones kept, jobs' code streamed to disk.

A body is opened when its request's headers are here, and judged by them; then it is given what
comes, until it is whole, too much, too slow or lost.
"""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.errors import CumulusError, InvalidArgument, TooLarge
from cumulusd.tasks import Signal
from cumulusd.web.answers import TooSlow, unknown_error
from cumulusd.web.job_forms import FILE_FIELD, PostedJob, of_form, of_json
from cumulusd.web.multipart import Form

#: Written to the disk at once, in a thread; with as much beside it the sender has to wait.
WRITE_BYTES = 1 << 20
#: What an upload has to bring on the average, after its first `GRACE_S`.
MIN_BYTES_A_S = 4096
GRACE_S = 60.0
_LOOK_S = 10.0
#: A job as JSON, its code in it as base64.
MAX_JSON_BYTES = 4 << 20


class Flow(Protocol):
    """The connection that a body comes over."""

    def pause(self) -> None:
        """Nothing more for now."""

    def resume(self) -> None:
        """More is welcome."""

    def fail(self, error: CumulusError) -> None:
        """The request is answered with that; nothing more comes."""


class Upload(Protocol):
    """What `Relay.receive` gives."""

    async def write(self, data: bytes | bytearray) -> None: ...
    async def commit(self) -> tuple[str, int]: ...
    def discard(self) -> None: ...


class Body(Protocol):
    """What takes a body. `received` may raise CumulusError: the request is refused."""

    def received(self, data: bytes) -> None:
        """The next bytes."""

    def lost(self) -> None:
        """Nothing more comes, and nobody wants it: leaves nothing behind. May be called again."""


class JobBody(Body, Protocol):
    """One that is a job."""

    async def job(self) -> PostedJob:
        """The job, when all has come; its package is in the store. Raises CumulusError."""


class IgnoredBody:
    """What nobody reads, in bounds."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._max_bytes = max_bytes

    def received(self, data: bytes) -> None:
        """Counts."""
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(f"The body is over {self._max_bytes} bytes")

    def lost(self) -> None:
        """There is nothing."""


class SmallBody:
    """One that is kept as it is, in bounds; `data` is what came."""

    def __init__(self, max_bytes: int) -> None:
        self.data = bytearray()
        self._max_bytes = max_bytes

    def received(self, data: bytes) -> None:
        """Keeps it."""
        if len(self.data) + len(data) > self._max_bytes:
            raise TooLarge(f"The body is over {self._max_bytes} bytes")
        self.data += data

    def lost(self) -> None:
        """Drops it: a token may be in it."""
        self.data.clear()


class JsonJob:
    """A job as one JSON object; `code` in it is the package as base64."""

    def __init__(self, make_upload: Callable[[], Upload], flow: Flow, clock: Any) -> None:
        self._make_upload = make_upload
        self._data = bytearray()
        self._pace = _Pace(clock, flow.fail)

    def received(self, data: bytes) -> None:
        """Keeps it."""
        self._pace.received(len(data))
        if len(self._data) + len(data) > MAX_JSON_BYTES:
            raise TooLarge(
                f"A job as JSON may have {MAX_JSON_BYTES} bytes",
                hint="send larger code as multipart/form-data, or over the client",
            )
        self._data += data

    def lost(self) -> None:
        """Drops it."""
        self._pace.end()
        self._data.clear()

    async def job(self) -> PostedJob:
        """The job, its code stored."""
        self._pace.end()
        try:
            value = json.loads(self._data)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"The body is no JSON: {error}") from None
        self._data.clear()
        if not isinstance(value, dict):
            raise InvalidArgument("The body must be an object with the job's fields")
        code = value.pop(FILE_FIELD, None)
        posted = of_json(value)
        if code is None:
            return posted
        if "package" in value:
            return _with_fault(posted, "is given beside package: send one of them")
        try:
            data = base64.b64decode(code, validate=True)
        except (binascii.Error, ValueError, TypeError):
            return _with_fault(posted, "must be a zip file as base64")
        upload = self._make_upload()
        try:
            if data:
                await upload.write(data)
            return _with_package(posted, *await upload.commit())
        finally:
            upload.discard()


class FormJob:
    """A job as a multipart form, as old clients send it: the code goes to disk as it comes."""

    _log = Logger()

    def __init__(self, form: Form, upload: Upload, flow: Flow, clock: Any, max_bytes: int) -> None:
        """`max_bytes`: of all of it, also of what is dropped."""
        self._form = form
        self._upload = upload
        self._flow = flow
        self._pending = bytearray()
        self._is_writing = False
        self._written = Signal()
        self._whole = False
        self._paused = False
        self._error: CumulusError | None = None
        self._max_bytes = max_bytes
        self._left_bytes = max_bytes
        self._pace = _Pace(clock, self._fail)

    def received(self, data: bytes) -> None:
        """Parses it; the sender waits while the disk does."""
        self._pace.received(len(data))
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise TooLarge(f"The form is over {self._max_bytes} bytes")
        for part in self._form.feed(data):
            self._pending += part
        if len(self._pending) < WRITE_BYTES:
            return
        if not self._is_writing:
            self._write()
        elif not self._paused:
            self._paused = True
            self._flow.pause()

    def lost(self) -> None:
        """Leaves nothing on the disk."""
        self._pace.end()
        self._pending.clear()
        self._upload.discard()

    async def job(self) -> PostedJob:
        """The job, its code stored."""
        self._pace.end()
        self._whole = True
        try:
            if not self._is_writing:
                self._write()
            while self._is_writing:
                await self._written.wait()
            if self._error is not None:
                raise self._error
            self._form.end()
            posted = of_form(self._form.fields, self._form.faults)
            if not self._form.has_file:
                return _with_fault(posted, "is required: the package, a zip file")
            return _with_package(posted, *await self._upload.commit())
        finally:
            self._upload.discard()

    def _write(self) -> None:
        self._is_writing = True
        Deferred.fromCoroutine(self._write_pending())

    async def _write_pending(self) -> None:
        """Until too little is left to be worth a thread's while, or all is written."""
        try:
            while self._pending and (self._whole or len(self._pending) >= WRITE_BYTES):
                data, self._pending = self._pending, bytearray()
                self._go_on()
                await self._upload.write(data)
        except CumulusError as error:
            self._fail(error)
        except Exception:
            # Nobody cancels this.
            failure = Failure()  # type: ignore[no-untyped-call]
            self._fail(unknown_error(self._log, failure, "storing an upload", None))
        finally:
            self._is_writing = False
            self._go_on()
            self._written.fire()

    def _go_on(self) -> None:
        if self._paused:
            self._paused = False
            self._flow.resume()

    def _fail(self, error: CumulusError) -> None:
        self._error = error
        self.lost()
        self._flow.fail(error)


class _Pace:
    """Ends uploads that keep their place for ever with a byte now and then."""

    def __init__(self, clock: Any, fail: Callable[[CumulusError], None]) -> None:
        self._clock = clock
        self._fail = fail
        self._received_bytes = 0
        self._began_at = clock.seconds()
        self._timer: Any = clock.callLater(_LOOK_S, self._look)

    def received(self, size_bytes: int) -> None:
        """So much came."""
        self._received_bytes += size_bytes

    def end(self) -> None:
        """It is whole, or nobody waits for it any more. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self._clock.callLater(_LOOK_S, self._look)
        took_s = self._clock.seconds() - self._began_at
        if self._received_bytes < (took_s - GRACE_S) * MIN_BYTES_A_S:
            self.end()
            self._fail(
                TooSlow(
                    f"{self._received_bytes} bytes came in {took_s:.0f} s; after the first "
                    f"{GRACE_S:g} s at least {MIN_BYTES_A_S} a second have to"
                )
            )


def _with_package(posted: PostedJob, sha256: str, size_bytes: int) -> PostedJob:
    package = {"sha256": sha256, "size_bytes": size_bytes}
    return attrs.evolve(posted, spec={**posted.spec, "package": package})


def _with_fault(posted: PostedJob, message: str) -> PostedJob:
    fault = {"key": FILE_FIELD, "message": message}
    # The package isn't to be missed a second time, under a name that the sender doesn't know.
    posted = _with_package(posted, "0" * 64, 1)
    return attrs.evolve(posted, faults=(*posted.faults, fault))
