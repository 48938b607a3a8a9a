"""The daemon's S3 client against a real server that checks signatures and rights."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.logger import capturedLogs
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from cumulusd.config_s3 import S3Section
from cumulusd.doctor import bucket
from cumulusd.errors import Unavailable
from cumulusd.s3 import client as client_module
from cumulusd.s3.access import Access
from cumulusd.s3.client import S3Client
from cumulusd.s3.janitor import Fate, Janitor
from cumulusd.tasks import sleep, wait_at_most
from tests.s3_server import BUCKET, REGION, S3Server, s3_server

#: Keys that are easily signed, sent or read wrongly.
NASTY = (
    "p/plain",
    "p/with space",
    "p/a+b=c&d",
    "p/é-ü-漢",
    "p/100%25",
    "p/(x)!*'",
    "p/tail/",
    "p/a//b",
    "p/~tilde;semi,comma:colon@at$",
    "p/<xml>\t",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(running: S3Server) -> S3Server:
    running.clear()
    return running


def access(server: S3Server, **changes: Any) -> Access:
    made = Access(
        bucket=BUCKET,
        region=REGION,
        endpoint_url=server.url,
        prefix="p/",
        access_key=server.access_key,
        secret_key=server.secret_key,
    )
    return attrs.evolve(made, **changes)


@pytest_twisted.async_yield_fixture()
async def client(s3: S3Server) -> AsyncIterator[S3Client]:
    made = S3Client(access(s3), reactor)
    yield made
    await made.close()


def put(server: S3Server, *keys: str) -> None:
    client = server.client()
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    client.close()


@pytest_twisted.ensureDeferred
async def test_every_key_is_listed_and_removed(s3: S3Server, client: S3Client) -> None:
    put(s3, *NASTY, "other/p")
    found = await client.listing("p/")
    assert sorted(found.keys) == sorted(NASTY) and found.next_page is None
    for key in found.keys:
        await client.delete(key)
    assert s3.keys() == ["other/p"]
    await client.delete("p/plain")


@pytest_twisted.ensureDeferred
async def test_pages_and_folders(
    s3: S3Server, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "p/job_1/a", "p/job_1/b", "p/job_2/c d", "p/job_3/x", "p/loose")
    monkeypatch.setattr(client_module, "_PAGE", 2)
    prefixes: list[str] = []
    keys: list[str] = []
    page, pages = None, 0
    while pages < 10:
        found = await client.listing("p/", folders=True, page=page)
        prefixes += found.prefixes
        keys += found.keys
        page, pages = found.next_page, pages + 1
        if page is None:
            break
    assert prefixes == ["p/job_1/", "p/job_2/", "p/job_3/"] and keys == ["p/loose"]
    assert pages > 1


@pytest_twisted.ensureDeferred
async def test_uploads_that_were_never_ended_are_dropped(s3: S3Server, client: S3Client) -> None:
    peer = s3.client()
    for key in ("p/a b", "q/c"):
        made = peer.create_multipart_upload(Bucket=BUCKET, Key=key)
        peer.upload_part(
            Bucket=BUCKET, Key=key, UploadId=made["UploadId"], PartNumber=1, Body=b"x" * 100
        )
    [(key, upload_id)] = await client.uploads("p/")
    assert key == "p/a b"
    await client.abort(key, upload_id)
    left = peer.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    peer.close()
    assert [one["Key"] for one in left] == ["q/c"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"secret_key": "wrong" * 8}, "SignatureDoesNotMatch"),
        ({"access_key": "AKIANOBODY"}, "InvalidAccessKeyId"),
        ({"bucket": "somebody-else-s"}, "AccessDenied|NoSuchBucket"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_refusal_says_why(s3: S3Server, changes: dict[str, str], why: str) -> None:
    refused = S3Client(access(s3, **changes), reactor)
    with pytest.raises(Unavailable, match=f"refused to list: ({why})") as caught:
        await refused.listing("p/")
    assert "rights" in str(caught.value.hint)
    await refused.close()


class Answers(Resource):
    """An HTTP server that isn't what S3 should be; by turns."""

    isLeaf = True

    def __init__(self, *answers: tuple[int, bytes] | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked = 0
        self.gone: Deferred[None] | None = None

    def render(self, request: Request) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            request.notifyFinish().addErrback(lambda _: None)
            return NOT_DONE_YET
        request.setResponseCode(answer[0])
        return answer[1]


@pytest_twisted.async_yield_fixture()
async def serving(s3: S3Server) -> AsyncIterator[Any]:
    ports = []
    clients = []

    async def serve(*answers: tuple[int, bytes] | None) -> tuple[Answers, S3Client]:
        resource = Answers(*answers)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(Site(resource))
        url = f"http://127.0.0.1:{port.getHost().port}"
        made = S3Client(access(s3, endpoint_url=url), reactor)
        ports.append(port)
        clients.append(made)
        return resource, made

    yield serve
    await sleep(reactor, 0)  # a connection goes back to its pool after the body's end
    for made in clients:
        await made.close()
    for port in ports:
        await port.stopListening()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_PAUSE_S", 0.001)


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_a_fault_that_passes_is_tried_again(serving: Any) -> None:
    resource, made = await serving((503, b""), (500, b"<Error/>"), (204, b""))
    await made.delete("p/x")
    assert resource.asked == 3


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_one_that_stays_is_told_after_some_attempts(serving: Any) -> None:
    body = b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
    resource, made = await serving((503, body))
    with pytest.raises(Unavailable, match="refused to remove: SlowDown: Reduce your rate"):
        await made.delete("p/x")
    assert resource.asked == 3
    resource, made = await serving((403, b"no xml"))
    with pytest.raises(Unavailable, match="HTTP status 403"):
        await made.delete("p/x")
    assert resource.asked == 1, "a refusal isn't tried again"


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_what_isn_t_s3_is_said(serving: Any) -> None:
    _, made = await serving((200, b"<html><body>hello"))
    with pytest.raises(Unavailable, match="answered with no XML"):
        await made.listing("p/")


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_who_isn_t_there_or_is_silent_is_given_up(
    serving: Any, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = S3Client(access(s3, endpoint_url="http://127.0.0.1:9"), reactor)
    with pytest.raises(Unavailable, match="can't be reached: ConnectionRefusedError"):
        await made.listing("p/")
    await made.close()
    monkeypatch.setattr(client_module, "DEADLINE_S", 0.2)
    _, made = await serving(None)
    with pytest.raises(Unavailable, match="no answer in"):
        await made.listing("p/")


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_who_ends_it_isn_t_taken_for_a_lost_connection(serving: Any) -> None:
    resource, made = await serving(None)
    asking = Deferred.fromCoroutine(made.listing("p/"))
    while not resource.asked:
        await sleep(reactor, 0.01)
    asking.cancel()
    with pytest.raises(CancelledError):
        await asking
    janitor = Janitor(made, access_of(made), reactor, lambda job_id: Fate.KEEP)
    janitor.start()
    while resource.asked < 2:
        await sleep(reactor, 0.01)
    await janitor.stop()
    assert resource.asked == 2


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_who_ends_it_while_it_connects_ends_it(serving: Any) -> None:
    resource, made = await serving(None)
    asking = Deferred.fromCoroutine(made.listing("p/"))
    asking.cancel()
    with pytest.raises(CancelledError):
        await asking
    janitor = Janitor(made, access_of(made), reactor, lambda job_id: Fate.ALL)
    janitor.changed("job_1")
    with capturedLogs() as events:
        janitor.start()
        stopping = Deferred.fromCoroutine(janitor.stop())
        assert await wait_at_most(reactor, 5.0, stopping.addBoth(lambda _: True))
    assert (resource.asked, events) == (0, [])


def access_of(made: S3Client) -> Access:
    return made._access


@pytest.mark.usefixtures("hasty")
@pytest_twisted.ensureDeferred
async def test_an_answer_has_a_bound(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 1000)
    _, made = await serving((200, b"x" * 5000))
    with pytest.raises(Unavailable, match="over 1000 bytes"):
        await made.listing("p/")


@pytest_twisted.ensureDeferred
async def test_the_doctor_lists_and_writes_nothing(s3: S3Server) -> None:
    section = S3Section.model_validate(
        {"bucket": BUCKET, "region": REGION, "endpoint_url": s3.url},
        context={
            "environ": {
                "CUMULUSD_S3_ACCESS_KEY": s3.access_key,
                "CUMULUSD_S3_SECRET_KEY": s3.secret_key,
            }
        },
    )
    found = await bucket.examine(section, reactor)
    assert (found.verdict, found.subject) == ("ok", "s3") and BUCKET in found.said
    assert s3.keys() == []
    section._secret_key = "another"
    found = await bucket.examine(section, reactor)
    assert found.verdict == "fault" and "another" not in found.said
