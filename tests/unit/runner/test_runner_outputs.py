"""What the runner lists of a job's output folder, whatever the job made of it."""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_kit import JobFolder, fake_agent, until

from cumulus_runner import outputs
from cumulus_runner.outputs import list_outputs
from cumulus_wire.outputs import MAX_NAME_BYTES, name_fault

NewJob = Callable[..., JobFolder]


def listed(
    folder: Path, max_files: int = 1000, max_bytes: int = 1 << 30
) -> tuple[dict[str, tuple[int, str | None]], str | None]:
    found, note = list_outputs(str(folder), max_files, max_bytes, lambda: True)
    return {one["name"]: (one["size_bytes"], one["sha256"]) for one in found}, note


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_files_of_all_folders_are_listed_with_their_hashes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.bin").write_bytes(b"m" * 3_000_000)
    (tmp_path / "a" / "b" / "größe, 1.txt").write_bytes(b"")
    found, note = listed(tmp_path)
    assert found == {
        "a/b/größe, 1.txt": (0, sha256(b"")),
        "model.bin": (3_000_000, sha256(b"m" * 3_000_000)),
    }
    assert note is None


def test_nothing_but_regular_files_below_the_folder_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("not yours")
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "good").write_text("mine")
    (folder / "link").symlink_to(secret / "key")
    (folder / "folder").symlink_to(secret)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(folder)
        bound.bind("socket")
        os.chdir("/")
    found, note = listed(folder)
    assert set(found) == {"good"}
    assert note is not None
    assert "5 left out" in note
    assert "'link' (a link: only regular files are kept)" in note
    assert "'fifo' (no regular file)" in note


def test_the_folder_itself_may_be_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        list_outputs(str(tmp_path / "outputs"), 10, 10, lambda: True)


def test_what_is_over_a_bound_is_left_out_and_told(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"f{number:02}").write_bytes(b"x" * 10)
    found, note = listed(tmp_path, max_files=10)
    assert len(found) == 10
    assert note is not None
    assert "a job may leave 10 files" in note

    (tmp_path / "f05").write_bytes(b"x" * 1000)
    found, note = listed(tmp_path, max_bytes=500)
    assert len(found) == 11, "one that is too large doesn't keep the others out"
    assert note == "1 left out: 'f05' (1000 bytes, a job may leave 500 in all)"


def test_names_that_are_no_names_elsewhere_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "new\nline").write_text("")
    (tmp_path / "back\\slash").write_text("")
    with open(os.fsencode(tmp_path) + b"/\xff", "w"):
        pass
    deep = tmp_path
    for _ in range(4):
        deep = deep / ("d" * 200)
        deep.mkdir()
    (deep / "file").write_text("")
    found, note = listed(tmp_path)
    assert found == {}
    assert note is not None
    assert "control characters" in note
    assert "backslash" in note
    assert "no UTF-8" in note
    assert f"more than {MAX_NAME_BYTES} bytes" in note


def test_many_entries_end_the_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_ENTRIES", 20)
    for folder in range(5):
        (tmp_path / str(folder)).mkdir()
        for number in range(10):
            (tmp_path / str(folder) / str(number)).write_text("x")
    found, note = listed(tmp_path)
    assert 10 <= len(found) <= 20
    assert note is not None
    assert "only 20 entries are looked at" in note


def test_long_names_end_the_list_before_the_record_is_too_large(tmp_path: Path) -> None:
    for number in range(900):
        (tmp_path / f"{number:03}{'n' * 240}").write_text("")
    found, note = listed(tmp_path)
    assert 300 < len(found) < 900
    assert note is not None
    assert "too long together" in note


