"""The code in a copy of the runner's interpreter: it finds what one of its own would give it."""

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

from cumulus_runner import bootstrap, code_process
from cumulus_wire import folder
from cumulus_wire.grant import OPENCL_LAYER, OPENCL_LAYERS_VARIABLE
from cumulus_wire.journal import Kind
from tests.unit.runner.runner_kit import (
    REPOSITORY,
    JobFolder,
    clean_environment,
    until,
)

NewJob = Callable[..., JobFolder]
#: Of a Python that is named it isn't known that it is the runner's.
OWN = os.path.join(sys.prefix, "bin", "..", "bin/python")
#: What a job's code can see of the process that it is in.
LOOK = """
import os, sys
def f():
    import json, locale, resource, signal, site, subprocess, time
    return json.dumps({
        "name": open("/proc/self/comm").read().strip(),
        "path": sys.path, "argv": sys.argv, "executable": sys.executable,
        "flags": list(sys.flags), "warnings": sys.warnoptions,
        "arguments": subprocess._args_from_interpreter_flags(),
        "environment": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0o22),
        "stdout": [sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering,
                   sys.stdout.write_through, type(sys.stdout.buffer).__name__],
        "stdin": sys.stdin.read(), "open": len(os.listdir("/proc/self/fd")),
        "signals": [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "locale": locale.getlocale(), "zone": time.tzname, "user site": site.getusersitepackages(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "leader": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "oom": open("/proc/self/oom_score_adj").read(),
        "cumulus": sorted(one for one in sys.modules if one.startswith("cumulus")),
    })
"""


def looked(job: JobFolder) -> dict[str, Any]:
    assert job.run()["outcome"] == "completed", job.jsons(Kind.ERROR)
    found: dict[str, Any] = json.loads(json.loads(job.output(Kind.RESULT)))
    return found


def test_it_sees_what_it_would_in_an_interpreter_of_its_own(new_job: NewJob) -> None:
    settings = {"OF_THE_JOB": "1", "TZ": "Asia/Tokyo"}
    copied = new_job(environment=settings).function(LOOK)
    own = new_job(environment=settings, python=OWN)
    ours, theirs = looked(copied), looked(own.function(LOOK))
    assert ours.pop("name") == folder.CODE_NAME != theirs.pop("name")
    for one, job in ((ours, copied), (theirs, own)):
        one.pop("executable")
        text = json.dumps(one).replace(str(job.path), "JOB").replace(job.path.name, "NAME")
        one.clear()
        one.update(json.loads(text))
    assert ours == theirs
    assert "OF_THE_JOB" in ours["environment"] and "JST" in ours["zone"]


def test_what_the_runner_was_started_to_ignore_the_code_doesnt(new_job: NewJob) -> None:
    """As a daemon's runner is, which a shell started in the background or by `nohup`."""
    job = new_job().function(LOOK)
    ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        runner = job.start()
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    job.finish(runner)
    found = json.loads(json.loads(job.output(Kind.RESULT)))
    assert found["name"] == folder.CODE_NAME
    assert found["signals"] == looked(new_job().function(LOOK))["signals"]


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "LC_TIME", "MALLOC_ARENA_MAX", "TZDIR"])
def test_what_the_runner_was_started_with_is_in_force_in_no_code(
    new_job: NewJob, name: str
) -> None:
    """A process keeps what it was started with: the job's own wouldn't have it."""
    job = new_job().function("def f(): return open('/proc/self/comm').read().strip()")
    assert job.run(**{name: "/nowhere"})["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) != folder.CODE_NAME


def test_a_runner_without_stdin_leaves_the_code_one(new_job: NewJob) -> None:
    job = new_job().function("import sys\ndef f(): return sys.stdin.read()")
    command = [sys.executable, "-u", str(REPOSITORY / "cumulus_runner/__main__.py"), str(job.path)]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    subprocess.run(closed, env=clean_environment(), capture_output=True, check=True)
    assert json.loads(job.output(Kind.RESULT)) == ""


def test_a_script_has_the_builtins_of_a_main_module(new_job: NewJob) -> None:
    job = new_job().script(
        "print(open('/proc/self/comm').read().strip(), __builtins__.__name__, "
        "hasattr(__builtins__, 'print'))"
    )
    assert job.run()["outcome"] == "completed", job.jsons(Kind.ERROR)
    assert job.output(Kind.STDOUT).split() == [folder.CODE_NAME.encode(), b"builtins", b"True"]


@pytest.mark.parametrize(
    "orders",
    [
        {"environment": {"PYTHONHASHSEED": "0"}},
        {"environment": {"HOME": "/nowhere"}},
        {"environment": {"LD_LIBRARY_PATH": "/nowhere"}},
        {"environment": {"LC_ALL": "C"}},
        {"environment": {"CUDA_VISIBLE_DEVICES": "GPU-1"}},
    ],
    ids=lambda orders: next(iter(orders["environment"])),
)
def test_what_a_start_looks_at_takes_an_interpreter_of_its_own(
    new_job: NewJob, orders: dict[str, Any]
) -> None:
    job = new_job(**orders).function("def f(): return open('/proc/self/comm').read().strip()")
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) != folder.CODE_NAME


