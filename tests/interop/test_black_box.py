"""The black-box suite: each case against our router in each serialisation, and against Crossbar."""

from collections.abc import Iterator

import pytest

from tests.interop import routers
from tests.interop.black_box import Case, Target
from tests.interop.crossbar import NoCrossbar
from tests.interop.crossbar_differences import DIFFERENCES
from tests.interop.differences_page import PAGE, page
from tests.interop.suite import CASES, serializers

#: Installing Crossbar, the first time, and starting it come on top of the first case.
CROSSBAR_TIMEOUT_S = 900


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with routers.ours(tmp_path_factory.mktemp("ours")) as target:
        yield target


@pytest.fixture(scope="module")
def crossbar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    try:
        with routers.crossbar(tmp_path_factory.mktemp("crossbar")) as target:
            yield target
    except NoCrossbar as error:
        pytest.skip(f"Crossbar could not be installed: {error}")


def named(case: Case) -> str:
    return f"{case.group}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_our_router(case: Case, ours: Target) -> None:
    for serializer in serializers(case, ours):
        assert case.outcome(ours, serializer) == case.expected(ours), serializer


@pytest.mark.timeout(CROSSBAR_TIMEOUT_S)
@pytest.mark.parametrize("case", CASES, ids=named)
def test_crossbar(case: Case, crossbar: Target) -> None:
    for serializer in serializers(case, crossbar):
        assert case.outcome(crossbar, serializer) == case.expected(crossbar), serializer


def test_each_difference_is_of_a_case() -> None:
    assert {(case.group, case.name) for case in CASES} >= set(DIFFERENCES)


def test_the_page_of_differences_is_current() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.interop.differences_page`"
