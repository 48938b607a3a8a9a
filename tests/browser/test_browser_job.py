"""One job's page in a real browser: followed while it runs, and read after its end."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.job_kit import post, post_function, rows, show, wait_ended
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

Windows = Callable[..., Window]
MakeDaemon = Callable[..., Daemon]

#: Writes what it is told to: each line of the file `say` once.
TALKS = """
import runtime
said, told = 0, pathlib.Path({path!r})
while True:
    for line in told.read_text().splitlines()[said:]:
        said += 1
        if line == "END":
            raise SystemExit
        print(line, file=sys.stderr if line.startswith("E") else sys.stdout, flush=True)
    runtime.progress(said / 1000, f"<b>line {{said}}</b>")
    time.sleep(0.05)
"""


def say(path: Path, *lines: str) -> None:
    with open(path, "a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def scroll_top(page: Page) -> float:
    return float(page.locator(".log-scroll").evaluate("element => element.scrollTop"))


def is_at_end(page: Page) -> bool:
    return bool(
        page.locator(".log-scroll").evaluate(
            "e => e.scrollHeight - e.scrollTop - e.clientHeight < 3"
        )
    )


def test_a_running_job_is_followed_until_its_reader_scrolls_up(
    daemon: Daemon, window: Windows, tmp_path: Path
) -> None:
    told = tmp_path / "say"
    say(told, *(f"line {number}" for number in range(200)), "E first warning")
    job_id = post(daemon, TALKS.format(path=str(told)), name="talks & <i>talks</i>")
    page = show(window(daemon), job_id)
    expect(page.get_by_role("heading", level=1)).to_have_text("talks & <i>talks</i>")
    expect(page.locator(".job-state .state")).to_have_attribute("data-state", "running")
    expect(page.locator(".is-stderr .log-text").last).to_have_text("E first warning")
    expect(page.locator(".is-stderr .log-tag").last).to_have_text("err")
    expect(page.locator(".progress-words")).to_contain_text("<b>line 201</b>")
    expect(page.locator(".job-head .progress")).to_have_attribute("aria-valuenow", "20")
    expect(page.locator(".facts")).to_contain_text("booked, not enforced")
    assert is_at_end(page)
    left = page.locator(".facts dd").first
    before = left.text_content() or ""
    expect(left).to_contain_text("4 min")
    expect(left).not_to_have_text(before)  # it ticks

    say(told, "followed")
    expect(page.locator(".log-text").last).to_have_text("followed")
    assert is_at_end(page)
    expect(page.locator(".log-follow")).to_be_hidden()

    page.locator(".log-scroll").hover()
    page.mouse.wheel(0, -700)
    expect(page.locator(".log-follow")).to_be_visible()
    here = scroll_top(page)
    say(told, *(f"more {number}" for number in range(50)))
    expect(page.locator(".log-count")).to_have_text("252 lines")
    assert scroll_top(page) == here, "what is read stays where it is"

    page.get_by_role("button", name="Follow the output").click()
    expect(page.locator(".log-text").last).to_have_text("more 49")
    assert is_at_end(page)
    page.keyboard.press("Home")
    expect(page.locator(".log-text").first).to_have_text("line 0")
    page.keyboard.press("f")
    expect(page.locator(".log-text").last).to_have_text("more 49")

    say(told, "END")
    wait_ended(page)
    expect(page.locator(".job-state .state")).to_have_attribute("data-state", "completed")
    assert rows(page)[:2] == ["line 0", "line 1"]
    expect(page.locator(".stages li")).to_have_count(6)
    expect(page.locator(".stages")).to_contain_text("Setting up")


@pytest.mark.timeout(300)  # a daemon ends and starts in it
def test_a_restart_of_the_daemon_loses_and_doubles_no_line(
    make_daemon: MakeDaemon, window: Windows, tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    done = tmp_path / "done"
    program = f"""
number = 0
while not pathlib.Path({str(done)!r}).exists():
    print("step", number, flush=True)
    number += 1
    time.sleep(0.05)
