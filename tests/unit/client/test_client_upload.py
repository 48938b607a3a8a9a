"""Uploading the same package from several sides at a time. No I/O."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from cumulus_client import _upload
from cumulus_client._submission import MAX_CARRIED_BYTES, Submission
from cumulus_client._upload import MAX_STALLED, Uploads, Window
from cumulus_client.exceptions import Conflict, InvalidArgument, NotFound, ServerError, TooMany
from cumulus_client.packaging import Package
from cumulus_wire import uris

PACKAGE = Package(name="f", data=bytes(range(250)))


class Store:
    """The daemon's side: it takes bytes only where it stands, and others speak in between."""

    def __init__(self) -> None:
        self.held = b""
        self.stored = False
        self.counts: Counter[str] = Counter()
        self.lose_at_commit = 0

    async def call(self, procedure: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        self.counts[procedure] += 1
        await asyncio.sleep(0)
        return self.answer(procedure, **kwargs)

    def answer(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
        size = len(PACKAGE.whole())
        if procedure == uris.PACKAGE_CHECK:
            offset = size if self.stored else len(self.held)
            return {"present": self.stored, "offset": offset, "chunk_bytes": 100}
        if procedure == uris.PACKAGE_PUT:
            if self.stored:
                return {"offset": size}
            if kwargs["offset"] != len(self.held):
                raise self.conflict()
            self.held += kwargs["data"]
            return {"offset": len(self.held)}
        if self.lose_at_commit:
            self.lose_at_commit -= 1
            self.held = b""
        if not self.stored and len(self.held) < size:
            raise self.conflict()
        assert self.stored or self.held == PACKAGE.whole()
        self.stored = True
        return {"present": True}

    def conflict(self) -> Conflict:
        offset = len(self.held)
        return Conflict("not so far", details={"offset": offset}, hint=f"Go on at offset {offset}.")


def upload(store: Store, *uploads: Uploads) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(each.ensure(PACKAGE) for each in uploads))

    asyncio.run(all_at_once())


def test_a_client_uploads_a_package_once_however_many_ask() -> None:
    store = Store()
    one = Uploads(store)
    upload(store, *[one] * 5)
    assert store.stored
    assert store.counts == {uris.PACKAGE_CHECK: 5, uris.PACKAGE_PUT: 3, uris.PACKAGE_COMMIT: 1}
    assert one._under_way == {}


def test_what_the_daemon_held_once_is_asked_for_when_it_must_be_certain() -> None:
    store = Store()
    one = Uploads(store)

    async def submits() -> None:
        await asyncio.gather(*(one.ensure(PACKAGE, ask=False) for _ in range(5)))
        await one.ensure(PACKAGE, ask=False)
        assert store.counts == {uris.PACKAGE_CHECK: 1, uris.PACKAGE_PUT: 3, uris.PACKAGE_COMMIT: 1}
        store.stored, store.held = False, b""
        await asyncio.gather(*(one.ensure(PACKAGE) for _ in range(2)))
        assert store.counts == {uris.PACKAGE_CHECK: 3, uris.PACKAGE_PUT: 6, uris.PACKAGE_COMMIT: 2}
        await one.ensure(PACKAGE, ask=False)
        assert store.counts[uris.PACKAGE_CHECK] == 3

    asyncio.run(submits())


def test_a_failed_upload_is_not_remembered() -> None:
    class Full(Store):
        def answer(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
            if procedure == uris.PACKAGE_PUT:
                raise ServerError("the disk is full")
            return super().answer(procedure, **kwargs)

    one = Uploads(Full())

    async def submit() -> None:
        for _ in range(2):
            with pytest.raises(ServerError, match="the disk is full"):
                await one.ensure(PACKAGE, ask=False)

    asyncio.run(submit())


def test_packages_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus_client._upload.MAX_KNOWN", 2)

    class Holds(Store):
        def answer(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
            return {"present": True}

    store = Holds()
    one = Uploads(store)

    async def submit() -> None:
        for number in (1, 2, 3, 3, 1):
            await one.ensure(Package(name="f", data=bytes([number])), ask=False)

    asyncio.run(submit())
    assert store.counts == {uris.PACKAGE_CHECK: 4}


def test_clients_that_upload_the_same_package_help_each_other() -> None:
    store = Store()
    upload(store, *(Uploads(store) for _ in range(4)))
    assert store.stored


def test_bytes_that_are_gone_are_sent_again() -> None:
    store = Store()
    store.lose_at_commit = 2
    upload(store, Uploads(store))
    assert store.stored and store.counts[uris.PACKAGE_PUT] == 9


def test_a_caller_who_gives_up_does_not_end_it_for_the_others() -> None:
    store = Store()
    one = Uploads(store)

    async def first_gives_up() -> None:
        first = asyncio.ensure_future(one.ensure(PACKAGE))
        second = asyncio.ensure_future(one.ensure(PACKAGE))
        while not store.held:
            await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()

    asyncio.run(first_gives_up())
    assert store.stored and one._under_way == {}


def test_an_upload_without_progress_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(Store):
        def answer(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
            if procedure == uris.PACKAGE_PUT:
                raise self.conflict()
            return super().answer(procedure, **kwargs)

    monkeypatch.setattr("cumulus_client._upload.backoff_s", lambda *a, **k: 0.0)
    store = Stubborn()
    with pytest.raises(ServerError, match="'f' makes no progress: the daemon holds 0 of 250 B"):
        upload(store, Uploads(store))
    assert store.counts[uris.PACKAGE_PUT] == MAX_STALLED + 2


def test_pieces_are_sent_ahead_while_answers_come_quickly() -> None:
    class Counting(Store):
        most = under_way = 0

        async def call(self, procedure: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            for _ in range(3):
                await asyncio.sleep(0)
            self.under_way -= 1
            return await super().call(procedure, kwargs)

        def answer(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
            return {**super().answer(procedure, **kwargs), "chunk_bytes": 10}

    store = Counting()
    upload(store, Uploads(store))
    assert store.stored and 1 < store.most <= 4
    assert store.counts[uris.PACKAGE_PUT] == 25


def test_a_slow_line_carries_one_piece_at_a_time() -> None:
    window = Window()
    sizes = []
    for took_s in (0.1, 0.1, 0.1, 0.1, 5.0, 0.1):
        window.answered(took_s)
        sizes.append(window.size)
    assert sizes == [2, 3, 4, 4, 1, 2]


def test_a_piece_that_is_refused_takes_back_those_behind_it() -> None:
    class Refusing(Store):
        cancelled = 0

        async def call(self, procedure: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
            if kwargs.get("offset", 0) > 40:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            elif kwargs.get("offset") == 40:
                await asyncio.sleep(0.01)
                raise ServerError("the disk is full")
            return await super().call(procedure, kwargs)

        def answer(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
            return {**super().answer(procedure, **kwargs), "chunk_bytes": 10}

    store = Refusing()
    with pytest.raises(ServerError, match="the disk is full"):
        upload(store, Uploads(store))
    assert store.cancelled > 0


def test_while_a_submit_carries_a_package_others_wait_for_it() -> None:
    async def main() -> None:
        uploads = Uploads(Store())
        first, others = (
            Submission(uploads, PACKAGE, {"name": "a"}),
            [Submission(uploads, PACKAGE, {"name": "b"}) for _ in range(3)],
        )
        assert await first.arguments() == {"spec": {"name": "a"}, "code": PACKAGE.whole()}
        waiting = [asyncio.ensure_future(each.arguments()) for each in others]
        await asyncio.sleep(0.01)
        assert not any(each.done() for each in waiting)
        waiting[0].cancel()  # who gives up holds nobody up
        first.answered(accepted=False)
        first.answered(accepted=False)
        await asyncio.sleep(0.01)
        assert (await waiting[1])["code"] == PACKAGE.whole() and not waiting[2].done()
        others[1].answered(accepted=True)
        assert await waiting[2] == {"spec": {"name": "b"}}
        assert uploads._carried == {}

    asyncio.run(main())


def test_a_submit_that_is_never_answered_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_upload, "CARRY_WAIT_S", 0.05)

    async def main() -> None:
        uploads = Uploads(Store())
        stuck, *others = (Submission(uploads, PACKAGE, {}) for _ in range(4))
        await stuck.arguments()
        waiting = [asyncio.ensure_future(each.arguments()) for each in others]
        async with asyncio.timeout(60):
            for each in waiting:
                assert (await each)["code"] == PACKAGE.whole()
        stuck.answered(accepted=False)
        for each in others:
            each.answered(accepted=True)
        assert uploads._carried == {}
        assert await Submission(uploads, PACKAGE, {}).arguments() == {"spec": {}}

    asyncio.run(main())


def test_what_is_large_is_uploaded() -> None:
    async def main() -> None:
        store = Store()
        package = Package(name="f", data=bytes(MAX_CARRIED_BYTES + 1))
        store.stored = True
        assert await Submission(Uploads(store), package, {}).arguments() == {"spec": {}}
        assert store.counts == {uris.PACKAGE_CHECK: 1}

    asyncio.run(main())


def no_argument(key: str) -> InvalidArgument:
    return InvalidArgument("x", details={"faults": [{"key": key, "message": "is no argument"}]})


@pytest.mark.parametrize("error", [NotFound("not uploaded"), no_argument("code")])
def test_a_daemon_that_does_not_take_it_beside_the_job_gets_an_upload(error: Exception) -> None:
    async def main() -> None:
        store = Store()
        submission = Submission(Uploads(store), PACKAGE, {})
        assert "code" in await submission.arguments()
        submission.answered(accepted=False)
        assert submission.mends(error)
        assert await submission.arguments() == {"spec": {}}
        assert store.stored
        assert submission.mends(NotFound("not uploaded"))
        assert not submission.mends(NotFound("not uploaded")), "not for ever"

    asyncio.run(main())


def test_what_the_daemon_has_let_go_of_goes_along_again() -> None:
    async def main() -> None:
        uploads = Uploads(Store())
        first, second = Submission(uploads, PACKAGE, {}), Submission(uploads, PACKAGE, {})
        await first.arguments()
        first.answered(accepted=True)
        assert await second.arguments() == {"spec": {}}
        second.answered(accepted=False)
        assert second.mends(NotFound("not uploaded"))
        assert "code" in await second.arguments()
        second.answered(accepted=True)

    asyncio.run(main())


@pytest.mark.parametrize("error", [TooMany("x"), no_argument("gpu_memory"), ValueError("x"), None])
def test_any_other_refusal_is_one(error: Exception | None) -> None:
    assert not Submission(Uploads(Store()), PACKAGE, {}).mends(error)


def test_a_conflict_about_something_else_is_told_as_it_is() -> None:
    class Refusing(Store):
        def conflict(self) -> Conflict:
            return Conflict("the package is locked", hint="ask its owner")

    store = Refusing()
    store.lose_at_commit = 1
    with pytest.raises(Conflict, match="is locked"):
        upload(store, Uploads(store))
    assert store.counts[uris.PACKAGE_CHECK] == 1
