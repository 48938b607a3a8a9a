"""Keyboard, screen readers, colours, narrow and wide windows: what axe-core finds, and our own."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import scenes
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

VIEWS = ("#/", "#/workers", "#/jobs", "#/nowhere")
#: A name without a place to break it.
LONG = "x" * 200


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a job that runs, one that waits, and some that ended."""
    daemon = Daemon(tmp_path_factory.mktemp("shown"))
    scenes.ended_jobs(daemon, 12)
    options = {"gpu_memory": 0.5, "duration": 1800}
    try:
        daemon.start()
        made = scenes.submit(
            daemon,
            [
                ("train", [3600, 1], {**options, "name": LONG}),
                ("train", [1, 0], {**options, "gpu_memory": 0.9, "name": "second"}),
            ],
        )
        scenes.wait_state(daemon, made[0], "running")
        yield daemon
        for job_id in reversed(made):
            scenes.cancel(daemon, job_id)
        daemon.wait_nothing_left()
    finally:
        daemon.stop()


def settled(page: Page, address: str) -> None:
    """Waits until that view shows what it has."""
    expect(page.locator("main h1")).to_have_count(1)
    rows = {"#/": ".panel.running .output", "#/workers": ".segment", "#/jobs": "tr[data-job]"}
    if address in rows:
        expect(page.locator(rows[address]).first).to_be_visible()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "light"),
        (1600, "dark"),
        pytest.param(400, "dark", marks=pytest.mark.slow),
        pytest.param(1600, "light", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_found_against_a_view(
    shown: Daemon, window: Callable[..., Window], width: int, scheme: str
) -> None:
    opened = window(
        shown, viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width == 400
    )
    for address in VIEWS:
        opened.page.goto(f"{shown.url}/{address}")
        settled(opened.page, address)
        assert opened.violations() == [], address
        assert not opened.scrolls_sideways(), address


def test_the_sign_in_form(
    make_daemon: Callable[..., Daemon], window: Callable[..., Window]
) -> None:
    daemon = make_daemon(extra=scenes.TOKENS).start()
    opened = window(daemon, viewport={"width": 400, "height": 700}, color_scheme="dark")
    opened.page.goto(daemon.url)
    opened.sign_in("wrong-token-wrong-token")
    expect(opened.page.get_by_role("alert")).to_be_visible()
    assert opened.violations() == []
    assert not opened.scrolls_sideways()


def test_by_keyboard_alone(shown: Daemon, window: Callable[..., Window]) -> None:
    page = window(shown).open("#/").page
    settled(page, "#/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    assert page.locator(".skip").bounding_box()["y"] >= 0  # type: ignore[index]
    order = []
    for _ in range(4):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.textContent"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus can be seen"
    assert order == ["Cumulus", "Overview", "Workers", "Jobs"]
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#/")
    page.keyboard.press("Tab")
    expect(page.locator(".panel.running .job").first).to_be_focused()
    page.keyboard.press("Enter")  # to the job's page, whose view gets the focus
    expect(page.locator("main")).to_be_focused()
    page.go_back()
    settled(page, "#/")
    page.keyboard.press("/")  # the overview has no field: to the one that has
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("second/")  # it is a letter there
    expect(page.get_by_label("Search")).to_have_value("second/")
    page.keyboard.press("Escape")
    expect(page.locator("main")).to_be_focused()


def test_the_focus_stays_while_things_change(shown: Daemon, window: Callable[..., Window]) -> None:
    page = window(shown).open("#/").page
    settled(page, "#/")
    link = page.locator(".panel.running .job").first
    link.focus()
    before = page.locator(".panel.running .output").inner_text()
    expect(page.locator(".panel.running .output")).not_to_have_text(before)
    expect(link).to_be_focused()


def test_a_screen_reader_is_told_of_changes_and_not_of_each_second(
    shown: Daemon, window: Callable[..., Window]
) -> None:
    page = window(shown).open("#/").page
    settled(page, "#/")
    assert page.locator("[aria-live]").count() == 1
    page.evaluate(
        """() => {
          window.heard = [];
          new MutationObserver(() => window.heard.push(
            document.getElementById("announcer").textContent
          )).observe(document.getElementById("announcer"), {childList: true});
        }"""
    )
    before = page.locator(".panel.running .output").inner_text()
    expect(page.locator(".panel.running .output")).not_to_have_text(before)
    assert page.evaluate("window.heard") == []  # output and time are no news
    small = {"gpu_memory": 0.1, "duration": 60}
    ids = scenes.submit(shown, [("train", [1, 0], small)] * 5)
    expect(page.locator(".panel.waiting h2")).to_have_text("Queue 6")
    for job_id in ids:
        scenes.cancel(shown, job_id)
    expect(page.locator(".panel.waiting h2")).to_have_text("Queue 1")
    expect(page.locator("#announcer")).to_have_text("1 running, 1 waiting")
    assert 1 <= len(page.evaluate("window.heard")) <= 8


def test_colours_by_the_system_and_by_choice(shown: Daemon, window: Callable[..., Window]) -> None:
    page = window(shown, color_scheme="dark", reduced_motion="reduce").open("#/").page
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    button = page.get_by_role("button", name="Colours")
    expect(button).to_have_accessible_name("Colours: as the system")
    button.click()
    expect(button).to_have_accessible_name("Colours: light")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    button.click()
    expect(button).to_have_accessible_name("Colours: dark")
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == dark
    button.click()
    assert page.evaluate(ground) == light
    settled(page, "#/")
    moves = "getComputedStyle(document.querySelector('.progress > span')).transitionProperty"
    assert page.evaluate(moves) == "none"  # reduced motion
