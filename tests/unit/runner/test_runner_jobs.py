"""Jobs that run to their own end: output, results, errors."""

import ast
import fcntl
import hashlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_kit import REPOSITORY, JobFolder

from cumulus_runner.code_process import may_start_early
from cumulus_wire import folder
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]


def test_a_function_runs(new_job: NewJob) -> None:
    job = new_job().function("def f(a, b): print('adding'); return {'sum': a + b}", 2, 3)
    code, out, _ = job.finish(job.start())
    assert code == 0
    # One print may come as two writes.
    kinds = [kind for kind, _ in itertools.groupby(record.kind for record in job.records())]
    assert kinds == [Kind.STATUS, Kind.STDOUT, Kind.RESULT, Kind.EXIT]
    assert job.jsons(Kind.STATUS) == [
        {"phase": "setup", "attempt": 1},
        {"phase": "running", "cached": False, "requirements": 0, "build_s": None},
    ]
    assert job.output(Kind.STDOUT) == b"adding\n"
    result = job.output(Kind.RESULT)
    assert json.loads(result) == {"sum": 5}
    end = job.exit()
    assert (end["outcome"], end["reason"], end["exit_code"]) == ("completed", None, 0)
    assert end["result"] == {
        "encoding": "json",
        "size_bytes": len(result),
        "sha256": hashlib.sha256(result).hexdigest(),
    }
    assert 0 < end["setup_s"] < 10 and 0 < end["run_s"] < 10
    # The container's own log: the output, and the result as its last line.
    assert out == b'adding\n{"sum":5}\n'


def test_an_async_function_is_run_to_its_end(new_job: NewJob) -> None:
    job = new_job().function(
        "import asyncio\n"
        "async def f(n):\n"
        "    await asyncio.sleep(0.01)\n"
        "    return [n, asyncio.get_running_loop().is_running()]\n",
        5,
    )
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) == [5, True]
    failing = new_job().function("async def f():\n    raise KeyError('k')\n")
    assert failing.run()["outcome"] == "failed"
    [error] = failing.jsons(Kind.ERROR)
    assert error["type"] == "KeyError"
    shown = [line for line in error["traceback"].splitlines() if line.startswith("  File")]
    assert len(shown) == 1 and "in f" in shown[0], error["traceback"]


def test_output_is_exact(new_job: NewJob) -> None:
    job = new_job().function(
        "import os, sys\n"
        "def f():\n"
        "    for i in range(20000):\n"
        "        print('line', i)\n"
        "    sys.stdout.buffer.write(bytes(range(256)) * 3)\n"
        "    sys.stderr.buffer.write(b'\\xff\\x00err')\n"
        "    print('the end', end='')\n"
    )
    assert job.run()["outcome"] == "completed"
    lines = b"".join(b"line %d\n" % i for i in range(20000))
    assert job.output(Kind.STDOUT) == lines + bytes(range(256)) * 3 + b"the end"
    assert job.output(Kind.STDERR) == b"\xff\x00err"


def test_many_short_lines_make_few_records(new_job: NewJob) -> None:
    job = new_job().function("def f():\n  for i in range(200000): print(i)")
    assert job.run()["run_s"] < 20
    assert job.output(Kind.STDOUT) == b"".join(b"%d\n" % i for i in range(200000))
    assert len(job.records()) < 5000


def test_output_comes_while_the_job_runs_in_order(new_job: NewJob) -> None:
    job = new_job().script(
        "import sys, time\n"
        "for i in range(4):\n"
        "    print(i, end=''); time.sleep(0.05); print(i, end='', file=sys.stderr)\n"
        "    time.sleep(0.05)\n"
    )
    job.run()
    output = [r for r in job.records() if r.kind in (Kind.STDOUT, Kind.STDERR)]
    assert [(r.kind, r.payload) for r in output] == [
        (kind, b"%d" % i) for i in range(4) for kind in (Kind.STDOUT, Kind.STDERR)
    ]
    assert output[-1].time_us - output[0].time_us > 200_000


