"""The list of jobs: search, filters, pages, links; quick with a thousand jobs and more."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import scenes
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

COUNT = 1_000
PAGE = 50  # rows on one page of the list
#: Elements of the whole document, whatever there is: a page of jobs, and the frame.
MAX_ELEMENTS = 1_200


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on which a thousand jobs have ended."""
    daemon = Daemon(tmp_path_factory.mktemp("old"), extra=scenes.TOKENS)
    scenes.ended_jobs(daemon, COUNT)
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def names(page: Page) -> list[str]:
    """Of the jobs on show, in order."""
    return page.locator("tr[data-job] th").all_inner_texts()


def rows(page: Page, count: int) -> None:
    """Waits until so many are on show."""
    expect(page.locator("tr[data-job]")).to_have_count(count)


def test_a_thousand_jobs_are_a_page_of_them(old: Daemon, window: Callable[..., Window]) -> None:
    opened = window(old).open("#/jobs", scenes.token_of("ops"))
    page = opened.page
    rows(page, PAGE)
    assert names(page) == [f"sweep {COUNT - 1 - index}" for index in range(PAGE)]
    assert opened.count("*") < MAX_ELEMENTS
    page.get_by_role("link", name="Older").click()
    expect(page.locator("tr[data-job]").first).to_contain_text(f"sweep {COUNT - 1 - PAGE}")
    assert names(page)[-1] == f"sweep {COUNT - 2 * PAGE}"
    assert opened.count("*") < MAX_ELEMENTS
    page.reload()  # the address has the page
    expect(page.locator("tr[data-job]").first).to_contain_text(f"sweep {COUNT - 1 - PAGE}")
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("tr[data-job]").first).to_contain_text(f"sweep {COUNT - 1}")
    page.go_back()
    expect(page.locator("tr[data-job]").first).to_contain_text(f"sweep {COUNT - 1 - PAGE}")
    page.goto(f"{old.url}/#/")
    expect(page.locator(".panel.recent [data-job]")).to_have_count(8)
    assert opened.count("*") < 400


def test_search_and_filters_stand_in_the_address(
    old: Daemon, window: Callable[..., Window]
) -> None:
    page = window(old).open("#/jobs", scenes.token_of("ops")).page
    rows(page, PAGE)
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("SWEEP 99")  # 99, 990 to 999
    rows(page, 11)
    page.get_by_label("State").select_option("failed")
    rows(page, 2)
    assert names(page) == ["sweep 999", "sweep 99"]
    expect(page.locator("tr[data-job]").first).to_contain_text("ValueError: no data for 999")
    page.get_by_label("Owner").fill("ANN")
    expect(page.locator("#found")).to_have_text("No job that is kept fits this search.")
    rows(page, 0)
    page.get_by_label("Owner").fill("bob")
    rows(page, 2)
    assert re.search(r"#/jobs\?q=SWEEP\+99&state=failed&owner=bob$", page.url)
    page.get_by_role("link", name="Clear").click()
    rows(page, PAGE)
    expect(page.get_by_label("Search")).to_have_value("")


def test_a_link_with_a_search_is_shared(old: Daemon, window: Callable[..., Window]) -> None:
    page = window(old).open("#/jobs?q=job_000042&state=ended", scenes.token_of("eve")).page
    rows(page, 1)
    assert names(page) == ["sweep 42"]
    expect(page.get_by_label("Search")).to_have_value("job_000042")
    expect(page.get_by_label("State")).to_have_value("ended")
    page.get_by_role("link", name="sweep 42").click()
    expect(page).to_have_url(re.compile("#/jobs/job_000042$"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("sweep 42")


def test_a_client_finds_its_own_only(old: Daemon, window: Callable[..., Window]) -> None:
    page = window(old).open("#/jobs?q=sweep+9", scenes.token_of("ann")).page
    rows(page, PAGE)
    assert all(int(name.split()[1]) % 2 == 0 for name in names(page))
