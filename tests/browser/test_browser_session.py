"""Who is signed in, and what the page does when the daemon or the token goes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser import scenes
from tests.browser.kit import Window
from tests.e2e.harness import Daemon


def made_token(daemon: Daemon, name: str) -> str:
    """A new token of an admin, which can be revoked."""
    command = [sys.executable, "-m", "cumulusd.cli", "token", "create", "--name", name]
    command += ["--owner", "ops", "--role", "admin", "--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def revoke(daemon: Daemon, name: str) -> None:
    """Takes that token away."""
    command = [sys.executable, "-m", "cumulusd.cli", "token", "revoke", name]
    command += ["--config", str(daemon.config)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)


def test_signing_in_and_out_and_a_token_that_is_revoked(
    make_daemon: Callable[..., Daemon], window: Callable[..., Window]
) -> None:
    daemon = make_daemon(extra=scenes.TOKENS).start()
    opened = window(daemon)
    page = opened.page
    page.goto(f"{daemon.url}/#/jobs?state=failed")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert not page.locator("nav a").first.is_hidden()
    opened.sign_in("a-token-that-nobody-has")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("token", re.I))
    expect(page.get_by_label("Token")).to_have_attribute("aria-invalid", "true")
    assert page.evaluate("sessionStorage.length + localStorage.length") <= 1  # the theme

    opened.sign_in(scenes.token_of("ops"))
    expect(page.locator(".connection[data-state=open]")).to_be_visible()
    expect(page.get_by_label("State")).to_have_value("failed")  # the address was kept
    page.reload()
    expect(page.locator(".who")).to_have_text("ops · admin")
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie]")
    assert scenes.token_of("ops") not in "".join(kept)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()

    opened.sign_in(made_token(daemon, "short-lived"))
    expect(page.locator(".who")).to_have_text("ops · admin")
    revoke(daemon, "short-lived")
    expect(page.get_by_role("alert")).to_contain_text("revoked")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_page_comes_back_with_the_daemon(
    make_daemon: Callable[..., Daemon], window: Callable[..., Window]
) -> None:
    daemon = make_daemon().start()
    opened = window(daemon)
    page = opened.open("#/").page
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()  # nobody signs in here
    expect(page.locator(".device")).to_have_count(1)
    (job_id,) = scenes.submit(
        daemon, [("train", [3600, 0.5], {"gpu_memory": 0.25, "duration": 900, "name": "lasting"})]
    )
    line = page.locator(".panel.running .output")
    expect(line).to_be_visible()
    daemon.kill()
    expect(page.locator(".connection")).to_have_text(re.compile(r"Reconnecting in \d+ s"))
    expect(page.locator("#announcer")).to_contain_text("lost")
    expect(page.locator(".panel.running")).to_contain_text("lasting")  # what was known stays
    daemon.start()
    # It may connect by itself at any moment: a button that has gone needs no click.
    page.evaluate(
        "for (const button of document.querySelectorAll('button'))"
        " if (button.checkVisibility() && button.textContent === 'Try now') button.click()"
    )
    expect(page.locator(".connection")).to_have_text("Live")
    before = line.inner_text()
    expect(line).not_to_have_text(before)
    scenes.cancel(daemon, job_id)
    expect(page.get_by_text("Nothing runs.")).to_be_visible()
    daemon.wait_nothing_left()


def test_a_daemon_that_is_not_there_is_said_and_waited_for(
    daemon: Daemon, window: Callable[..., Window]
) -> None:
    """Its files came, from a cache perhaps; its router doesn't answer."""
    opened = window(daemon)
    page = opened.page
    page.route_web_socket("**/ws", lambda socket: socket.close(code=1001, reason="going away"))
    page.goto(daemon.url)
    expect(page.get_by_role("heading", name="The daemon can't be reached")).to_be_visible()
    expect(page.locator("main")).to_contain_text("going away")
    expect(page.get_by_label("Token")).to_have_count(0)


def test_a_daemon_that_does_not_answer_a_call_is_left(
    daemon: Daemon, window: Callable[..., Window]
) -> None:
    """A connection that looks open and is dead, as after a laptop's sleep."""
    opened = window(daemon)
    page = opened.page
    connections = []

    def serve(socket):  # type: ignore[no-untyped-def]
        connections.append(socket)

        def received(text: str | bytes) -> None:
            if json.loads(text)[0] == 1 and len(connections) == 1:
                socket.send(json.dumps([2, 1, {"authrole": "admin", "authid": "x"}]))

        socket.on_message(received)

    page.clock.install()
    page.route_web_socket("**/ws", serve)
    page.goto(daemon.url)
    expect(page.locator(".connection")).to_have_text("Live")
    page.clock.run_for(31_000)
    expect(page.locator(".connection")).not_to_have_text("Live")
    page.clock.run_for(11_000)
    expect(page.locator(".connection")).not_to_have_text("Live")
    assert len(connections) > 1
