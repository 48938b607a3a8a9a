"""One browser for the tests of a file; windows and daemons of each test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.kit import Window, launch
from tests.e2e.conftest import daemon, make_daemon, shared
from tests.e2e.harness import Daemon

__all__ = ["daemon", "make_daemon", "shared"]


@pytest.fixture(scope="module")
def browser(private_tmp: Path) -> Iterator[Browser]:
    """Chromium, without a window. Not for longer: while Playwright runs, so does its event loop,
    and nobody else can have one in this thread."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[..., Window]]:
    """Opens windows on a daemon: `window(daemon, color_scheme="dark").open("#/jobs")`. A test in
    whose windows anything went wrong fails."""
    opened: list[Window] = []

    def make(daemon: Daemon, **options: object) -> Window:
        opened.append(Window(browser, daemon, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
