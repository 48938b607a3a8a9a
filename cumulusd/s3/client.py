"""S3 over HTTP: signed by botocore, sent by treq, read within bounds."""

from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree

import attrs
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss

from cumulusd.errors import Unavailable
from cumulusd.s3.access import Access
from cumulusd.tasks import cancellable, sleep, wait_at_most

DEADLINE_S = 30.0
#: A listing's thousand keys of a kilobyte each, escaped.
MAX_BODY_BYTES = 8 << 20
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.5
_PAGE = 1000
_AGAIN = frozenset({429, 500, 502, 503, 504})
_LOST = (
    ConnectError,
    ConnectionClosed,
    ResponseFailed,
    ResponseNeverReceived,
    RequestTransmissionFailed,
    OSError,
)


@attrs.frozen(kw_only=True)
class Listing:
    """One page."""

    keys: tuple[str, ...]
    prefixes: tuple[str, ...]  #: what the keys begin with, up to the delimiter
    next_page: str | None


class S3Client:
    """Lists and removes in one bucket. All it does may be repeated. `close` it.

    Every call raises Unavailable when S3 can't be reached or refuses, after some attempts.
    """

    def __init__(self, access: Access, reactor: Any) -> None:
        self._access = access
        self._reactor = reactor
        self._pool = HTTPConnectionPool(  # type: ignore[no-untyped-call]
            reactor, persistent=True
        )
        self._http = HTTPClient(Agent(reactor, pool=self._pool))  # type: ignore[no-untyped-call]
        self._credentials = Credentials(access.access_key, access.secret_key)
        self.name = f"s3://{access.bucket}"
        if access.endpoint_url is not None:
            self._base = f"{access.endpoint_url}/{access.bucket}"
        elif "." in access.bucket:  # Amazon's certificate has no names with further dots
            self._base = f"https://s3.{access.region}.amazonaws.com/{access.bucket}"
        else:
            self._base = f"https://{access.bucket}.s3.{access.region}.amazonaws.com"

    async def close(self) -> None:
        """Fires when idle connections are closed."""
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    async def listing(
        self, prefix: str, *, folders: bool = False, page: str | None = None
    ) -> Listing:
        """The keys that begin so; with `folders`, what of them comes up to the next slash."""
        params = {"list-type": "2", "prefix": prefix, "max-keys": str(_PAGE)}
        params["encoding-type"] = "url"
        if folders:
            params["delimiter"] = "/"
        if page is not None:
            params["continuation-token"] = page
        root = await self._xml("GET", "", params)
        return Listing(
            keys=tuple(_texts(root, "Contents", "Key")),
            prefixes=tuple(_texts(root, "CommonPrefixes", "Prefix")),
            next_page=_text(root, "NextContinuationToken"),
        )

    async def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """(key, id) of uploads in parts that were never ended; a page of them."""
        params = {"uploads": "", "prefix": prefix, "encoding-type": "url"}
        root = await self._xml("GET", "", params)
        return list(
            zip(_texts(root, "Upload", "Key"), _texts(root, "Upload", "UploadId"), strict=True)
        )

    async def delete(self, key: str) -> None:
        """Removes an object; one that isn't there is no fault."""
        await self._call("DELETE", "/" + quote(key), {})

    async def abort(self, key: str, upload_id: str) -> None:
        """Drops the parts of an upload; one that isn't there is no fault."""
        await self._call("DELETE", "/" + quote(key), {"uploadId": upload_id})

    # -- inside

    async def _xml(self, method: str, path: str, params: Mapping[str, str]) -> ElementTree.Element:
        body = await self._call(method, path, params)
        try:
            return ElementTree.fromstring(body)
        except ElementTree.ParseError as error:
            raise Unavailable(
                f"{self.name} answered with no XML ({error})",
                hint="is `s3.endpoint_url` an S3 server's?",
            ) from error

    async def _call(self, method: str, path: str, params: Mapping[str, str]) -> bytes:
        """The body of the answer."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await sleep(self._reactor, _FIRST_PAUSE_S * 2**attempt)
            last = attempt == _ATTEMPTS - 1
            try:
                status, body = await self._once(method, path, params)
            except _LOST as error:
                if last:
                    self._away(f"{type(error).__name__}: {error}", error)
                continue
            if status < 300 or (method == "DELETE" and status == 404):
                return body
            if status not in _AGAIN or last:
                self._refused(method, status, body)
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, method: str, path: str, params: Mapping[str, str]) -> tuple[int, bytes]:
        query = urlencode(sorted(params.items()), quote_via=quote)
        url = self._base + (path or "/") + (f"?{query}" if query else "")
        request = AWSRequest(method=method, url=url, data=b"")
        # botocore reads the wall clock: a signature is good for some minutes around it.
        S3SigV4Auth(self._credentials, "s3", self._access.region).add_auth(request)
        headers: dict[bytes | str, bytes | str] = {
            str(name): str(value) for name, value in request.headers.items()
        }
        asking = self._http.request(
            method, url, headers=headers, allow_redirects=False, unbuffered=True
        )
        answer = await wait_at_most(self._reactor, DEADLINE_S, Deferred.fromCoroutine(_all(asking)))
        if answer is None:
            self._away(f"no answer in {DEADLINE_S:.0f} s", None)
        return answer

    def _away(self, why: str, cause: Exception | None) -> NoReturn:
        raise Unavailable(
            f"{self.name} can't be reached: {why}",
            hint="look at `s3.endpoint_url` and at the S3 server",
        ) from cause

    def _refused(self, method: str, status: int, body: bytes) -> NoReturn:
        try:
            root = ElementTree.fromstring(body)
            why = f"{_text(root, 'Code') or status}: {_text(root, 'Message') or ''}"
        except ElementTree.ParseError:
            why = f"HTTP status {status}"
        raise Unavailable(
            f"{self.name} refused to {'list' if method == 'GET' else 'remove'}: {why[:500]}",
            hint="the key of `s3` needs the rights to list and to delete in the bucket",
        )


async def _all(asking: Deferred[Any]) -> tuple[int, bytes]:
    """Status and body of the answer. Raises Unavailable for one that is too long."""
    response = await cancellable(asking)
    body = _Body()
    response.deliverBody(body)
    await body.ended
    return int(response.code), b"".join(body.parts)


class _Body(Protocol):
    """Gathers a body, up to its bound; `ended` fires when it is over, however that came."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._left = MAX_BODY_BYTES
        self._aborted = False
        self.ended: Deferred[None] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        """Twisted's."""
        self._left -= len(data)
        if self._left >= 0:
            self.parts.append(data)
        elif not self._aborted:
            self._abort()
            self.ended.errback(Unavailable(f"S3 answered with over {MAX_BODY_BYTES} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: the body is whole, or the connection was lost."""
        if self._aborted:
            return  # our own doing
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self.ended.callback(None)
        else:
            self.ended.errback(reason)

    def _abort(self) -> None:
        self._aborted = True
        if self.transport is not None:
            # Of all that a response's transport offers, this closes the connection at once.
            self.transport.stopProducing()  # type: ignore[attr-defined]


def _local(element: ElementTree.Element) -> str:
    """Its name without the namespace, which not every server gives."""
    return element.tag.rpartition("}")[2]


def _text(root: ElementTree.Element, name: str) -> str | None:
    for child in root:
        if _local(child) == name:
            return child.text
    return None


def _texts(root: ElementTree.Element, outer: str, name: str) -> list[str]:
    found = [_text(child, name) for child in root if _local(child) == outer]
    # Asked to, servers quote keys, which may hold what XML can't; those that don't say nothing.
    quoted = _text(root, "EncodingType") == "url" and name != "UploadId"
    return [unquote_plus(text) if quoted else text for text in found if text is not None]