print("last", number, flush=True)
"""
    job_id = post(daemon, program)
    page = show(window(daemon), job_id)
    expect(page.locator(".log-text").last).to_contain_text("step 2")
    daemon.kill()
    expect(page.locator(".connection")).to_have_attribute("data-state", "waiting")
    expect(page.locator(".job-trouble")).to_contain_text("until the daemon is back")
    daemon.start()
    count = page.locator(".log-count").text_content() or ""
    again = page.get_by_role("button", name="Try now")
    if again.is_visible():
        again.click()
    expect(page.locator(".log-count")).not_to_have_text(count)
    expect(page.locator(".job-trouble")).to_be_hidden()
    done.touch()
    wait_ended(page)
    read = rows(page)
    number = int(read[-2].removeprefix("last "))
    assert read[:-2] == [f"step {step}" for step in range(number)]
    daemon.wait_nothing_left()


def test_an_error_is_told_with_its_traceback_and_its_files_can_be_had(
    daemon: Daemon, window: Windows
) -> None:
    body = """folder = pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"])
(folder / "sub").mkdir()
(folder / "sub" / "a b#?é.txt").write_bytes(b"bytes \\x00\\xff")
print("about to fail")
raise ValueError("four <b>columns</b> were expected")"""
    job_id = post_function(daemon, body, secrets={"API_KEY": "s3cr3t-value"})
    page = show(window(daemon), job_id)
    wait_ended(page)
    error = page.get_by_role("region", name="The code raised an exception")
    expect(error).to_contain_text("ValueError: four <b>columns</b> were expected")
    expect(error.locator(".traceback")).to_contain_text("Traceback (most recent call last)")
    expect(error.locator(".traceback")).to_contain_text("raise ValueError(")
    expect(error).to_contain_text("What to do: ")
    expect(page.locator(".job-why")).to_have_text("the code raised an exception")
    expect(page.locator(".facts")).to_contain_text("API_KEY")
    assert "s3cr3t-value" not in page.content()
    expect(page.get_by_role("button", name="Cancel job…")).to_be_hidden()
    expect(page.get_by_role("region", name="Result")).to_be_hidden()
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download sub/a b#?é.txt").click()
    assert Path(downloading.value.path()).read_bytes() == b"bytes \x00\xff"
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save the whole log as a file").click()
    assert saving.value.suggested_filename == f"{job_id}.log"
    assert Path(saving.value.path()).read_text() == "about to fail\n"


def test_results_are_shown_as_they_are_and_pickles_stay_closed(
    daemon: Daemon, window: Windows
) -> None:
    made = window(daemon)
    value = 'return {"big": 12345678901234567890, "text": "<img src=x>", "list": []}'
    page = show(made, post_function(daemon, value))
    expect(page.locator("pre.result")).to_have_text(
        '{\n  "big": 12345678901234567890,\n  "text": "<img src=x>",\n  "list": []\n}'
    )
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Save as file").click()
    assert b"12345678901234567890" in Path(downloading.value.path()).read_bytes()

    job_id = post_function(daemon, "return {1, 2, 3}")
    page = show(made, job_id)
    result = page.get_by_role("region", name="Result")
    expect(result).to_contain_text("pickle")
    expect(result).to_contain_text(f"cumulus result {job_id}")
    assert result.locator("pre").count() == 0

    page = show(made, post_function(daemon, 'return "y" * 300_000'))
    expect(page.get_by_role("region", name="Result")).to_contain_text("too large")


def test_text_is_found_counted_and_gone_through_by_keyboard(
    daemon: Daemon, window: Windows
) -> None:
    program = """
for number in range(3000):
    print(f"step {number}" + (" needle Needle" if number % 500 == 250 else ""))
