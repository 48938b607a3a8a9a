"""Makes the pictures of docs/page.md: a daemon, some jobs, Chromium (`script/page-images`)."""

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser import scenes
from tests.browser.kit import Window, launch
from tests.e2e.harness import Daemon

WIDTHS = {400: 1500, 1600: 900}


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


def main(folder: Path) -> None:
    """Writes the pictures there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        daemon = Daemon(Path(work) / "daemon", extra=scenes.TOKENS).start()
        browser = launch(playwright)
        try:
            job_id = fill(daemon)
            for width, height in WIDTHS.items():
                for scheme in ("light", "dark"):
                    window = Window(
                        browser,
                        daemon,
                        viewport={"width": width, "height": height},
                        color_scheme=scheme,
                        reduced_motion="reduce",
                    )
                    window.open("#/", scenes.token_of("ops"))
                    page = window.page
                    expect(page.locator(".card .output").first).to_be_visible()
                    time.sleep(3)  # some output, some seconds less left
                    suffix = "" if scheme == "light" else "-dark"
                    page.screenshot(path=folder / f"page-{width}{suffix}.png")
                    for name, address in (("jobs", "#/jobs"), ("job", f"#/jobs/{job_id}")):
                        page.goto(f"{daemon.url}/{address}")
                        time.sleep(2)
                        page.screenshot(path=folder / f"page-{name}-{width}{suffix}.png")
                    window.close()
        finally:
            browser.close()
            daemon.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
