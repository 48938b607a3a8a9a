"""What people type: durations, shares, moments, variables, secrets, requirements, verbs."""

import argparse
import errno
import functools
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus_client.cli import connecting, log_lines, output, results, running, targets, values
from cumulus_client.cli.command import VERBS
from cumulus_client.cli.completion import SHELLS, script
from cumulus_client.cli.exits import exit_code
from cumulus_client.cli.parser import UsageError
from cumulus_client.cli.requirements_files import read_requirements
from cumulus_wire.journal import Kind, Record


def test_run_takes_all_of_its_options() -> None:
    line = (
        "--gpu-memory 25% --duration 1h30m -r a.txt -r b.txt --requirement six --with numpy "
        "--name n --env A=1 --env B=x=y --secret S --file d.csv --cpu 2 --memory 1GiB "
        "--queue-timeout 0 --setup-timeout 5m --priority 3 --retries 2 --server http://h:1 "
        "--api-key k --profile p -dq --json s.py -- --flag -q"
    )
    options = running.RUN.parse(line.split())
    assert (options.gpu_memory, options.duration, options.queue_timeout) == (0.25, 5400, 0)
    assert options.requirements_files == [Path("a.txt"), Path("b.txt")]
    assert options.requirements == ["six", "numpy"]
    assert (options.cpu, options.memory, options.priority, options.retries) == (2, 1 << 30, 3, 2)
    assert (options.detach, options.quiet, options.json) == (True, True, True)
    assert options.words == ["s.py", "--", "--flag", "-q"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("s.py --gpu-memory 1", ["s.py", "--gpu-memory", "1"]),
        ("-q s.py -q", ["s.py", "-q"]),
        ("--duration=5 s.py", ["s.py"]),
        ("-rq s.py", ["s.py"]),
        ("-qr x s.py", ["s.py"]),
        ("-m a:b -- 1 x=2", ["--", "1", "x=2"]),
        ("-m a:b 1 x=2", ["1", "x=2"]),
        ("-- -odd.py", ["--", "-odd.py"]),
        ("", []),
    ],
)
def test_what_is_the_scripts_is_left_to_it(line: str, words: list[str]) -> None:
    assert running.RUN.parse(line.split()).words == words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5", 1.5), ("15m", 900), ("2h", 7200), ("1h30m5s", 5405)],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    ("read", "texts", "words"),
    [
        (values.duration, ["", "x", "1x", "-5", "h", "5m1h", "nan"], "no duration"),
        (values.duration, ["9" * 400], "more seconds than"),
        (values.size, ["9" * 400], "infinity"),
        (values.share, ["", "half", "nan", "inf", "50%%", "5%0"], "no share"),
        (values.size, ["", "big", "-1", "1X"], "no size"),
        (values.cores, ["", "0", "-1", "nan", "two"], "no number of cores"),
        (values.count, ["", "0", "-1", "1.5"], "no whole number"),
    ],
)
def test_wrong_values(read: Callable[[str], Any], texts: list[str], words: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            read(text)


def test_shares_and_moments() -> None:
    assert [values.share(text) for text in ("0.5", "50%", "1", "12.5 %")] == [0.5, 0.5, 1, 0.125]
    assert values.moment("10m", now=2e9) == 2e9 - 600
    assert values.moment("1700000000", now=2e9) == 1.7e9
    assert values.moment("2026-11-26T12:00:00+00:00", now=0) == 1795694400
    assert values.moment("2026-11-26", now=0) == pytest.approx(1795651200, abs=86400)
    with pytest.raises(ValueError, match="no moment such as 10m"):
        values.moment("soon", now=0)


def test_variables(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# a comment\nA=file\n\nB=two words # kept\n")
    assert values.environment(["A=given", "HERE", "E="], [path], {"HERE": "h"}) == {
        "A": "given", "B": "two words # kept", "HERE": "h", "E": "",
    }  # fmt: skip
    path.write_text("A=1\nno name=3\n")
    with pytest.raises(UsageError, match="line 2: 'no name=3' is neither"):
        values.environment([], [path])
    with pytest.raises(UsageError, match=r"--env-file .*none can't be read: No such file"):
        values.environment([], [tmp_path / "none"])


def test_secrets(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    found, visible = values.secrets(["A", f"B@{path}", "C=x@y=z"], {"A": "here"})
    assert found == {"A": "here", "B": "s3cret", "C": "x@y=z"}
    assert visible == ["C"]
    with pytest.raises(UsageError) as caught:
        values.secrets(["not a name=hidden"])
    assert "hidden" not in str(caught.value)
    with pytest.raises(UsageError, match=r"--secret A@ .*none can't be read"):
        values.secrets([f"A@{tmp_path}/none"])


def test_files(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    odd = tmp_path / "a=b"
    for path in (data, odd):
        path.write_text("1\n")
    assert values.files([]) is None
    assert values.files([str(data), str(odd)]) == [str(data), str(odd)]
    assert values.files([f"in/x.csv={data}", str(odd)]) == {"in/x.csv": str(data), "a=b": str(odd)}
    with pytest.raises(UsageError, match=r"--file .*none: there is no such file"):
        values.files([f"x={tmp_path}/none"])


def test_requirements_from_a_pipe() -> None:
    """As the shell's `-r <(pip freeze)` hands them over."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"six\n")
    finally:
        os.close(writing)
    try:
        assert read_requirements(Path(f"/dev/fd/{reading}")) == ["six"]
    finally:
        os.close(reading)


def test_requirements_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/base.txt").write_text("torch==2 \\\n  --hash=sha256:0\n")
    main = tmp_path / "r.txt"
    main.write_text("# a comment\nsix  # why\n\n-r sub/base.txt\npkg @ https://h/x#egg=pkg\n")
    assert read_requirements(main) == [
        "six",
        "torch==2    --hash=sha256:0",
        "pkg @ https://h/x#egg=pkg",
    ]
    main.write_text("six\n--index-url https://h\n")
    with pytest.raises(UsageError, match=r"r.txt, line 2: the option '--index-url'"):
        read_requirements(main)
    main.write_text("-r r.txt\n")
    with pytest.raises(UsageError, match="includes itself"):
        read_requirements(main)
    main.write_text("six\n\n-r gone.txt\n")
    with pytest.raises(UsageError, match=r"r.txt, line 3: there is no requirements file .*gone"):
        read_requirements(main)
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        read_requirements(tmp_path)


@pytest.mark.parametrize(
    ("status", "end", "code"),
    [
        ("completed", {}, 0),
        ("failed", {"reason": "exit_code", "exit_code": 3}, 3),
        ("failed", {"reason": "exit_code", "exit_code": 256}, 1),
        ("failed", {"reason": "user_error"}, 1),
        ("failed", {"reason": "signalled", "signal": 11}, 139),
        ("failed", {"reason": "worker_lost"}, 69),
        ("failed", {"reason": "queue_timeout"}, 69),
        ("failed", {"reason": "checkpoint_lost"}, 69),
        ("timeout", {"reason": "duration_exceeded"}, 124),
        ("cancelled", {"reason": "cancelled_by_user"}, 130),
    ],
)
def test_exit_codes(status: str, end: dict[str, Any], code: int) -> None:
    assert exit_code({"status": status, "end": end}) == code


def test_jobs_are_named_by_what_begins_their_id() -> None:
    ids = ["job_ab12", "job_ab99", "job_ffff", "old-client"]
    assert connecting.pick(ids, "job_ab1") == "job_ab12"
    assert connecting.pick(ids, "f") == "job_ffff"
    assert connecting.pick(ids, "old") == "old-client"
    assert connecting.pick(ids, "last") == "job_ab12"
    with pytest.raises(UsageError, match="beginning of 2 jobs' ids: job_ab12, job_ab99"):
        connecting.pick(ids, "ab")
    with pytest.raises(UsageError, match="no job 'job_fffe'; did you mean job_ffff"):
        connecting.pick(ids, "job_fffe")
    with pytest.raises(UsageError, match="no job 'zzz'; `cumulus jobs` shows"):
        connecting.pick(ids, "zzz")
    with pytest.raises(UsageError, match="no job ''"):
        connecting.pick(ids, "")
    with pytest.raises(UsageError, match="no last job"):
        connecting.pick([], "last")


def test_a_functions_arguments() -> None:
    assert targets.call_arguments(["3", "text", '{"a": [1]}', "x=1.5", "y=null", "z=a=b"]) == (
        [3, "text", {"a": [1]}],
        {"x": 1.5, "y": None, "z": "a=b"},
    )
    with pytest.raises(UsageError, match="x is given twice"):
        targets.call_arguments(["x=1", "x=2"])


def test_a_partial_keeps_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_module_with_a_partial")
    vars(module)["squared"] = squared = functools.partial(pow, exp=2)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert targets.find_function(f"{module.__name__}:squared") is squared


def test_tables_fit() -> None:
    lines = output.table(("A", "NOTE"), [("1", "long\nnote"), ("22", "")], 10)
    assert lines == ["A   NOTE", "1   long …", "22"]
    named = [("1", "a device of a long name", "9%", "note"), ("2", "short", "100%", "")]
    lines = output.table(("A", "DEVICE", "FREE", "NOTE"), named, 30, names="DEVICE")
    assert lines == [
        "A  DEVICE           FREE  NOTE",
        "1  a device of a …  9%    note",
        "2  short            100%",
    ]
    lines = output.table(("A", "DEVICE", "FREE", "NOTE"), named, 12, names="DEVICE")
    assert lines[1] == "1  a device…"
    assert [output.duration_told(s) for s in (0, 59.9, 60, 3661, 90061)] == [
        "0s", "59s", "1m00s", "1h01m", "1d01h",
    ]  # fmt: skip
    assert [output.size_told(size) for size in (5, 1536, 3 << 40)] == [
        "5 B", "1.5 KiB", "3072.0 GiB",
    ]  # fmt: skip


def record(kind: Kind, payload: bytes, time_us: int) -> Record:
    return Record(kind, payload, time_us, 0, 0)


def test_lines_of_two_streams() -> None:
    splitter = log_lines.LineSplitter()
    fed = [
        record(Kind.STDOUT, b"one\ntw", 1),
        record(Kind.STDERR, b"warn", 2),
        record(Kind.STATUS, b"{}", 3),
        record(Kind.STDOUT, b"o\n\xff", 4),
    ]
    lines = [line for each in fed for line in splitter.feed(each)]
    lines += splitter.finish()
    assert [(line.kind, line.time_us, line.data) for line in lines] == [
        (Kind.STDOUT, 1, b"one\n"),
        (Kind.STDOUT, 1, b"two\n"),
        (Kind.STDERR, 2, b"warn"),
        (Kind.STDOUT, 4, b"\xff"),
    ]
    assert log_lines.stamped(lines[2]) == b"1970-01-01T00:00:00.000002Z warn\n"
    assert json.loads(log_lines.as_json(lines[3])) == {
        "time": 4e-6, "stream": "stdout", "text": "�",
    }  # fmt: skip
    long = list(splitter.feed(record(Kind.STDOUT, b"x" * 40_000, 5)))
    assert [len(line.data) for line in long] == [16384, 16384]
    assert [len(line.data) for line in splitter.finish()] == [40_000 - 2 * 16384]


def test_outputs_stay_in_their_folder(tmp_path: Path) -> None:
    assert results.placed(tmp_path, "plots/a.png") == tmp_path / "plots/a.png"
    for name in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(UsageError, match="would not be in"):
            results.placed(tmp_path, name)


class FullDisk:
    """A client, and a job of it, whose outputs find no room."""

    job_id = "job_1"

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None: ...

    def attach(self, job_id: str) -> "FullDisk":
        return self

    def outputs(self) -> list[dict[str, Any]]:
        return [{"name": "a.bin", "size_bytes": 1, "sha256": ""}]

    def download(self, name: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_no_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "client_of", lambda options: FullDisk())
    monkeypatch.setattr(results, "job_view", lambda client, named: {"job_id": named})
    with pytest.raises(OSError, match="No space left") as caught:
        VERBS["download"].act(VERBS["download"].parse(["job_1", "-o", str(tmp_path)]))
    assert caught.value.filename == str(tmp_path / "a.bin")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_verb_and_option(shell: str) -> None:
    text = script(shell, VERBS)
    for verb in VERBS.values():
        assert verb.name in text
        for action in verb.parser()._actions:
            for option in action.option_strings:
                name = option.lstrip("-")
                assert (
                    (f"-l {name} " in text or f"-s {name} " in text)
                    if shell == "fish"
                    else (option in text)
                )
    assert "cumulus jobs --quiet" in text
