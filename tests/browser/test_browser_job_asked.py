"""What may be asked of a job on its page, by whom, and how its answers and errors are shown."""

import hashlib
from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.job_kit import post, show, wait_ended
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

Windows = Callable[..., Window]
MakeDaemon = Callable[..., Daemon]

SLEEPS = "print('begun', flush=True)\ntime.sleep(300)"
PAUSES = """
import runtime
print("begun", flush=True)
while not runtime.should_pause():
    time.sleep(0.02)
raise runtime.CooperativePause("asked to")
"""


def test_a_cancel_asks_first(daemon: Daemon, window: Windows) -> None:
    page = show(window(daemon), post(daemon, SLEEPS))
    expect(page.locator(".log-text").last).to_have_text("begun")
    cancel = page.get_by_role("button", name="Cancel job…")
    cancel.click()
    question = page.get_by_role("group", name="Cancel this job?")
    expect(question).to_be_visible()
    expect(page.get_by_role("button", name="Let it go on")).to_be_focused()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(cancel).to_be_focused()
    expect(page.locator(".job-state .state")).to_have_attribute("data-state", "running")

    cancel.click()
    page.get_by_role("button", name="Cancel it").click()
    expect(page.locator(".job-state .state")).to_have_attribute("data-state", "cancelled")
    expect(page.locator(".job-why")).to_have_text("cancelled by hand")
    expect(page.locator("#announcer")).to_have_text("The job is cancelled: cancelled by hand")
    expect(cancel).to_be_hidden()
    wait_ended(page)


def test_a_job_is_paused_resumed_and_cancelled(daemon: Daemon, window: Windows) -> None:
    page = show(window(daemon), post(daemon, PAUSES))
    expect(page.locator(".log-text").last).to_have_text("begun")
    state = page.locator(".job-state .state")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_attribute("data-state", "paused")
    expect(page.locator(".stages")).to_contain_text("Paused")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_attribute("data-state", "running")
    expect(page.locator(".log-text").last).to_have_text("begun")
    expect(page.locator(".log-note").first).to_contain_text("The code paused")
    page.get_by_role("button", name="Cancel job…").click()
    page.get_by_role("button", name="Cancel it").click()
    expect(state).to_have_attribute("data-state", "cancelled")


def test_a_job_that_waits_says_why(daemon: Daemon, window: Windows) -> None:
    post(daemon, SLEEPS, gpu_memory=1.0)
    page = show(window(daemon), post(daemon, SLEEPS, gpu_memory=1.0))
    expect(page.locator(".job-why")).to_contain_text("position 1 of 1, needs 1 of a GPU")
    expect(page.locator(".log-empty")).to_have_text("Nothing has been written yet.")
    daemon.cancel_all()
    expect(page.locator(".job-state .state")).to_have_attribute("data-state", "cancelled")
    expect(page.locator(".log-empty")).to_have_text("The job wrote nothing.")


TOKENS = {"ann": "token-of-ann-0123456789", "eye": "token-of-eye-0123456789"}
CONFIGURED = "tokens:\n" + "".join(
    f"  - {{name: {name}, owner: {name}, role: {role}, "
    f"token_sha256: {hashlib.sha256(TOKENS[name].encode()).hexdigest()}}}\n"
    for name, role in (("ann", "client"), ("eye", "viewer"))
)


def test_a_viewer_is_offered_nothing_and_the_owner_all(
    make_daemon: MakeDaemon, window: Windows
) -> None:
    daemon = make_daemon(extra=CONFIGURED).start()
    job_id = post(daemon, SLEEPS, TOKENS["ann"])
    looks = show(window(daemon), job_id, TOKENS["eye"])
    expect(looks.locator(".log-text").last).to_have_text("begun")
    expect(looks.locator(".job-actions")).to_be_hidden()
    with looks.expect_download() as saving:  # which needs the token
        looks.get_by_role("button", name="Save the whole log as a file").click()
    assert saving.value.suggested_filename == f"{job_id}.log"

    owns = show(window(daemon), job_id, TOKENS["ann"])
    expect(owns.get_by_role("button", name="Pause")).to_be_visible()
    owns.get_by_role("button", name="Cancel job…").click()
    owns.get_by_role("button", name="Cancel it").click()
    for page in (owns, looks):
        expect(page.locator(".job-state .state")).to_have_attribute("data-state", "cancelled")


def test_an_error_is_shown_where_it_was_asked(daemon: Daemon, window: Windows) -> None:
    made = window(daemon)
    page = show(made, post(daemon, SLEEPS))
    expect(page.locator(".log-text").last).to_have_text("begun")
    # It asks for what a running job refuses, as when the page hasn't heard of a change yet.
    page.evaluate(
        """() => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (text) {
                const message = JSON.parse(text);
                if (message[3] === "cumulus.job.pause") message[3] = "cumulus.job.resume";
                send.call(this, JSON.stringify(message));
            };
        }"""
    )
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".job-said").get_by_role("alert")).to_contain_text("isn't paused")
    expect(page.get_by_role("button", name="Pause")).to_be_enabled()
    daemon.cancel_all()
