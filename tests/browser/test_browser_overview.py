"""The page as its reader sees it: what runs, what waits, workers, what ended."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.kit import Window
from tests.e2e.harness import Daemon


def test_the_overview_of_a_daemon_without_tokens(
    daemon: Daemon, window: Callable[..., Window]
) -> None:
    page = window(daemon).open().page
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    expect(page.locator(".device")).to_have_count(1)
    expect(page.locator(".who")).to_have_text("local · admin")
