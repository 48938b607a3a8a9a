"""Makes the pictures of docs/page.md: a daemon, some jobs, Chromium (`script/page-images`)."""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser import scenes
from tests.browser.kit import Window, launch
from tests.e2e.harness import Daemon

#: Picture -> width, height, colours, view ("JOB": of the job that runs).
PICTURES = {
    "page-400": (400, 1400, "light", "#/"),
    "page-1600": (1600, 820, "light", "#/"),
    "page-job-1600": (1600, 1000, "dark", "#/jobs/JOB"),
}
#: More to look at, with `--all`.
MORE = {
    "overview-400-dark": (400, 1400, "dark", "#/"),
    "overview-1600-dark": (1600, 900, "dark", "#/"),
    "workers-1600": (1600, 700, "light", "#/workers"),
    "jobs-400": (400, 1200, "light", "#/jobs"),
    "jobs-1600-dark": (1600, 700, "dark", "#/jobs"),
    "job-400": (400, 1400, "light", "#/jobs/JOB"),
    "job-1600": (1600, 1000, "light", "#/jobs/JOB"),
}


def fill(daemon: Daemon) -> str:
    """Jobs of each kind; the id of one that runs."""
    small: dict[str, object] = {"gpu_memory": 0.1, "duration": 60}
    scenes.submit(
        daemon,
        [
            ("train", [3, 0.05], {**small, "name": "baseline"}),
            ("fail", [], {**small, "name": "evaluate measurements"}),
        ],
        "bob",
    )
    running = scenes.submit(
        daemon,
        [
            (
                "train",
                [400, 0.5],
                {"gpu_memory": 0.5, "duration": 1800, "name": "resnet50 lr=3e-4"},
            ),
            ("train", [90, 0.5], {"gpu_memory": 0.2, "duration": 600, "name": "tokenizer"}),
        ],
        "ann",
    )
    scenes.submit(daemon, [("train", [60, 1.0], {"gpu_memory": 0.125, "duration": 900})], "bob")
    for job_id in running:
        scenes.wait_state(daemon, job_id, "running", scenes.token_of("ann"))
    scenes.submit(
        daemon,
        [
            ("train", [9, 1.0], {"gpu_memory": 0.75, "duration": 7200, "name": "resnet50 lr=1e-3"}),
            ("train", [9, 1.0], {"gpu_memory": 0.25, "duration": 600, "name": "sweep 1 of 2"}),
            ("train", [9, 1.0], {"gpu_memory": 0.25, "duration": 600, "name": "sweep 2 of 2"}),
        ],
        "ann",
    )
    return running[0]


def take(browser: Browser, daemon: Daemon, path: Path, width: int, height: int, **how: str) -> None:
    """One picture of the view `how["address"]` in the colours `how["scheme"]`."""
    size = {"width": width, "height": height}
    window = Window(
        browser, daemon, viewport=size, color_scheme=how["scheme"], reduced_motion="reduce"
    )
    window.open("#/", scenes.token_of("ops"))
    expect(window.page.locator(".card .output").first).to_be_visible()
    window.page.goto(f"{daemon.url}/{how['address']}")
    window.page.wait_for_timeout(2_500)  # some output, some seconds less left
    window.page.screenshot(path=path)
    window.close()


def main(folder: Path, pictures: dict[str, tuple[int, int, str, str]]) -> None:
    """Writes the pictures there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        daemon = Daemon(Path(work) / "daemon", extra=scenes.TOKENS)
        if os.geteuid() == 0:  # this machine's name is nobody's business
            named = 'hostname worker-1 && exec "$@"'
            daemon.command_prefix = ["unshare", "--uts", "sh", "-c", named, "sh"]
        daemon.start()
        browser = launch(playwright)
        try:
            job_id = fill(daemon)
            for name, (width, height, scheme, address) in pictures.items():
                address = address.replace("JOB", job_id)
                path = folder / f"{name}.png"
                take(browser, daemon, path, width, height, scheme=scheme, address=address)
        finally:
            browser.close()
            daemon.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), {**PICTURES, **(MORE if "--all" in sys.argv else {})})