def test_variables_of_the_grant_which_the_runner_was_started_with_take_none(
    new_job: NewJob,
) -> None:
    grant = {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "GPU-1"}
    source = "import os\ndef f(): return [open('/proc/self/comm').read().strip(), dict(os.environ)]"
    job = new_job(environment=grant).function(source)
    assert job.run(**grant)["outcome"] == "completed"
    name, variables = json.loads(job.output(Kind.RESULT))
    assert name == folder.CODE_NAME and grant.items() <= variables.items()


@pytest.mark.parametrize("value", [OPENCL_LAYER, "/own.so"])
def test_the_layers_variable_is_in_a_copy_as_in_a_process_that_it_was_loaded_into(
    new_job: NewJob, value: str
) -> None:
    source = "import os\ndef f(): return [open('/proc/self/comm').read().strip(), dict(os.environ)]"
    job = new_job().function(source)
    assert job.run(**{OPENCL_LAYERS_VARIABLE: value})["outcome"] == "completed"
    name, variables = json.loads(job.output(Kind.RESULT))
    expected = value if value == OPENCL_LAYER else None  # a layer of somebody else's isn't ours
    assert (name, variables.get(OPENCL_LAYERS_VARIABLE)) == (folder.CODE_NAME, expected)


def test_a_library_that_is_preloaded_for_each_process_takes_one(new_job: NewJob) -> None:
    grant = {"CUDA_DEVICE_MEMORY_LIMIT": "100m"}
    job = new_job(environment=grant).function("def f(): return open('/proc/self/comm').read()")
    assert job.run(**grant)["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)).strip() != folder.CODE_NAME


def test_a_package_with_start_modules_takes_an_interpreter_of_its_own(new_job: NewJob) -> None:
    source = "import sys\ndef f(): return [sys.begun, open('/proc/self/comm').read().strip()]"
    job = new_job().function(source, **{"sitecustomize.py": "import sys\nsys.begun = 1"})
    assert job.run()["outcome"] == "completed"
    begun, name = json.loads(job.output(Kind.RESULT))
    assert begun == 1 and name != folder.CODE_NAME


def test_its_end_is_an_interpreters_own(new_job: NewJob) -> None:
    job = new_job().function(
        "import atexit, sys, threading, time\n"
        "class Last:\n"
        "    def __del__(self): print('taken apart')\n"
        "last = Last()\n"
        "kept = open('left', 'w')\n"
        "def f():\n"
        "    atexit.register(print, 'at exit')\n"
        "    threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "    kept.write('not flushed')\n"
        "    sys.modules['__main__'].kept = last\n"
    )
    end = job.run()
    assert end["outcome"] == "completed"
    lines = job.output(Kind.STDOUT).decode().split("\n")
    assert lines == ["thread", "at exit", "taken apart", ""]
    assert (job.path / folder.WORK / "left").read_text() == "not flushed"


def test_modules_of_the_code_named_like_the_standard_librarys(new_job: NewJob) -> None:
    """They are the code's where nothing of ours needs the others; where it does, ours holds."""
    job = new_job().function(
        "import token\ndef f(): raise ValueError(token.WORD)", **{"token.py": "WORD = 'mine'"}
    )
    end = job.run()
    (error,) = job.jsons(Kind.ERROR)
    assert end["reason"] == "user_error" and "task.py" in error["traceback"]


@pytest.mark.parametrize("python", [None, OWN], ids=["copy", "own"])
def test_what_the_code_writes_isnt_taken_for_the_standard_librarys(
    new_job: NewJob, python: str | None
) -> None:
    """Neither is what tells its error, nor what pickles its value."""
    write = "    for name in ('traceback', 'tokenize', 'pickle', 'types', 'copyreg'):\n"
    write += "        open(name + '.py', 'w').write('raise SystemExit(9)')\n"
    failing = new_job(python=python).function(f"def f():\n{write}    raise ValueError('told')")
    assert failing.run()["reason"] == "user_error"
    assert failing.jsons(Kind.ERROR)[0]["message"] == "told"
    returning = new_job(python=python).function(f"def f():\n{write}    return {{1, 2}}")
    assert returning.run()["outcome"] == "completed"
    assert pickle.loads(returning.output(Kind.RESULT)) == {1, 2}


def test_a_spawned_process_of_the_code(new_job: NewJob) -> None:
    job = new_job().function(
        "import multiprocessing\n"
        "def twice(x): return x * 2\n"
        "def f():\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        return pool.map(twice, [1, 2])"
    )
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) == [2, 4]


