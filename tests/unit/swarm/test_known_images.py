"""Images are asked once for all who ask, and ahead."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from cumulusd.errors import NotFound, Unavailable
from cumulusd.swarm.answers import ImageInfo
from cumulusd.swarm.known_images import FRESH_S, KnownImages

FOUND = ImageInfo(image_id="sha256:1", digests=(), python_version="3.13.5")


class Images:
    """What is tested, and the engine that answers when it is told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.requests: list[Deferred[ImageInfo]] = []
        self.known = KnownImages(self, self.clock)

    async def image(self, reference: str) -> ImageInfo:
        self.requests.append(Deferred())
        return await self.requests[-1]

    def answer(self, found: ImageInfo | Exception = FOUND) -> None:
        (request,) = self.requests
        self.requests.clear()
        if isinstance(found, Exception):
            request.errback(found)
        else:
            request.callback(found)


@pytest.fixture
def images() -> Images:
    return Images()


def ask(images: Images) -> list[Any]:
    """Holds what comes of it, once it comes."""
    come: list[Any] = []
    Deferred.fromCoroutine(images.known.image("job:1")).addBoth(come.append)
    return come


def failed(come: list[Any], kind: type[Exception]) -> bool:
    (failure,) = come
    return isinstance(failure, Failure) and isinstance(failure.value, kind)


def test_what_was_asked_ahead_is_not_asked_again(images: Images) -> None:
    images.known.foresee("job:1")
    images.known.foresee("job:1")
    first = ask(images)
    assert first == []
    images.answer()
    assert first == [FOUND] and ask(images) == [FOUND]
    assert images.requests == []
    assert images.known.python_version == "3.13.5"


def test_a_tag_is_asked_again_after_a_while(images: Images) -> None:
    images.known.foresee("job:1")
    images.answer()
    images.clock.advance(FRESH_S)
    come = ask(images)
    assert come == []
    images.answer()
    assert come == [FOUND]


def test_an_error_is_told_to_all_who_wait_and_not_kept(images: Images) -> None:
    come = [ask(images), ask(images)]
    images.answer(NotFound("no such image"))
    assert all(failed(one, NotFound) for one in come)
    again = ask(images)
    images.answer()
    assert again == [FOUND]


def test_asked_ahead_in_vain_the_launch_asks_again(images: Images) -> None:
    images.known.foresee("job:1")
    images.answer(Unavailable("the engine is away"))
    come = ask(images)
    images.answer()
    assert come == [FOUND]


def test_who_gives_up_waiting_harms_nobody(images: Images) -> None:
    gone = Deferred.fromCoroutine(images.known.image("job:1"))
    stays = ask(images)
    gone.addErrback(lambda _: None)
    gone.cancel()
    images.answer()
    assert stays == [FOUND]


def test_closing_ends_the_waits(images: Images) -> None:
    come = ask(images)
    Deferred.fromCoroutine(images.known.close())
    assert failed(come, Unavailable)