"""
    page = show(window(daemon), post(daemon, program))
    wait_ended(page)
    field, found = page.get_by_label("Search the output"), page.locator(".log-found")
    page.keyboard.press("/")
    expect(field).to_be_focused()
    page.keyboard.type("NEEDLE")
    expect(found).to_have_text("1 of 12")  # what is in sight has none: around the end
    expect(page.locator("mark.is-current")).to_have_text("needle")
    expect(page.locator(".log-row:has(mark.is-current) .log-text")).to_have_text(
        "step 250 needle Needle"
    )
    page.keyboard.press("Enter")
    expect(found).to_have_text("2 of 12")
    expect(page.locator("mark.is-current")).to_have_text("Needle")
    page.keyboard.press("Enter")
    expect(page.locator(".log-row:has(mark.is-current) .log-text")).to_have_text(
        "step 750 needle Needle"
    )
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    expect(found).to_have_text("12 of 12")
    page.locator(".log-scroll").focus()
    page.keyboard.press("n")
    expect(found).to_have_text("1 of 12")
    in_sight = page.locator("mark.is-current").evaluate(
        """mark => {
            const box = mark.getBoundingClientRect();
            const frame = document.querySelector(".log-scroll").getBoundingClientRect();
            return box.top >= frame.top && box.bottom <= frame.bottom;
        }"""
    )
    assert in_sight
    field.fill("nothing like it")
    expect(found).to_have_text("no match")
    field.press("Escape")
    expect(found).to_have_text("")
    expect(field).to_have_value("")
    assert page.locator("mark").count() == 0


def test_times_are_shown_when_asked_for(daemon: Daemon, window: Windows) -> None:
    page = show(window(daemon), post(daemon, "print('hello')"))
    wait_ended(page)
    time = page.locator(".log-time").first
    expect(time).to_be_hidden()
    button = page.get_by_role("button", name="Show the time of each line")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(time).to_be_visible()
    assert (time.text_content() or "").count(":") == 2


@pytest.mark.parametrize("width", [400, 1600])
def test_a_long_run_fits_its_timeline(
    daemon: Daemon, window: Windows, tmp_path: Path, width: int
) -> None:
    told = tmp_path / "say"
    say(told, "began")
    made = window(daemon, viewport={"width": width, "height": 900})
    page = show(made, post(daemon, TALKS.format(path=str(told))))
    running = page.locator('.stages li[data-stage="running"]')
    expect(running).to_be_visible()
    # As it stands there after such a time; measured before the next tick writes its own.
    sticks_out, wider = running.evaluate(
        """row => {
          row.querySelector(".figure").textContent = "23 h 59 min so far";
          const edge = row.parentElement.getBoundingClientRect().right + 1;
          const page = document.documentElement;
          return [[...row.children].some((part) => part.getBoundingClientRect().right > edge),
                  page.scrollWidth > page.clientWidth];
        }"""
    )
    assert not sticks_out
    assert not wider
    say(told, "END")
    wait_ended(page)


def test_a_job_that_is_not_there_says_so(daemon: Daemon, window: Windows) -> None:
    page = window(daemon).open("#/jobs/job_unknown%3Cb%3E").page
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such job")
    expect(page.get_by_role("alert")).to_contain_text("job_unknown<b>")
    page.get_by_role("link", name="All jobs that are kept").click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text("There is no such job")


def test_a_job_that_is_deleted_while_it_is_looked_at_is_told_as_gone(
    daemon: Daemon, window: Windows
) -> None:
    made = window(daemon)
    made.page.clock.install()
    job_id = post(daemon, "print('soon gone')")
    page = show(made, job_id)
    wait_ended(page)
    daemon.wait_job(job_id, "ended")
    daemon.wait_nothing_left()
    delete = urllib.request.Request(f"{daemon.url}/api/jobs/{job_id}", method="DELETE")
    urllib.request.urlopen(delete, timeout=30).close()
    page.clock.run_for(30_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("The job is gone")


def test_attempts_and_checkpoints_are_told(daemon: Daemon, window: Windows) -> None:
    program = """
os.write(1, f"attempt {os.environ['CUMULUS_ATTEMPT']}\\n".encode())  # in one piece
if os.environ["CUMULUS_ATTEMPT"] == "1":
    time.sleep(0.5)  # until the runner has read it
    os.kill(os.getppid(), 9)
    time.sleep(60)
one = {"filename": "epoch-3.pt", "path": "/x/epoch-3.pt", "epoch": 3, "step": 120,
       "framework": "torch", "timestamp": time.time(), "size_bytes": 2048, "s3_key": None}
index = pathlib.Path(os.environ["CUMULUS_CHECKPOINT_DIR"], "index.json")
index.write_text(json.dumps({"checkpoints": [one]}))
"""
    page = show(window(daemon), post(daemon, program, retries=1))
    wait_ended(page)
    read = rows(page)
    assert [row for row in read if row.startswith("attempt")] == ["attempt 1", "attempt 2"]
    assert "Attempt 2 begins" in read
    attempts = page.get_by_role("region", name="Attempts before")
    expect(attempts).to_contain_text("Its runner failed")
    expect(page.locator(".facts")).to_contain_text("2 of up to 2")
    expect(page.locator(".stages")).to_contain_text("Running (attempt 2)")
    checkpoints = page.get_by_role("region", name="Checkpoints").first
    expect(checkpoints).to_contain_text("epoch-3.pt")
    expect(checkpoints).to_contain_text("2 KiB")