def test_what_there_is_no_time_to_hash_is_listed_without(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x" * (2 << 20))
    turns = iter([True] * 4)
    found, note = list_outputs(str(tmp_path), 10, 1 << 30, lambda: next(turns, False))
    assert [one["sha256"] for one in found] == [sha256(b"x" * (2 << 20)), None, None]
    assert note is None


def test_a_file_that_changes_meanwhile_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "grows").write_bytes(b"x" * (2 << 20))
    (tmp_path / "gone").write_bytes(b"x")

    def go_on() -> bool:
        (tmp_path / "gone").unlink(missing_ok=True)
        with (tmp_path / "grows").open("ab") as file:
            file.write(b"more")
        return True

    found, note = list_outputs(str(tmp_path), 10, 1 << 30, go_on)
    assert found == []
    assert note is not None
    assert "'grows' (it changed while it was listed)" in note
    assert "'gone' (can't be read: No such file or directory)" in note


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "x" * 600, "a\0b", "\ud800"]
)
def test_what_could_lead_elsewhere_is_no_name(name: str) -> None:
    assert name_fault(name) is not None


@pytest.mark.parametrize("name", ["a", "a/b.c", "...", "-rf", "größe", "a b"])
def test_ordinary_names_are_names(name: str) -> None:
    assert name_fault(name) is None


# -- in a job


WRITE = """
import os, pathlib, sys, time
out = pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"])
def f(*then):
    (out / "sub").mkdir()
    (out / "sub" / "model.bin").write_bytes(b"m" * 100)
    (out / "link").symlink_to("/etc/passwd")
    os.mkfifo(out / "fifo")
    print("written")
    for word in then:
        exec(word)
    return 1
"""


def kept(tmp_path: Path) -> str:
    (tmp_path / "kept").mkdir()
    return str(tmp_path / "kept")


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("pass", "completed"),
        ("raise ValueError('x')", "failed"),
        ("os.kill(os.getpid(), 9)", "failed"),
        ("time.sleep(60)", "timeout"),
    ],
)
def test_exit_lists_outputs_however_the_code_ended(
    new_job: NewJob, tmp_path: Path, then: str, outcome: str
) -> None:
    duration_s = 2.0 if outcome == "timeout" else 60.0
    job = new_job(kept=kept(tmp_path), duration_s=duration_s).function(WRITE, then)
    end = job.run()
    assert end["outcome"] == outcome
    assert end["outputs"] == [
        {"name": "sub/model.bin", "size_bytes": 100, "sha256": sha256(b"m" * 100)}
    ]
    assert "2 left out" in end["outputs_note"]


def test_a_cancelled_job_leaves_what_is_there(new_job: NewJob, tmp_path: Path) -> None:
    job = new_job(kept=kept(tmp_path)).function(WRITE, "time.sleep(60)")
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(job.said(b"written"), "the code runs")
        agent.stop("cancelled_by_user", 0.5)
        job.finish(process)
    end = job.exit()
    assert end["outcome"] == "cancelled"
    assert [one["name"] for one in end["outputs"]] == ["sub/model.bin"]


def test_a_job_that_takes_its_folder_away_has_none(new_job: NewJob, tmp_path: Path) -> None:
    take_away = "import shutil; shutil.rmtree(out)"
    end = new_job(kept=kept(tmp_path)).function(WRITE, take_away).run()
    assert (end["outcome"], end["outputs"], end["outputs_note"]) == ("completed", [], None)


def test_a_link_in_the_folders_place_is_not_followed(new_job: NewJob, tmp_path: Path) -> None:
    elsewhere = "import shutil; shutil.rmtree(out); out.symlink_to('/etc')"
    end = new_job(kept=kept(tmp_path)).function(WRITE, elsewhere).run()
    assert (end["outcome"], end["outputs"]) == ("completed", [])
    assert "the output folder could not be read" in end["outputs_note"]


def test_the_bounds_of_the_orders_hold(new_job: NewJob, tmp_path: Path) -> None:
    end = new_job(kept=kept(tmp_path), outputs_max_bytes=99).function(WRITE).run()
    assert end["outputs"] == []
    assert "(100 bytes, a job may leave 99 in all)" in end["outputs_note"]


def test_a_job_without_a_kept_folder_lists_nothing(new_job: NewJob) -> None:
    end = new_job().function("def f(): return 1").run()
    assert end["outcome"] == "completed"
    assert "outputs" not in end