def test_one_that_was_killed_while_it_waited_is_replaced(new_job: NewJob) -> None:
    for _ in range(50):
        job = new_job().function("def f(): return open('/proc/self/comm').read().strip()")
        runner = job.start()
        copy = 0

        def find(of: int = runner.pid) -> bool:
            nonlocal copy
            for pid in Path(f"/proc/{of}/task/{of}/children").read_text().split():
                copy = int(pid)
            return copy != 0

        until(find, "the copy is there")
        os.kill(runner.pid, signal.SIGSTOP)
        states = [one["phase"] for one in job.jsons(Kind.STATUS)]
        if "running" not in states:
            os.kill(copy, signal.SIGKILL)
        os.kill(runner.pid, signal.SIGCONT)
        job.finish(runner)
        if "running" not in states:
            break
    else:
        pytest.fail("the runner was never caught before it told the copy to begin")
    assert job.exit()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)) != folder.CODE_NAME


def test_an_order_that_cant_be_taken_leaves_no_copy(new_job: NewJob) -> None:
    job = new_job(job_id="")
    code, _, _ = job.finish(job.start())
    assert code == 1 and job.exit()["reason"] == "runner_failed"


def test_without_stderr_it_still_says_it_by_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-u", str(REPOSITORY / "cumulus_runner/__main__.py")]
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    assert subprocess.run(closed, env=clean_environment()).returncode == 64


def test_both_ends_agree_on_a_whole_word() -> None:
    assert code_process.WHOLE == bootstrap.WHOLE


class NeverReads:
    """In a process's place: what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.done.append(name)


def test_one_that_takes_no_word_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_process, "WORD_TIMEOUT_S", 0.05)
    waits, go = os.pipe()
    process: Any = NeverReads()
    copy = code_process.CopyProcess(process, go)
    copy.variables = {"LONG": "x" * (1 << 20)}  # more than a pipe holds
    copy.begin({})
    os.close(waits)
    assert process.done == ["set_aside", "take_up", "kill"]
    with pytest.raises(OSError):
        os.fstat(go)
