"""Tokens made by command: what is kept, what is refused, and that a power cut leaves no half."""

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from cumulusd.admin.token_file import FILE, TokenFile
from cumulusd.admin.token_record import NewToken, new_token
from cumulusd.admin.tokens import EXPIRY_LOOK_S, Tokens
from cumulusd.errors import Conflict, InternalError, InvalidArgument, NotFound, TooMany
from cumulusd.identity import Authenticator, Principal, Role, hash_token

_T = TypeVar("_T")
NOW = 1_795_708_000.0
GOLDEN = Path(__file__).with_name("golden_tokens_v1.json")


class Book:
    """Tokens under clocks that the test moves."""

    def __init__(self, folder: Path, *configured: tuple[str, Principal]) -> None:
        self.clock = Clock()
        self.skew_s = 0.0
        self.doors = Authenticator(configured, self.wall)
        self.told: list[str] = []
        self.doors.watch(lambda name, why: self.told.append(name))
        self.waiting: list[Deferred[None]] | None = None
        self.tokens = Tokens(
            folder,
            self.doors,
            clock=self.clock,
            wall_clock=self.wall,
            run_in_thread=self.run_in_thread,
        )
        self.tokens.load()
        self.tokens.start()

    def wall(self) -> float:
        return NOW + self.clock.seconds() + self.skew_s

    def run_in_thread(self, function: Callable[[], _T]) -> Deferred[_T]:
        if self.waiting is None:
            return succeed(function())
        waiting: Deferred[Any] = Deferred()
        self.waiting.append(waiting)
        return waiting.addCallback(lambda _: function())

    async def create(self, name: str, **more: Any) -> str:
        value = {"name": name, "role": "client", **more}
        token, _ = await self.tokens.create(new_token(value, self.wall()), "uid 0")
        return token

    def names(self) -> list[str]:
        return [one["name"] for one in self.tokens.listing()]


@pytest_twisted.ensureDeferred
async def test_made_kept_and_known_after_a_restart(tmp_path: Path) -> None:
    book = Book(tmp_path)
    token = await book.create("ann", owner="research", public_keys=["AB" * 32])
    assert len(token) > 40
    who = book.doors.authenticate(token)
    assert who == Principal(name="ann", owner="research", role=Role.CLIENT)
    again = Book(tmp_path)
    assert not again.doors.open and again.doors.authenticate(token) == who
    credential = again.doors.credential("ann")
    assert credential == book.doors.credential("ann") is not None
    assert credential.scram is not None and credential.public_keys == ("ab" * 32,)
    assert again.tokens.listing() == book.tokens.listing()
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text() and hash_token(token) in path.read_text()
    shown = json.dumps(again.tokens.listing())
    assert token not in shown and hash_token(token) not in shown
    assert credential.scram.stored_key not in shown


@pytest_twisted.ensureDeferred
async def test_revoked_for_good_and_still_closed(tmp_path: Path) -> None:
    book = Book(tmp_path)
    token = await book.create("ann")
    shown = await book.tokens.revoke("ann", "uid 0")
    assert shown["name"] == "ann" and book.told == ["anonymous", "ann"]
    for each in (book, Book(tmp_path)):
        assert each.doors.authenticate(token) is None and not each.doors.open
        assert each.names() == []
    assert await book.create("ann") != token, "the name is free again"


