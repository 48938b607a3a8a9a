"""What a job writes is its own affair: it can't become markup, hide text, or fill the browser."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.job_kit import post, post_function, rows, show, wait_ended
from tests.browser.kit import Window
from tests.e2e.harness import Daemon

Windows = Callable[..., Window]

HOSTILE = r"""
script = "document.title='owned'"
markup = f"<script>{script}</script><img src=x onerror=\"{script}\"><b>b</b>"
out = sys.stdout.buffer
print(markup)
print(markup, file=sys.stderr)
out.write(b"\x00<i>nul first</i>\n\xff\xfe<u>no utf-8</u>\n")
print("\x1b]0;" + markup + "\x07title set")
print("\x1b]8;;javascript:document.title='owned'\x1b\\link\x1b]8;;\x1b\\")
print("\x1b[31;\"onclick=x\"mred?\x1b[0m")
print("turned \u202earound\u202c, sent \u2028 on")
print("\x1b[8mhidden\x1b[0m, \x1b[2J\x1b[Hwiped?")
print("\x1b]0;never ended")
print("still seen")
import runtime
runtime.progress(0.5, markup)
(pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"]) / "<img src=x>.txt").write_text("x")
raise ValueError(markup)
"""


def test_hostile_output_stays_text(daemon: Daemon, window: Windows) -> None:
    made = window(daemon)
    page = show(made, post_function(daemon, HOSTILE, name="<img src=x onerror=alert(1)>"))
    wait_ended(page)
    expect(page.locator("pre.traceback")).to_contain_text("<script>")
    main = page.locator("main")
    assert main.locator("script, img, i, u, b, iframe, [onclick], [onerror]").count() == 0
    assert main.locator("a:not([href^='#/'])").count() == 0
    assert "owned" not in page.title()
    read = rows(page)
    assert read[-1].startswith("The code failed: ValueError: <script>")
    # stdout and stderr come by ways of their own.
    markup = [row for row in read[:-1] if row.startswith("<script>")]
    assert len(markup) == 2 and markup[0] == markup[1]
    assert [row for row in read[:-1] if row not in markup] == [
        "<i>nul first</i>",
        r"\xff\xfe<u>no utf-8</u>",
        "title set",
        "link",
        'nclick=x"mred?',
        r"turned \u202earound\u202c, sent \u2028 on",
        "hidden, wiped?",
        "",
        "still seen",
    ]
    expect(page.locator(".log-row [class*=onclick]")).to_have_count(0)
    assert page.evaluate("document.querySelectorAll('[style*=javascript]').length") == 0


def test_bars_write_over_their_line_and_colours_are_classes(
    daemon: Daemon, window: Windows
) -> None:
    program = r"""
for percent in range(0, 101, 10):
    print(f"\r\x1b[K\x1b[32m{percent:3d}%\x1b[0m|{'#' * (percent // 10)}", end="", flush=True)
    time.sleep(0.01)
print()
print("\x1b[1;38;5;196mloud\x1b[0m plain")
"""
    page = show(window(daemon), post(daemon, program))
    wait_ended(page)
    assert rows(page)[:2] == ["100%|##########", "loud plain"]
    expect(page.locator(".ansi-fg-2")).to_have_text("100%")
    expect(page.locator(".ansi-fg-9.ansi-bold")).to_have_text("loud")


def test_a_million_lines_leave_the_browser_alone(daemon: Daemon, window: Windows) -> None:
    program = """
text = "".join(f"line {number} of very many\\n" for number in range(1_000_000))
sys.stdout.write(text)
print("the end needle")
"""
    job_id = post(daemon, program)
    daemon.wait_job(job_id, "ended", timeout_s=100)
    page = show(window(daemon), job_id)
    wait_ended(page)
    expect(page.locator(".log-text").nth(-2)).to_have_text("the end needle")
    expect(page.locator(".log-count")).to_have_text(re.compile(r"^\d{3},\d{3} lines and more$"))
    assert page.evaluate("document.querySelectorAll('*').length") < 1500
    assert page.evaluate("document.querySelectorAll('.log-row').length") < 120

    page.locator(".log-scroll").focus()
    page.keyboard.press("Control+Home")
    expect(page.locator(".log-text").first).to_have_text("line 0 of very many")
    # What isn't shown is said in its place.
    page.locator(".log-scroll").evaluate(
        """element => {
            const row = element.querySelector(".log-row").getBoundingClientRect();
            element.scrollTop = 5000 * row.height;
        }"""
    )
    gap = page.locator(".log-gap")
    expect(gap.first).to_contain_text("lines and more are not kept on this page")
    with page.expect_download() as saving:
        gap.first.get_by_role("button").click()
    saved = Path(saving.value.path()).read_bytes()
    assert saved.startswith(b"line 0 of") and saved.endswith(b"the end needle\n")
    assert saved.count(b"\n") == 1_000_001

    page.get_by_label("Search the output").fill("needle")
    expect(page.locator(".log-found")).to_have_text("1 of 1")
    assert page.evaluate("document.querySelectorAll('*').length") < 1500


def test_what_is_read_stays_in_sight_while_rows_before_it_are_dropped(
    daemon: Daemon, window: Windows, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    program = f"""
write = lambda begin, end: print("\\n".join(f"line {{n}}" for n in range(begin, end)), flush=True)
write(0, 60_000)
while not pathlib.Path({str(more)!r}).exists():
    time.sleep(0.02)
write(60_000, 80_000)
"""
    page = show(window(daemon), post(daemon, program))
    expect(page.locator(".log-count")).to_have_text("60,000 lines")
    page.get_by_label("Search the output").fill("line 41234")
    expect(page.locator(".log-found")).to_have_text("1 of 1")
    current = page.locator("mark.is-current")
    before = current.bounding_box()
    more.touch()
    wait_ended(page)
    expect(page.locator(".log-count")).to_have_text("80,000 lines")
    after = current.bounding_box()
    assert before is not None and after is not None
    assert abs(before["y"] - after["y"]) < 3
    expect(page.locator(".log-found")).to_have_text("1 of 1")


def test_one_endless_coloured_line_is_bounded(daemon: Daemon, window: Windows) -> None:
    program = r"""
sys.stdout.write("".join(f"\x1b[3{n % 8}mx" for n in range(200_000)))
"""
    page = show(window(daemon), post(daemon, program))
    wait_ended(page)
    expect(page.locator(".log-count")).to_have_text("1 line")
    assert page.evaluate("document.querySelectorAll('*').length") < 20_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_jobs_page_is_sound_for_screen_readers_and_narrow_windows(
    daemon: Daemon, window: Windows, scheme: str
) -> None:
    program = """
for number in range(300):
    stream = sys.stderr if number % 2 else sys.stdout
    print(f"\\x1b[3{number % 8}mcolour {number % 8}\\x1b[0m", file=stream)
print("a long line " * 50)
(pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"]) / ("long-" * 30 + ".bin")).write_bytes(b"x")
raise ValueError("x" * 300)
"""
    job_id = post_function(daemon, program, name="a-name-without-any-blank-" * 6)
    for width in (400, 1600):
        made = window(daemon, viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = show(made, job_id)
        wait_ended(page)
        expect(page.locator(".traceback")).to_be_visible()
        page.get_by_label("Search the output").fill("colour")
        expect(page.locator(".log-found")).to_contain_text("of 300")
        assert not made.scrolls_sideways()
        assert made.violations() == []
