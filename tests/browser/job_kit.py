"""Jobs for the tests of a job's page, posted as a program posts them, and what is read there."""

import base64
import io
import json
import urllib.request
import zipfile
from typing import Any

from playwright.sync_api import Page

from tests.browser.kit import Window
from tests.e2e.harness import Daemon

#: What every test's program begins with.
HEAD = "import os, sys, time, json, pathlib\n"
PACKAGE = {"version": 1, "kind": "function", "module": "code_of_job", "function": "f"}

#: All rows of the log by their place, read window by window as a reader scrolls.
_READ_ALL = """async () => {
  const scroll = document.querySelector(".log-scroll");
  const next = () => new Promise((done) => requestAnimationFrame(done));
  const found = new Map();
  const read = () => {
    const top = document.querySelector(".log-canvas").getBoundingClientRect().top;
    for (const row of document.querySelectorAll(".log-rows > .log-row")) {
      const box = row.getBoundingClientRect();
      const text = row.querySelector(".log-text").textContent;
      found.set(Math.round((box.top - top) / box.height), text);
    }
  };
  for (let top = 0; ; top += scroll.clientHeight) {
    scroll.scrollTop = top;
    await next();
    await next();
    read();
    if (top > scroll.scrollHeight) break;
  }
  return [...found.keys()].sort((a, b) => a - b).map((key) => found.get(key));
}"""


def post(daemon: Daemon, program: str, token: str | None = None, **fields: Any) -> str:
    """The id of a new job that runs this program."""
    return _post(daemon, {"main.py": HEAD + program}, token, fields)


def post_function(daemon: Daemon, body: str, **fields: Any) -> str:
    """The id of a new job that runs `def f():` with this body, and has its value as result."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    files = {
        "cumulus_package.json": json.dumps({**PACKAGE, "call": "call.json"}),
        "call.json": json.dumps({"encoding": "json", "args": [], "kwargs": {}}),
        "code_of_job.py": f"{HEAD}def f():\n{lines}",
    }
    return _post(daemon, files, None, fields)


def _post(daemon: Daemon, files: dict[str, str], token: str | None, fields: dict[str, Any]) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    code = base64.b64encode(packed.getvalue()).decode()
    job = {"gpu_memory": 0.1, "duration_s": 300, "code": code, **fields}
    request = urllib.request.Request(
        f"{daemon.url}/api/jobs", json.dumps(job).encode(), {"Content-Type": "application/json"}
    )
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.loads(answer.read())["job_id"])


def show(window: Window, job_id: str, token: str | None = None) -> Page:
    """The window's page, at that job."""
    page = window.open(f"#/jobs/{job_id}", token).page
    page.locator(".job-page").wait_for()
    return page


def rows(page: Page) -> list[str]:
    """The texts of all rows of the log, from first to last."""
    read = page.evaluate(_READ_ALL)
    assert isinstance(read, list)
    return read


def wait_ended(page: Page) -> None:
    """Returns once all output of an ended job is on show."""
    page.locator(".log[data-ended]").wait_for()
