"""The old SDK's zips: main.py runs in its folder, and says how it ended by what it leaves there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_kit import JobFolder

from cumulus_runner import legacy
from cumulus_wire.journal import Kind
from tests.old_sdk import OldPackager

NewJob = Callable[..., JobFolder]


def add(a: int, b: int) -> dict[str, int]:
    print("adding")
    return {"sum": a + b}


def test_a_zip_as_the_old_packager_made_it(new_job: NewJob) -> None:
    job = new_job()
    # What it brings as `runtime` needs torch, which isn't here: ours stands in, or none does.
    files: Any = {
        "main.py": "import json, os, sys\n"
        "assert sys.path[0].endswith('inside') and os.getcwd() == os.environ['CUMULUS_JOB_DIR']\n"
        "assert sys.argv == [os.path.abspath('main.py')] and __name__ == '__main__'\n"
        "assert not os.path.exists('runtime.py')\n"
        "assert json.load(open('job_config.json'))['kwargs'] == {'b': 2}\n"
        "from function import add\n"
        "json.dump({'success': True, 'result': add(1, b=2)}, open('result.json', 'w'))\n",
        "function.py": "def add(a, b):\n    print('adding')\n    return {'sum': a + b}\n",
        "runtime.py": "import torch",
        "distributed_checkpointer.py": "import torch",
        "requirements.txt": "",
        "job_config.json": json.dumps({"job_id": "x", "args": [1], "kwargs": {"b": 2}}),
    }
    end = job.package(files).run()
    assert (end["outcome"], end["exit_code"]) == ("completed", 0), end
    assert job.output(Kind.RESULT) == b'{"success": true, "result": {"sum": 3}}', "byte for byte"
    assert end["result"]["encoding"] == "json"
    assert job.output(Kind.STDOUT) == b"adding\n"


def test_its_own_processes_find_our_runtime_too(new_job: NewJob) -> None:
    main = (
        "import os, subprocess, sys\n"
        "code = 'import sys; print([p.endswith(\"inside\") for p in sys.path[1:3]])'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    job = new_job().package({"main.py": main})
    assert job.run()["outcome"] == "completed"
    assert job.output(Kind.STDOUT) == b"[True, False]\n"


@pytest.mark.parametrize("exits", ["sys.exit(1)", "pass"])
def test_an_error_file_is_the_jobs_error(new_job: NewJob, exits: str) -> None:
    main = f"""
import json, sys, traceback
try:
    raise ValueError("boom")
except Exception as e:
    json.dump({{"success": False, "error": str(e), "traceback": traceback.format_exc()}},
              open("error.json", "w"))
    {exits}
"""
    job = new_job().package({"main.py": main})
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "user_error")
    assert end["message"] == "ValueError: boom"
    (error,) = job.jsons(Kind.ERROR)
    assert (error["type"], error["message"]) == ("ValueError", "boom")
    assert "main.py" in error["traceback"]


def test_what_main_raises_itself_is_its_error(new_job: NewJob) -> None:
    end = new_job().package({"main.py": "raise KeyError('x')"}).run()
    assert (end["reason"], end["message"]) == ("user_error", "KeyError: 'x'")


@pytest.mark.parametrize(
    ("main", "outcome", "reason", "result"),
    [
        ("print(1)", "completed", None, b""),
        ("import sys; sys.exit(3)", "failed", "exit_code", b""),
        ("open('result.json','w').write('1'); raise SystemExit(3)", "failed", "exit_code", b""),
        ("open('result.json','w').write('{')", "failed", "result_invalid", b""),
        ("open('result.json','w').write('[NaN]')", "completed", None, b"[NaN]"),
        ("open('result.json','w').write('[' * 10**6)", "failed", "result_invalid", b""),
        ("import os; os.symlink('/etc/passwd', 'result.json')", "completed", None, b""),
        ("import os; os.mkfifo('result.json')", "completed", None, b""),
        ("import os; open('result.json','w').write('1'); os.kill(os.getpid(), 9)",
         "failed", "signalled", b""),
        ("for n in ('result', 'error'): open(n + '.json','w').write('1')",
         "completed", None, b"1"),
    ],
)  # fmt: skip
def test_ends(new_job: NewJob, main: str, outcome: str, reason: str | None, result: bytes) -> None:
    job = new_job().package({"main.py": main})
    end = job.run()
    assert (end["outcome"], end["reason"]) == (outcome, reason), end
    assert job.output(Kind.RESULT) == result


def test_what_an_earlier_run_left_is_not_this_ones_end(new_job: NewJob) -> None:
    files = {"main.py": "print('now')", "result.json": '"old"', "error.json": '{"error": "old"}'}
    job = new_job().package(files)
    assert (job.run()["outcome"], job.output(Kind.RESULT)) == ("completed", b"")


def test_a_zip_with_neither_is_told_what_is_missing(new_job: NewJob) -> None:
    end = new_job().package({"function.py": "x"}).run()
    assert end["reason"] == "package_invalid"
    assert "cumulus_package.json" in end["message"] and "main.py" in end["message"]


@pytest.mark.parametrize(
    ("left", "error"),
    [
        ({"message": "m", "type": "a.b.E", "traceback": "t"}, ("E", "a.b", "m", "t")),
        ({"error": {"type": "E", "message": "m"}, "traceback": ["a", "b"]},
         ("E", "builtins", "m", "ab")),
        ({"error": "E: m", "error_type": "E"}, ("E", "builtins", "m", "")),
        ({"traceback": "Traceback:\n  x\nx.y.E: m m\n"},
         ("E", "x.y", "m m", "Traceback:\n  x\nx.y.E: m m\n")),
        ({"traceback": "KeyError\n"}, ("KeyError", "builtins", "", "KeyError\n")),
        ("just text", ("Exception", "builtins", "just text", "")),
        ({"traceback": "x\nruntime.CooperativePause: the job pauses"},
         ("CooperativePause", "runtime", "the job pauses",
          "x\nruntime.CooperativePause: the job pauses")),
        ({"error": 7}, ("Exception", "builtins", "", "")),
        ([1], ("Exception", "builtins", "[1]", "")),
    ],
)  # fmt: skip
def test_an_error_is_found_under_many_names(tmp_path: Path, left: Any, error: Any) -> None:
    path = tmp_path / "error.json"
    path.write_text(json.dumps(left))
    assert legacy.read_error(str(path)) == dict(
        zip(("type", "module", "message", "traceback"), error, strict=True)
    )


def test_an_error_that_is_no_json_is_its_text(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    path.write_bytes(b"boom \xff")
    found = legacy.read_error(str(path))
    assert found is not None and found["message"] == "boom �"
    assert legacy.read_error(str(tmp_path / "none.json")) is None


def test_the_old_packager_makes_what_is_looked_for() -> None:
    assert OldPackager().package_function(add, ["six"], "x", [1], b=2)[:2] == b"PK"