def test_a_descendant_that_keeps_the_pipe_open_holds_nothing_up(new_job: NewJob) -> None:
    job = new_job().script(
        "import os, time\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.write(1, b'child'); os.write(w, b'x'); time.sleep(600)\n"
        "os.read(r, 1)"
    )
    end = job.run()
    assert end["outcome"] == "completed" and end["run_s"] < 2
    assert job.output(Kind.STDOUT) == b"child"


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("[1, 2.5, 'ü', None, True, {'a': []}]", "json"),
        ("(1, 2)", "pickle"),
        ("{1: 2}", "pickle"),
        ("float('nan')", "pickle"),
        ("'\\ud800'", "pickle"),
        ("{1, 2}", "pickle"),
        ("-0.0", "json"),
        ("10 ** 3000", "json"),
    ],
)
def test_results_come_back_unchanged(new_job: NewJob, value: str, encoding: str) -> None:
    job = new_job().function(f"def f(): return {value}")
    assert job.run()["result"]["encoding"] == encoding
    data = job.output(Kind.RESULT)
    back = json.loads(data) if encoding == "json" else pickle.loads(data)
    assert repr(back) == repr(eval(value))


def test_a_large_result_spans_records(new_job: NewJob) -> None:
    job = new_job().function("def f(): return b'x' * 3_000_000")
    _, out, _ = job.finish(job.start())
    end = job.exit()
    data = job.output(Kind.RESULT)
    assert pickle.loads(data) == b"x" * 3_000_000
    assert end["result"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert json.loads(out) == end["result"]


def test_a_result_that_cant_be_brought_back(new_job: NewJob) -> None:
    end = new_job().function("import threading\ndef f(): return threading.Lock()").run()
    assert (end["outcome"], end["reason"], end["result"]) == ("failed", "result_invalid", None)
    assert "_thread.lock" in end["message"] and "pickle" in end["message"]


def test_an_exception_tells_its_story(new_job: NewJob) -> None:
    source = (
        "def g():\n    raise KeyError('deep')\n"
        "def f():\n    try:\n        g()\n    except KeyError as error:\n"
        "        raise ValueError('boom') from error\n"
    )
    job = new_job().function(source)
    code, _, err = job.finish(job.start())
    end = job.exit()
    assert code == 1
    assert (end["outcome"], end["reason"]) == ("failed", "user_error")
    assert end["message"] == "ValueError: boom"
    (error,) = job.jsons(Kind.ERROR)
    assert (error["type"], error["module"], error["message"]) == ("ValueError", "builtins", "boom")
    text = error["traceback"]
    assert "raise KeyError('deep')" in text and "raise ValueError('boom') from error" in text
    assert "direct cause" in text and "bootstrap" not in text and "importlib" not in text
    assert text.encode() in err  # in the container's log too
    assert [r.kind for r in job.records()][-2:] == [Kind.ERROR, Kind.EXIT]


def test_an_error_while_importing_the_code(new_job: NewJob) -> None:
    job = new_job().function("import absent_package_x\ndef f(): pass")
    end = job.run()
    assert end["reason"] == "user_error"
    assert "absent_package_x" in end["message"] and "requirements" in end["hint"]
    text = job.jsons(Kind.ERROR)[0]["traceback"]
    assert "task.py" in text and "importlib" not in text and "bootstrap" not in text


def test_a_monstrous_exception_fits_its_record(new_job: NewJob) -> None:
    job = new_job().function("def f(): raise ValueError('\\U0001f600\\udc00' * 2_000_000)")
    assert job.run()["reason"] == "user_error"
    assert len(job.jsons(Kind.ERROR)[0]["message"]) > 1000


def test_a_program_that_submits_has_a_hint(new_job: NewJob) -> None:
    raised = "raise ModuleNotFoundError(name='cumulus_client')"  # as where jobs have none
    end = new_job().script(raised).run()
    assert end["reason"] == "user_error" and "Jobs have no cumulus_client" in end["hint"]


def test_memory_error_has_a_hint(new_job: NewJob) -> None:
    end = new_job().function("def f(): raise MemoryError()").run()
    assert end["reason"] == "user_error" and "memory_bytes" in end["hint"]


@pytest.mark.parametrize(
    ("source", "code", "err"),
    [
        ("import sys\nsys.exit(3)", 3, b""),
        ("raise SystemExit('so not')", 1, b"so not\n"),
        ("import os\nos._exit(9)", 9, b""),
    ],
)
def test_exit_codes(new_job: NewJob, source: str, code: int, err: bytes) -> None:
    job = new_job().script(source)
    end = job.run()
    assert (end["outcome"], end["reason"], end["exit_code"]) == ("failed", "exit_code", code)
    assert str(code) in end["message"]
    assert job.output(Kind.STDERR) == err
    assert job.jsons(Kind.ERROR) == []


def test_leaving_with_zero_is_success(new_job: NewJob) -> None:
    end = new_job().script("import sys\nsys.exit(0)").run()
    assert (end["outcome"], end["exit_code"], end["result"]) == ("completed", 0, None)


def test_killed_by_a_signal(new_job: NewJob) -> None:
    end = new_job().script("import os\nos.kill(os.getpid(), 11)").run()
    assert (end["outcome"], end["reason"]) == ("failed", "signalled")
    assert end["signal"] == signal.SIGSEGV and end["exit_code"] is None
    assert "SIGSEGV" in end["message"]


def test_a_value_returned_before_a_crash_at_exit_is_kept(new_job: NewJob) -> None:
    source = "import atexit, os\natexit.register(os.kill, os.getpid(), 11)\ndef f(): return 7"
    job = new_job().function(source)
    end = job.run()
    assert end["outcome"] == "completed" and end["signal"] == signal.SIGSEGV
    assert "SIGSEGV" in end["message"] and job.output(Kind.RESULT) == b"7"


def test_scripts_are_main_and_have_arguments(new_job: NewJob) -> None:
    source = (
        "import multiprocessing as mp, sys\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    print(sys.argv[1:], __file__.endswith('script.py'))\n"
        "    with mp.get_context('spawn').Pool(1) as pool: print(pool.map(double, [21]))\n"
    )
    job = new_job().script(source, "--lr", "0.1")
    assert job.run()["outcome"] == "completed"
    assert job.output(Kind.STDOUT) == b"['--lr', '0.1'] True\n[42]\n"


def test_a_forked_child_that_returns_reports_nothing(new_job: NewJob) -> None:
    source = (
        "import os\ndef f():\n"
        "    pid = os.fork()\n"
        "    if pid == 0: raise ValueError('the child')\n"
        "    os.waitpid(pid, 0)\n    return 'the parent'"
    )
    job = new_job().function(source)
    assert job.run()["outcome"] == "completed"
    assert job.output(Kind.RESULT) == b'"the parent"'


@pytest.mark.parametrize(
    ("manifest", "reason", "words"),
    [
        ({"module": "absent"}, "entry_point_missing", "no module absent"),
        ({"module": "absent.deep"}, "entry_point_missing", "no module absent.deep"),
        ({"function": "g"}, "entry_point_missing", "no function g"),
        ({"function": "constant"}, "entry_point_missing", "can't be called"),
        ({"call": "other.json"}, "package_invalid", "other.json"),
        ({"call": "../../job.json"}, "package_invalid", "outside"),
        ({"kind": "binary"}, "package_invalid", "binary"),
        ({"version": 2}, "package_invalid", "version 1"),
        ({"python": "3.1"}, "package_invalid", "pickled by Python 3.1, and"),
        ({"python": 3}, "package_invalid", "python in"),
        ({"vendor": "../x"}, "package_invalid", "outside"),
        ({"aliases": {"a": 1}}, "package_invalid", "aliases"),
        ({"kind": "script", "path": "x.py"}, "entry_point_missing", "x.py"),
        ({"kind": "script", "path": "task.py", "argv": 3}, "package_invalid", "argv"),
    ],
)
def test_faulty_manifests(
    new_job: NewJob, manifest: dict[str, Any], reason: str, words: str
) -> None:
    whole = {"version": 1, "kind": "function", "module": "task", "function": "f"}
    job = new_job().package(
        {
            folder.MANIFEST: json.dumps({**whole, "call": "call.json", **manifest}),
            "call.json": '{"encoding": "json", "args": [], "kwargs": {}}',
            "task.py": "constant = 1\ndef f(): pass",
        }
    )
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", reason)
    assert words in end["message"]
    # The interpreter that waited for the code is gone, too.
    with (job.path / folder.LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_pickled_arguments(new_job: NewJob) -> None:
    job = new_job().function("def f(*a, **k): return [list(a), k]")
    package = {
        folder.MANIFEST: json.dumps(
            {"version": 1, "kind": "function", "module": "t", "function": "f", "call": "c.json"}
        ),
        "c.json": '{"encoding": "pickle", "path": "call.pickle"}',
        "call.pickle": pickle.dumps(((1, 2), {"x": 3}), 0).decode(),
        "t.py": "def f(*a, **k): return [list(a), k]",
    }
    assert job.package(package).run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) == [[1, 2], {"x": 3}]


def test_arguments_of_a_type_that_isnt_there(new_job: NewJob) -> None:
    job = new_job().package(
        {
            folder.MANIFEST: json.dumps(
                {"version": 1, "kind": "function", "module": "t", "function": "f", "call": "c.json"}
            ),
            "c.json": '{"encoding": "pickle", "path": "p"}',
            "p": "cabsent_module\nThing\n.",
            "t.py": "def f(): pass",
        }
    )
    end = job.run()
    assert end["reason"] == "package_invalid" and "absent_module" in end["message"]


def test_the_jobs_environment(new_job: NewJob, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    job = new_job(
        environment={"CUMULUS_PARTITION_ID": "p-8", "MINE": "yes", "LANG": "C"},
        partition_id="p-9",
        device_index=3,
        kept=kept,
    )
    job.function(
        "import os, sys\n"
        "def f(): return [dict(os.environ), os.getcwd(), sys.path, os.getpid() == os.getpgrp(),\n"
        "  os.listdir(os.environ['TMPDIR']), sys.stdin.read()]"
    )
    job.run(LEAKS="no", SSL_CERT_FILE="/ca.pem", https_proxy="http://proxy")
    variables, directory, path, leads, temporary, stdin = json.loads(job.output(Kind.RESULT))
    work, scratch = str(job.path / folder.WORK), str(job.path / folder.SCRATCH)
    assert directory == path[0] == work and path.count(work) == 1
    inside = str(REPOSITORY / "cumulus_runner" / "inside")
    assert [entry for entry in path if "cumulus_runner" in entry] == [inside] == path[1:2]
    assert os.path.isdir(variables["CUMULUS_CONTROL_DIR"])
    assert all(os.path.isdir(f"{kept}/{name}") for name in ("checkpoints", "artifacts", "outputs"))
    assert leads and temporary == [] and stdin == ""
    expected = {
        "CUMULUS_JOB_ID": "job-1",
        "CUMULUS_JOB_DIR": work,
        "CUMULUS_PARTITION_ID": "p-9",
        "CUMULUS_DEVICE_INDEX": "3",
        "CUMULUS_ATTEMPT": "1",
        "CUMULUS_CONTROL_DIR": scratch + "/.cumulus/control",
        "CUMULUS_CHECKPOINT_DIR": kept + "/checkpoints",
        "CUMULUS_ARTIFACT_DIR": kept + "/artifacts",
        "CUMULUS_OUTPUT_DIR": kept + "/outputs",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "MINE": "yes",
        "LANG": "C",
        "HOME": scratch,
        "TMPDIR": scratch + "/tmp",
        "PYTHONPATH": f"{work}:{inside}",
        "PYTHONUNBUFFERED": "1",
        "SSL_CERT_FILE": "/ca.pem",
        "https_proxy": "http://proxy",
    }
    assert expected.items() <= variables.items()
    assert "LEAKS" not in variables
    allowed = {"PATH", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    assert {n for n in variables if "proxy" not in n.lower()} - set(expected) <= allowed


def test_a_module_of_the_users_with_a_standard_name(new_job: NewJob) -> None:
    job = new_job().function(
        "import queue\ndef f(): return queue.mine", **{"queue.py": "mine = 'mine'"}
    )
    job.run()
    assert job.output(Kind.RESULT) == b'"mine"'


def test_a_package_that_changes_how_the_interpreter_starts(new_job: NewJob) -> None:
    job = new_job().function(
        "import sys\ndef f(): return sys.begun_by",
        **{"sitecustomize.py": "import sys; sys.begun_by = 'the package'"},
    )
    assert job.run()["outcome"] == "completed"
    assert job.output(Kind.RESULT) == b'"the package"'


def test_nothing_of_the_package_is_loaded_before_the_code_begins(
    new_job: NewJob, tmp_path: Path
) -> None:
    slow = tmp_path / "python"  # the package is there when it looks for its first module
    slow.write_text(f'#!/bin/sh\nsleep 0.3\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    job = new_job(python=str(slow)).function(
        "def f(): return 'begun'", **{"encodings/__init__.py": "raise SystemExit('too early')"}
    )
    assert job.run()["outcome"] == "completed"
    assert job.output(Kind.RESULT) == b'"begun"'


def test_variables_by_which_an_interpreter_loads_more_make_it_start_later() -> None:
    assert may_start_early(("MINE", "XLA_PYTHON_CLIENT_MEM_FRACTION"))
    for name in ("PYTHONUSERBASE", "PYTHONWARNINGS", "PYTHONHOME", "HOME", "GCONV_PATH"):
        assert not may_start_early(("MINE", name))


def test_an_interpreter_that_ends_before_the_code_begins(new_job: NewJob, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    broken.chmod(0o755)
    job = new_job(python=str(broken)).function("def f(): pass")
    end = job.run()
    assert (end["outcome"], end["exit_code"]) == ("failed", 3)
    assert job.output(Kind.STDERR) == b"broken\n"


def test_faulty_orders_are_said_in_the_journal(new_job: NewJob) -> None:
    job = new_job(duration_s="long", segment_bytes=0).function("def f(): pass")
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "runner_failed")
    assert "duration_s" in end["message"] and "segment_bytes" in end["message"]


def test_a_python_that_isnt_there(new_job: NewJob) -> None:
    end = new_job(python="/nowhere/python").function("def f(): pass").run()
    assert end["reason"] == "runner_failed"
    assert "/nowhere/python" in end["message"] and "No such file" in end["message"]


def test_another_python_runs_the_code(new_job: NewJob) -> None:
    other = Path("/usr/bin/python3")
    if not other.exists():
        pytest.skip("there is no second Python at /usr/bin/python3")
    job = new_job(python=str(other)).function("import sys\ndef f(): return sys.executable")
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) == str(other)


def test_the_containers_log_is_bounded_and_never_blocks(new_job: NewJob) -> None:
    job = new_job().function("def f():\n  print('y' * 3_000_000)\n  return 5")
    process = job.start()  # nobody reads its pipes until it has ended
    process.wait(30)
    _, out, _ = job.finish(process)
    assert job.exit()["outcome"] == "completed"
    assert len(job.output(Kind.STDOUT)) == 3_000_001
    assert len(out) < 1_100_000


@pytest.mark.parametrize("way", ["folder", "file", "module"])
def test_ways_to_start(new_job: NewJob, way: str) -> None:
    runner = REPOSITORY / "cumulus_runner"
    start = {
        "folder": [str(runner)],
        "file": [str(runner / "__main__.py")],
        "module": ["-m", "cumulus_runner"],
    }[way]
    if (
        way == "module"
        and subprocess.run(
            [sys.executable, "-I", "-c", "import cumulus_runner"], stderr=subprocess.DEVNULL
        ).returncode
    ):
        pytest.skip("cumulus_runner isn't installed in this Python, so -I can't find it")
    job = new_job().function("def f(): return 1")
    subprocess.run(
        [sys.executable, "-I", *start, str(job.path)], check=True, stdout=subprocess.DEVNULL
    )
    assert job.exit()["outcome"] == "completed"


def test_usage_and_folders_that_arent_there(tmp_path: Path) -> None:
    command = [sys.executable, "-I", str(REPOSITORY / "cumulus_runner")]
    usage = subprocess.run(command, capture_output=True)
    assert usage.returncode == 64 and b"usage" in usage.stderr
    absent = subprocess.run([*command, str(tmp_path / "absent")], capture_output=True)
    assert absent.returncode == 74 and b"No such file" in absent.stderr


def test_it_starts_with_light_imports_only() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import cumulus_wire; "
        "cumulus_wire.is_light = True; import cumulus_runner.command; "
        "import cumulus_runner.job_values, cumulus_runner.layer_fingerprint; "
        "print(*sys.modules)"
    )
    loaded = subprocess.check_output(
        [sys.executable, "-I", "-S", "-c", code, str(REPOSITORY)], text=True
    ).split()
    heavy = {"asyncio", "dataclasses", "logging", "subprocess", "zipfile", "hashlib", "shutil"}
    heavy |= {"typing", "cumulus_runner.environment", "cumulus_runner.requirements"}
    heavy |= {"collections", "ctypes", "enum", "functools", "json", "re", "runpy", "signal"}
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("name", ["bootstrap", "job_errors", "job_values", "frameworks"])
def test_bootstrap_stands_alone_and_is_old_python(name: str) -> None:
    text = (REPOSITORY / "cumulus_runner" / f"{name}.py").read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    checked = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if node not in checked
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names
