"""The page in a real Chromium: windows on a daemon, which tell what went wrong in them."""

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, WebSocketRoute, expect

from tests.e2e.harness import Daemon

#: How long the browser may take for anything that a test waits for: machines are slow at times.
PATIENCE_MS = 30_000
#: A connection that is lost is told by the browser itself; that is what some tests are about.
_CONNECTION = ("WebSocket connection to", "net::ERR_CONNECTION", "ERR_EMPTY_RESPONSE")

expect.set_options(timeout=PATIENCE_MS)


def launch(playwright: Playwright) -> Browser:
    """Debian's Chromium; never a download of Playwright's own."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    assert executable is not None, "no chromium on PATH: script/setup installs it"
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root can't have its sandbox
    # /dev/shm is small in containers.
    flags = ["--disable-dev-shm-usage", "--force-color-profile=srgb", *sandbox]
    return playwright.chromium.launch(executable_path=executable, args=flags)


class Window:
    """One window of the browser, with storage of its own. `page` is Playwright's."""

    def __init__(self, browser: Browser, daemon: Daemon, **options: Any) -> None:
        """`options`: of `Browser.new_context`, such as `viewport`, `color_scheme`."""
        options.setdefault("viewport", {"width": 1280, "height": 900})
        self.daemon = daemon
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        #: what the page complained of: exceptions, console errors, violations of its policy
        self.errors: list[str] = []
        #: what it asked of anybody but the daemon
        self.strangers: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        self.page.on("console", self._console)
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url))

    def open(self, address: str = "#/", token: str | None = None) -> "Window":
        """Goes to that view, signed in with `token` where one is needed, and waits until it is
        live."""
        self.page.goto(f"{self.daemon.url}/{address}")
        if token is not None:
            self.sign_in(token)
        expect(self.page.locator(".connection[data-state=open]")).to_be_visible()
        return self

    def answer(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """From now on the daemon's router is one of the test's own, which answers these calls with
        these keyword arguments, and all others with an error."""

        def serve(socket: WebSocketRoute) -> None:
            def received(text: str | bytes) -> None:
                message = json.loads(text)
                if message[0] == 1:  # HELLO: WELCOME
                    socket.send(json.dumps([2, 1, {"authrole": "admin", "authid": "test"}]))
                elif message[0] == 48 and message[3] in answers:  # CALL: RESULT
                    socket.send(json.dumps([50, message[1], {}, [], answers[message[3]]]))
                elif message[0] == 48:
                    error = [8, 48, message[1], {}, "cumulus.error.unavailable", ["not here"]]
                    socket.send(json.dumps(error))

            socket.on_message(received)

        self.page.route_web_socket("**/ws", serve)

    def sign_in(self, token: str) -> None:
        """Fills in the form; it may be refused."""
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()

    def count(self, selector: str) -> int:
        """How many elements of the document match."""
        return self.page.locator(selector).count()

    def scrolls_sideways(self) -> bool:
        """Is the document wider than the window?"""
        return bool(
            self.page.evaluate(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )

    def violations(self) -> list[str]:
        """What axe-core finds against WCAG 2.1 AA and its best practices, a line each."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{rule['id']}: {node['html'][:200]}: {node.get('failureSummary', '')}"
            for rule in found
            for node in rule["nodes"]
        ]

    def close(self) -> None:
        """Closes it. Raises AssertionError for what went wrong in it."""
        self.context.close()
        assert not self.errors, self.errors
        assert not self.strangers, f"it asked others than its daemon: {self.strangers}"

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(word in message.text for word in _CONNECTION):
            self.errors.append(f"console: {message.text}")

    def _asked(self, url: str) -> None:
        host = self.daemon.url.removeprefix("http://")
        if not url.startswith((f"http://{host}/", f"ws://{host}/", "data:", "blob:")):
            self.strangers.append(url)
