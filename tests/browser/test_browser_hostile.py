"""What others wrote is text: names, output, errors and host names never become markup."""

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.browser import scenes
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

EVIL = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>\'"&amp;'
_JOB = """\
import json
from cumulus_client import CumulusClient

def bad(text):
    import time
    from runtime import progress
    print(text, flush=True)
    progress(0.5, text)
    time.sleep(3600)

def worse(text):
    raise ValueError(text)

client = CumulusClient("{URL}")
text = json.loads(%r)
worse = client.submit(worse, args=[text], gpu_memory=0.1, duration=60, name=text[:200])
while client.get_job_status(worse.job_id)["status"] != "failed":
    pass
bad = client.submit(bad, args=[text], gpu_memory=0.1, duration=900, name=text[:200])
print(json.dumps([worse.job_id, bad.job_id]))
"""


def assert_untouched(page: Any, told: int) -> None:
    """It is shown `told` times at least, as it was written, and nothing came of it."""
    assert page.locator("main").inner_text().count("onerror=") >= told
    assert page.locator("main img, main script, main iframe").count() == 0
    assert page.evaluate("window.owned") is None


def test_names_output_and_errors_of_jobs(daemon: Daemon, window: Callable[..., Window]) -> None:
    done = daemon.run(_JOB % json.dumps(EVIL))
    _, running = json.loads(done.stdout.splitlines()[-1])
    opened = window(daemon).open("#/")
    page = opened.page
    expect(page.locator(".panel.running .output")).to_have_text(EVIL)
    expect(page.locator(".panel.running .progress-words")).to_have_text(f"50 % · {EVIL}")
    expect(page.locator(".panel.running .job bdi")).to_have_text(EVIL)
    expect(page.locator(".panel.recent .why").first).to_contain_text(EVIL)
    assert_untouched(page, 5)
    page.goto(f"{daemon.url}/#/jobs?q=%3Cimg+src%3Dx&owner=%22%3E%3Cimg+src%3Dx%3E")
    expect(page.locator("#found")).to_contain_text("No job")
    assert_untouched(page, 0)
    page.goto(f"{daemon.url}/#/jobs?q=%3Cimg+src%3Dx")
    expect(page.locator("tr[data-job]").first).to_contain_text(EVIL)
    assert_untouched(page, 4)
    page.goto(f"{daemon.url}/#/jobs/{running}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(EVIL)
    assert_untouched(page, 1)
    page.goto(f"{daemon.url}/#/jobs/%3Cimg%20src=x%20onerror=%22window.owned=1%22%3E")
    expect(page.locator("main")).to_contain_text("There is no job")
    assert_untouched(page, 0)
    scenes.cancel(daemon, running)


def _worker(**changes: Any) -> dict[str, Any]:
    share = {
        "partition_id": EVIL, "units": 2500, "gpu_memory_bytes": 4 << 30, "remaining_s": 90.0,
        "state": "active", "job_id": EVIL, "owner": EVIL,
    }  # fmt: skip
    device = {
        "device_id": "d0", "index": 0, "name": EVIL, "kind": "gpu", "memory_bytes": 16 << 30,
        "units_total": 10_000, "units_free": 7_500, "tier": EVIL, "tier_note": EVIL,
        "partitions": [share],
    }  # fmt: skip
    worker = {
        "node_id": EVIL, "hostname": EVIL, "state": "ready", "availability": "active",
        "agent": "present", "usable": True, "fault": EVIL, "discovery_error": None,
        "python_version": EVIL, "chronos": {"backend": EVIL, "fault": EVIL},
        "disagreements": [EVIL], "devices": [device],
    }  # fmt: skip
    return {**worker, **changes}


def test_host_names_devices_and_faults_of_workers(
    daemon: Daemon, window: Callable[..., Window]
) -> None:
    """By a router of our own: a real worker can't easily be called that."""
    workers = [
        _worker(),
        _worker(node_id="n2", hostname="w2", fault=None, agent="away", usable=False, devices=[],
                disagreements=[]),
        _worker(node_id="n3", hostname="w3", fault=None, availability="drain", usable=False,
                disagreements=[], chronos=None),
        _worker(node_id="n4", hostname="w4", fault=None, state="down", usable=False, devices=[],
                disagreements=[]),
        _worker(node_id="n5", hostname="w5", fault=None, disagreements=[], chronos=None),
    ]  # fmt: skip
    opened = window(daemon, viewport={"width": 400, "height": 900})
    opened.answer({"cumulus.worker.list": {"workers": workers}})
    page = opened.open("#/workers").page
    shown = page.locator("main .workers > .worker")
    expect(shown).to_have_count(5)
    words = shown.all_inner_texts()
    assert "ready, with a fault" in words[0] and EVIL in words[0]
    assert "away" in words[1] and "its agent is away" in words[1]
    assert "being drained" in words[2]
    assert "the platform says that it is down" in words[3]
    assert "4 GiB · 25 %" in words[4] and "12 GiB of 16 GiB free" in words[4]
    assert "ends within 1 min" in words[4]
    assert_untouched(page, 8)
    assert not opened.scrolls_sideways()
    assert opened.violations() == []