@pytest_twisted.ensureDeferred
async def test_what_is_refused_says_what_to_do(tmp_path: Path) -> None:
    configured = Principal(name="ci", owner="ci", role=Role.CLIENT)
    book = Book(tmp_path, (hash_token("x" * 30), configured))
    book.doors.add(
        hash_token("agent"), Principal(name="agent-n1", owner="cumulusd", role=Role.AGENT)
    )
    await book.create("ann", public_keys=["ab" * 32])
    with pytest.raises(Conflict, match="'ann' already") as taken:
        await book.create("ann")
    assert taken.value.hint == "choose another name, or revoke it first"
    with pytest.raises(Conflict, match="'ci' already"):
        await book.create("ci")
    with pytest.raises(Conflict, match="that of the token 'ann'"):
        await book.create("bob", public_keys=["ab" * 32])
    with pytest.raises(NotFound, match="no token 'bob'"):
        await book.tokens.revoke("bob", "uid 0")
    with pytest.raises(Conflict, match="configuration") as where:
        await book.tokens.revoke("ci", "uid 0")
    assert "SIGHUP" in str(where.value.hint)
    with pytest.raises(Conflict, match="an agent"):
        await book.tokens.revoke("agent-n1", "uid 0")
    assert book.names() == ["agent-n1", "ann", "ci"]
    assert [one["source"] for one in book.tokens.listing()] == [
        "daemon",
        "command",
        "configuration",
    ]


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ([], []),
        ({}, ["name", "role"]),
        ({"name": "", "role": "client"}, ["name"]),
        ({"name": "a/b", "role": "client"}, ["name"]),
        ({"name": "a\n", "role": "client"}, ["name"]),
        ({"name": "x" * 65, "role": "client", "owner": "o"}, ["name"]),
        ({"name": "ann", "role": "client", "owner": 7}, ["owner"]),
        ({"name": "ann", "role": "client", "owner": "cumulusd"}, ["owner"]),
        ({"name": "anonymous", "role": "client"}, ["name"]),
        ({"name": "cumulusd", "role": "client", "owner": "o"}, ["name"]),
        ({"name": "agent-n1", "role": "client"}, ["name"]),
        ({"name": "ann", "role": "daemon"}, ["role"]),
        ({"name": "ann", "role": None}, ["role"]),
        ({"name": "ann", "role": "agent"}, ["node_id"]),
        ({"name": "ann", "role": "agent", "node_id": "a b"}, ["node_id"]),
        ({"name": "ann", "role": "client", "node_id": "n1"}, ["node_id"]),
        ({"name": "ann", "role": "client", "expires_at": NOW}, ["expires_at"]),
        ({"name": "ann", "role": "client", "expires_at": 1e300}, ["expires_at"]),
        ({"name": "ann", "role": "client", "expires_at": float("nan")}, ["expires_at"]),
        ({"name": "ann", "role": "client", "expires_at": True}, ["expires_at"]),
        ({"name": "ann", "role": "client", "expires_at": "soon"}, ["expires_at"]),
        ({"name": "ann", "role": "client", "public_keys": "ab"}, ["public_keys"]),
        ({"name": "ann", "role": "client", "public_keys": ["ab"]}, ["public_keys"]),
        ({"name": "ann", "role": "client", "public_keys": ["ab" * 32] * 9}, ["public_keys"]),
        ({"name": "ann", "role": "client", "token": "mine"}, ["token"]),
    ],
)
def test_every_fault_is_told(value: Any, faults: list[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        new_token(value, NOW)
    assert [each["key"] for each in refused.value.details.get("faults", [])] == faults


def test_the_owner_is_the_name_unless_it_is_said() -> None:
    wanted = new_token({"name": "n7", "role": "agent", "node_id": "n7"}, NOW)
    assert wanted == NewToken(name="n7", owner="n7", role=Role.AGENT, node_id="n7")


@pytest_twisted.ensureDeferred
async def test_live_sessions_end_when_it_expires(tmp_path: Path) -> None:
    book = Book(tmp_path)
    token = await book.create("ann", expires_at=NOW + 10)
    await book.create("far", expires_at=NOW + 50 * 365 * 86_400)
    assert max(call.getTime() for call in book.clock.getDelayedCalls()) <= EXPIRY_LOOK_S
    book.clock.advance(9.9)
    assert book.doors.authenticate(token) is not None and "ann" not in book.told
    book.clock.advance(0.2)
    assert book.doors.authenticate(token) is None and book.told[-1] == "ann"
    assert [one["expired"] for one in book.tokens.listing()] == [True, False]
    with pytest.raises(Conflict, match="'ann' already"):
        await book.create("ann")
    book.tokens.stop()
    assert book.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_forward_is_noticed(tmp_path: Path) -> None:
    book = Book(tmp_path)
    await book.create("ann", expires_at=NOW + 86_400)
    book.skew_s = 86_400
    book.clock.advance(EXPIRY_LOOK_S)
    assert book.told[-1] == "ann"


@pytest_twisted.ensureDeferred
async def test_long_expired_ones_are_forgotten(tmp_path: Path) -> None:
    book = Book(tmp_path)
    await book.create("ann", expires_at=NOW + 10)
    book.skew_s = 31 * 86_400
    await book.create("bob")
    assert book.names() == ["bob"] == Book(tmp_path).names()


@pytest_twisted.ensureDeferred
async def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulusd.admin.tokens.MAX_TOKENS", 2)
    book = Book(tmp_path)
    await book.create("a")
    await book.create("b")
    with pytest.raises(TooMany, match="2 tokens"):
        await book.create("c")


@pytest_twisted.ensureDeferred
async def test_changes_at_a_time_come_one_after_the_other(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.waiting = []
    works = [Deferred.fromCoroutine(book.create(name)) for name in ("a", "b", "a")]
    revoked = Deferred.fromCoroutine(book.tokens.revoke("b", "uid 0"))
    assert len(book.waiting) == 1 and book.doors.open, "nothing counts before it is on disk"
    for _ in range(3):
        book.waiting[-1].callback(None)
    token = await works[0]
    await works[1]
    with pytest.raises(Conflict):
        await works[2]
    await revoked
    again = Book(tmp_path)
    assert again.names() == ["a"] == book.names()
    assert again.doors.authenticate(token) is not None


@pytest_twisted.ensureDeferred
async def test_what_can_not_be_written_changes_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path)
    token = await book.create("ann")
    (tmp_path / (FILE + ".new")).mkdir()
    with pytest.raises(InternalError, match="can't be written"):
        await book.create("bob")
    with pytest.raises(InternalError, match="can't be written"):
        await book.tokens.revoke("ann", "uid 0")
    assert book.names() == ["ann"] and book.doors.authenticate(token) is not None
    (tmp_path / (FILE + ".new")).rmdir()
    await book.tokens.revoke("ann", "uid 0")
    assert Book(tmp_path).names() == []


def test_the_file_of_this_version_is_read_for_ever(tmp_path: Path) -> None:
    shutil.copy(GOLDEN, tmp_path / FILE)
    book = Book(tmp_path)
    assert book.doors.authenticate("token of ann") == Principal(
        name="ann", owner="research", role=Role.CLIENT
    )
    assert book.doors.authenticate("token of gpu-7") == Principal(
        name="gpu-7", owner="gpu-7", role=Role.AGENT, node_id="n7"
    )
    credential = book.doors.credential("ann")
    assert credential is not None and credential.scram is not None
    assert credential.scram.autobahn_keys is not None
    assert book.doors.credential_of_key("01" * 32) == credential
    file = TokenFile(tmp_path)
    records = file.load()
    assert records is not None
    file.save(records)
    assert json.loads((tmp_path / FILE).read_text()) == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version": 1}',
        '{"version": 2, "tokens": []}',
        '{"version": 1, "tokens": [7]}',
        '{"version": 1, "tokens": [{"name": "ann"}]}',
        GOLDEN.read_text().replace('"role": "agent"', '"role": "root"'),
        GOLDEN.read_text().replace('"role": "agent"', '"rule": "agent"'),
        GOLDEN.read_text().replace("38168c", "xxx"),
    ],
)
def test_a_file_that_is_not_whole_opens_no_door(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InternalError, match="file of tokens"):
        Book(tmp_path)


KILLED_AT = """
import os, sys
from pathlib import Path
from cumulusd.admin.token_file import TokenFile
steps = 0
def counted(function):
    def call(*args, **kwargs):
        global steps
        steps += 1
        if steps == int(sys.argv[2]):
            os._exit(9)
        return function(*args, **kwargs)
    return call
for name in ("open", "fdopen", "fsync", "fstat", "stat", "close"):
    setattr(os, name, counted(getattr(os, name)))
Path.replace = counted(Path.replace)
file = TokenFile(Path(sys.argv[1]))
records = file.load()
file.save(records[:1])
print("saved", flush=True)
os._exit(0)
"""


def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found, step, done = set(), 0, False
    while not done:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        shutil.copy(GOLDEN, folder / FILE)
        ended = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(folder), str(step)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        done = ended.returncode == 0
        assert ended.returncode in (0, 9), ended.stderr
        records = TokenFile(folder).load()
        assert records is not None
        found.add(len(records))
        if done:
            assert ended.stdout == "saved\n" and len(records) == 1
            assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert found == {1, 2} and step > 5
