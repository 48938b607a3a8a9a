"""The page as its reader sees it: what runs, what waits, workers, what ended; who may see what."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import scenes
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

_WAITS = {"gpu_memory": 0.9, "duration": 7200, "name": "large one"}
_RUNS = {"gpu_memory": 0.5, "duration": 1800, "name": "resnet50 lr=3e-4"}
_ENDS = {"gpu_memory": 0.1, "duration": 60, "name": "evaluate"}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with tokens: of ann's a job that runs and one that waits, of bob's one that
    failed."""
    daemon = Daemon(tmp_path_factory.mktemp("busy"), extra=scenes.TOKENS)
    try:
        daemon.start()
        (failed,) = scenes.submit(daemon, [("fail", [], _ENDS)], "bob")
        scenes.wait_state(daemon, failed, "failed", scenes.token_of("bob"))
        running, waiting = scenes.submit(
            daemon, [("train", [3600, 0.5], _RUNS), ("train", [1, 0], _WAITS)], "ann"
        )
        scenes.wait_state(daemon, running, "running", scenes.token_of("ann"))
        yield daemon
        for job_id in (waiting, running):
            scenes.cancel(daemon, job_id, scenes.token_of("ann"))
        daemon.wait_nothing_left()
    finally:
        daemon.stop()


def row(page: Page, section: str, name: str) -> str:
    """The text of a job's row in a section of the overview."""
    found = page.locator(f".panel.{section} [data-job]", has_text=name)
    expect(found).to_have_count(1)
    return found.inner_text()


def test_what_an_admin_sees(busy: Daemon, window: Callable[..., Window]) -> None:
    page = window(busy).open("#/", scenes.token_of("ops")).page
    expect(page.locator(".who")).to_have_text("ops · admin")
    expect(page.locator(".panel.running .output")).to_contain_text("loss")
    running = row(page, "running", "resnet50")
    assert re.search(r"2\d min \d\d s left", running)
    assert "ann" in running and "epoch" in running
    bar = page.get_by_role("progressbar", name="Progress of resnet50")
    assert 0 <= int(bar.get_attribute("aria-valuenow") or "") <= 100
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"\d+ %, epoch \d+ of 3600"))
    waiting = row(page, "waiting", "large one")
    assert waiting.startswith("1") and "50 % is the largest free share" in waiting
    assert "enough frees by" in waiting and "90 % · 2 h 00 min" in waiting
    assert "FileNotFoundError" in row(page, "recent", "evaluate")
    expect(page.locator(".panel.workers .segment")).to_have_count(1)
    shares = page.locator(".partitions li")
    expect(shares).to_contain_text("resnet50")
    expect(shares).to_contain_text(re.compile(r"GiB · 50 %.*ends within \d+ min \d\d s", re.S))


def test_time_left_ticks_and_output_comes(busy: Daemon, window: Callable[..., Window]) -> None:
    page = window(busy).open("#/", scenes.token_of("ops")).page
    for selector in (".panel.running .left", ".panel.running .output", ".partitions .left"):
        before = page.locator(selector).first.inner_text()
        expect(page.locator(selector).first).not_to_have_text(before)


def test_a_client_sees_its_own_jobs_and_shares_of_nobody_in_particular(
    busy: Daemon, window: Callable[..., Window]
) -> None:
    page = window(busy).open("#/", scenes.token_of("bob")).page
    assert "FileNotFoundError" in row(page, "recent", "evaluate")
    expect(page.get_by_text("Nothing runs.")).to_be_visible()
    expect(page.locator(".partitions li")).to_contain_text("another's job")
    expect(page.locator(".segment")).to_have_attribute("data-state", "active other")
    body = page.content()
    assert "resnet50" not in body and "large one" not in body
    page.goto(f"{busy.url}/#/jobs")
    expect(page.locator("tr[data-job]")).to_have_count(1)
    expect(page.get_by_label("Owner")).to_have_count(0)


def test_a_client_is_shown_what_becomes_of_its_jobs(
    busy: Daemon, window: Callable[..., Window]
) -> None:
    """Without the topics, which are for those who see all jobs."""
    page = window(busy).open("#/", scenes.token_of("ann")).page
    row(page, "running", "resnet50")
    (job_id,) = scenes.submit(busy, [("train", [3600, 1], {**_ENDS, "name": "brief one"})], "ann")
    assert "held for jobs ahead" in row(page, "waiting", "brief one")
    scenes.cancel(busy, job_id, scenes.token_of("ann"))
    assert "cancelled" in row(page, "recent", "brief one")


def test_a_viewer_is_offered_nothing_to_change(busy: Daemon, window: Callable[..., Window]) -> None:
    page = window(busy).open("#/", scenes.token_of("eve")).page
    running = page.locator(".panel.running .job")
    expect(running).to_have_count(1)
    address = running.get_attribute("href")
    for view in ("#/", "#/workers", "#/jobs", address):
        page.goto(f"{busy.url}/{view}")
        expect(page.locator("main h1")).to_have_count(1)
        expect(page.locator("main")).to_contain_text(re.compile("resnet50|Workers"))
        for word in ("Cancel", "Pause", "Resume", "Delete"):
            expect(page.locator("main").get_by_role("button", name=word)).to_have_count(0)


def test_workers_come_by_the_topic(daemon: Daemon, window: Callable[..., Window]) -> None:
    """The page of an admin asks for them now and then; who listens is told at once."""
    opened = window(daemon)
    events: list[str] = []
    opened.page.on(
        "websocket",
        lambda socket: socket.on(
            "framereceived", lambda text: events.append(text if isinstance(text, str) else "")
        ),
    )
    page = opened.open("#/workers").page
    expect(page.locator(".device")).to_have_count(1)
    (job_id,) = scenes.submit(daemon, [("train", [3600, 1], {**_ENDS, "name": "brief"})])
    expect(page.locator(".partitions li")).to_have_count(1)
    scenes.cancel(daemon, job_id)
    expect(page.locator(".partitions li")).to_have_count(0)
    told = [json.loads(text) for text in events]
    assert [one for one in told if one[0] == 36 and "workers" in (one[5:] or [{}])[0]]


def test_the_files_are_asked_for_again_but_not_sent_again(daemon: Daemon) -> None:
    for path in ("/", "/page/app.js", "/page/base.css"):
        with urllib.request.urlopen(daemon.url + path, timeout=30) as response:
            headers = response.headers
            assert response.read()
        assert headers["Cache-Control"] == "no-cache"
        policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
        assert headers["Content-Security-Policy"].startswith(policy)
        request = urllib.request.Request(
            daemon.url + path, headers={"If-None-Match": f'"other", W/{headers["ETag"]}'}
        )
        with pytest.raises(urllib.error.HTTPError) as unchanged:
            urllib.request.urlopen(request, timeout=30)
        with unchanged.value as answer:
            assert answer.code == 304 and answer.read() == b""
            assert answer.headers["ETag"] == headers["ETag"]
