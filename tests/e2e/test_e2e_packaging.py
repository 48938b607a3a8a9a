"""What travels to jobs and back, over real processes on the local platform."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import REPOSITORY, Daemon

HEAD = """\
import json, sys, time
from cumulus_client import CumulusClient, remote
client = CumulusClient("{URL}")
def run(func, *args, **kwargs):
    return client.run(func, gpu_memory=0.1, duration=60, args=args, **kwargs)
"""


def last_json(text: str) -> dict:  # type: ignore[type-arg]
    value = json.loads(text.strip().splitlines()[-1])
    assert isinstance(value, dict)
    return value


def test_a_package_that_the_daemon_let_go_of_is_uploaded_again(daemon: Daemon) -> None:
    packages = daemon.state_dir / "packages"
    done = daemon.run(
        HEAD
        + f"""
import pathlib
def again(n):
    return n + 1
def submitted():
    return client.submit(again, gpu_memory=0.1, duration=60, args=[1]).result()
before = set(pathlib.Path({str(packages)!r}).glob("*.zip"))
first = submitted()
made = set(pathlib.Path({str(packages)!r}).glob("*.zip")) - before
assert len(made) == 1, made
made.pop().unlink()  # as after an hour without a job of it
print(json.dumps({{"values": [first, submitted(), submitted()]}}))
"""
    )
    assert last_json(done.stdout) == {"values": [2, 2, 2]}
    refusals = [line for line in daemon.log_text().splitlines() if "was not uploaded" in line]
    assert len(refusals) == 1


def test_a_small_package_comes_with_its_job_in_one_call(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
import os
from cumulus_client._wire_session import CallerSession
calls = []
real = CallerSession.call
def noted(self, procedure, *args, **kwargs):
    calls.append(procedure.removeprefix("cumulus."))
    return real(self, procedure, *args, **kwargs)
CallerSession.call = noted
def made_of(work, *args, **kwargs):
    calls.clear()
    return work(*args, **kwargs), calls.copy()
def size(name=None):
    import os
    return name and os.path.getsize(name)
def submit(func):
    client.submit(func, gpu_memory=0.1, duration=60).cancel()
def other():
    pass
print(json.dumps({
    "new": made_of(run, size), "known": made_of(run, size),
    "submitted": made_of(submit, other)[1],
    "large": made_of(run, size, "a", files={"a": os.urandom(300_000)}),
}))
"""
    )
    found = last_json(done.stdout)
    assert found["new"] == found["known"] == [None, ["job.submit"]]
    assert found["submitted"] == ["job.submit", "job.cancel"]
    upload = ["package.check", "package.put", "package.commit", "job.submit"]
    assert found["large"] == [300_000, upload]


def test_whatever_can_be_called_runs(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
import functools
scale = 3
def outer(n):
    def inner(x):
        return n + x
    return inner
class Model:
    def __init__(self, n):
        self.n = n
    def predict(self, x):
        return self.n * x
    def __call__(self, x):
        return -x
    @classmethod
    def made(cls, n):
        return cls(n)
def add(a, b):
    return a + b
made = run(Model.made, 4)
print(json.dumps({
    "lambda": run(lambda x: x * scale, 2),
    "closure": run(outer(4), 1),
    "method": run(Model(5).predict, 2),
    "instance": run(Model(5), 2),
    "partial": run(functools.partial(add, 1), 2),
    "builtin": run(len, [1, 2]),
    "class": [type(made) is Model, made.n],
}))
"""
    )
    assert last_json(done.stdout) == {
        "lambda": 6,
        "closure": 5,
        "method": 10,
        "instance": -2,
        "partial": 3,
        "builtin": 2,
        "class": [True, 4],
    }


def test_values_of_every_kind_come_back_as_they_are(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
import dataclasses, datetime, decimal, enum, math, uuid
import numpy as np
@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    tags: tuple = ()
class Colour(enum.Enum):
    RED = 1
values = {
    "nan": float("nan"), "inf": [float("-inf")], "bytes": b"\\x00\\xff", "tuple": (1, (2,)),
    "sets": [{1, 2}, frozenset("a")], "keys": {1: "a", None: 2, (1, 2): 3}, "big": 10**5000,
    "complex": 1j, "surrogate": "\\udc80", "date": datetime.datetime(2020, 1, 2),
    "zone": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "decimal": decimal.Decimal("1.10"), "uuid": uuid.UUID(int=5), "range": range(3),
    "point": Point(1.5, ("a",)), "colour": Colour.RED, "numpy": np.float32(1.25),
    "error": ValueError("as a value"),
}
def echo(value):
    return value
def arrays(a):
    import numpy as np
    return a * 2, np.datetime64("2020-01-01"), a.dtype
got = run(echo, values)
assert math.isnan(got.pop("nan")) and math.isnan(values.pop("nan"))
assert str(got.pop("error")) == str(values.pop("error"))
for name, value in values.items():
    assert got[name] == value and type(got[name]) is type(value), (name, got[name])
doubled, when, kind = run(arrays, np.arange(6, dtype="f4").reshape(2, 3))
assert (doubled == np.arange(6, dtype="f4").reshape(2, 3) * 2).all() and doubled.dtype == kind
print(json.dumps({"ok": True}))
"""
    )
    assert last_json(done.stdout) == {"ok": True}


def test_100_mb_go_both_ways_and_more_is_refused_with_advice(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
import resource
import numpy as np
from cumulus_client import JobFailed
def large(a):
    return a + 1
def text(n):
    return "x" * n
def too_large():
    return bytes(101 << 20)
a = np.arange(12_500_000, dtype="f8")  # 100 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
back = run(large, a)
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
assert (back == a + 1).all()
assert run(text, 50_000_000) == "x" * 50_000_000
try:
    run(too_large)
except JobFailed as error:
    print(json.dumps({"peak": peak / 100e6, "reason": error.reason, "text": str(error)}))
""",
        timeout_s=110,
    )
    told = last_json(done.stdout)
    # The arguments, their pickle, its zip; the result's bytes, its value, and what is compared.
    assert told["peak"] < 4, "so many times the value's own size"
    assert told["reason"] == "result_invalid"
    assert "bytes is over 104857600 bytes" in told["text"]
    assert "CUMULUS_OUTPUT_DIR" in told["text"] and "job.download()" in told["text"]


def test_what_cannot_come_back_is_refused_by_name(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
from cumulus_client import JobFailed
def generator():
    return (n for n in [1])
def lock():
    import threading
    return {"a": [1, threading.Lock()]}
def file():
    return open(__file__)
told = {}
for func in (generator, lock, file, lambda: {"f": open("/etc/hostname")}):
    try:
        run(func)
    except JobFailed as error:
        told[func.__name__] = [error.reason, str(error)]
print(json.dumps(told))
"""
    )
    told = last_json(done.stdout)
    assert {reason for reason, _ in told.values()} == {"result_invalid"}
    assert "cannot pickle 'generator' object" in told["generator"][1]
    assert "its ['a'][1] is a lock" in told["lock"][1]
    assert "'_io.TextIOWrapper'" in told["file"][1] or "TextIOWrapper" in told["file"][1]
    assert "its ['f'] is a TextIOWrapper" in told["<lambda>"][1]
    assert all("hint: Return plain data" in text for _, text in told.values())


def test_the_type_that_the_code_raised_is_the_cause(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
from cumulus_client import JobFailed
class Own(ValueError):
    def __init__(self, code, detail):
        super().__init__(code, detail)
        self.code = code
class Strange(Exception):
    def __str__(self):
        raise RuntimeError("no text")
def plain(): raise ValueError("bad", 42)
def own(): raise Own(7, [1, 2])
def missing(): open("/no/such/file")
def module(): import no_such_module
def decode(): b"\\xff".decode()
def strange(): raise Strange("x")
def interrupt(): raise KeyboardInterrupt
def group(): raise ExceptionGroup("several", [ValueError(1), KeyError("k")])
def local():
    class Local(LookupError): pass
    raise Local("inside")
def leave(): sys.exit(3)
def cause_of(func):
    try:
        client.run(func, gpu_memory=0.1, duration=60)
    except RuntimeError as error:
        assert isinstance(error, JobFailed)
        return error, error.__cause__
error, cause = cause_of(plain)
assert type(cause) is ValueError and cause.args == ("bad", 42), cause
assert 'user_script.py", line ' in str(error) and str(error).count("in plain") == 1
error, cause = cause_of(own)
assert type(cause) is Own and cause.code == 7 and cause.args == (7, [1, 2])
assert "\\nOwn: (7, [1, 2])" in str(error), str(error)
error, cause = cause_of(lambda: own())
assert type(cause) is Own and cause.code == 7
error, cause = cause_of(missing)
assert type(cause) is FileNotFoundError and cause.filename == "/no/such/file" and cause.errno == 2
error, cause = cause_of(module)
assert type(cause) is ModuleNotFoundError and cause.name == "no_such_module" and error.hint
error, cause = cause_of(decode)
assert type(cause) is UnicodeDecodeError and cause.object == b"\\xff"
error, cause = cause_of(strange)
assert isinstance(cause, Exception) and type(cause).__name__ == "Strange"
assert "raised RuntimeError" in str(error)
error, cause = cause_of(interrupt)
assert type(cause) is KeyboardInterrupt
error, cause = cause_of(group)
assert type(cause) is ExceptionGroup
assert [type(e) for e in cause.exceptions] == [ValueError, KeyError]
assert "| ValueError: 1" in str(error)
error, cause = cause_of(local)
assert isinstance(cause, LookupError) and type(cause).__name__ == "Local" and str(cause) == "inside"
error, cause = cause_of(leave)
assert error.exit_code == 3 and error.reason == "exit_code" and cause is None
attached = client.attach(client.list_jobs()[-1]["job_id"])
print(json.dumps({"ok": True}))
def inner(x):
    raise ValueError(f"in the job {x}")
def fails():
    inner(1)
client.run(fails, gpu_memory=0.1)
""",
        check=False,
    )
    assert '{"ok": true}' in done.stdout, done.stderr
    assert done.returncode == 1
    shown = done.stderr[done.stderr.rindex("ValueError: in the job 1\n(raised in the job;") :]
    assert "The above exception was the direct cause" in shown
    assert shown.count("Remote traceback:") == 1 and shown.count("in inner") == 1
    assert f'File "{daemon.folder / "user_script.py"}"' in shown
    assert 'raise ValueError(f"in the job {x}")' in shown


def test_folders_and_files_travel(daemon: Daemon) -> None:
    folder = daemon.folder / "project"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pkg").mkdir(parents=True)
    (folder / "__main__.py").write_text(
        "import sys, pkg.work\nprint(sys.argv[1:], pkg.work.read(), open('extra.txt').read())\n"
        "if 'fail' in sys.argv: pkg.work.fail()\n"
    )
    (folder / "pkg/work.py").write_text(
        "def read(): return open('pkg/data.txt').read()\ndef fail(): raise ValueError('x')\n"
    )
    (folder / "pkg/data.txt").write_text("data")
    (folder / ".cumulusignore").write_text("*.log\n")
    (folder / "huge.log").write_text("not this")
    done = daemon.run(
        HEAD
        + f"""
from cumulus_client import JobFailed
open("extra.txt", "w").write("extra")
job = client.submit_script({str(folder)!r}, ["a"], files=["extra.txt"], duration=60)
job.wait()
text = "".join(job.logs())
job = client.submit_script({str(folder)!r}, ["fail"], files=["extra.txt"], duration=60)
try:
    job.result()
except JobFailed as error:
    remote = error.remote_traceback
def reads():
    import os
    return [open("data/in.txt").read(), open("extra.txt").read(), sorted(os.listdir("."))]
"""
        + """
found = run(reads, files={"data/in.txt": b"bytes", "extra.txt": "extra.txt"})
print(json.dumps({"text": text, "remote": remote, "found": found}))
"""
    )
    told = last_json(done.stdout)
    assert told["text"] == "['a'] data extra\n"
    assert f'File "{folder}/pkg/work.py", line 2, in fail' in told["remote"]
    assert told["found"][:2] == ["bytes", "extra"]
    assert "huge.log" not in told["found"][2]


def other_python() -> str:
    """An interpreter of another minor version, for jobs."""
    here = "{}.{}".format(*sys.version_info[:2])
    for version in ("3.12", "3.13", "3.14", "3.10", "3.11", "3.9"):
        candidates = [shutil.which(f"python{version}")]
        for folder in (".pyenv/versions", ".local/share/uv/python"):
            found = sorted(Path.home().glob(f"{folder}/*/bin/python{version}"))
            candidates += [str(path) for path in found]
        for python in candidates:
            if python is None or version == here:
                continue
            command = [python, "-c", "import sys; print('{}.{}'.format(*sys.version_info[:2]))"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode == 0 and done.stdout.strip() == version:
                return python
    pytest.skip("there is no other Python on this machine")


def test_code_for_another_python_is_refused_before_it_is_queued(
    make_daemon: Callable[..., Daemon],
) -> None:
    python = other_python()
    daemon = make_daemon()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(str(REPOSITORY / ".venv-job/bin/python"), python))
    daemon.start()
    done = daemon.run(
        HEAD
        + """
from cumulus_client import InvalidArgument
class Box:
    n = 3
def where(box):
    import sys
    return ["{}.{}".format(*sys.version_info[:2]), box.n, (1, 2)]
got = run(where, Box())
try:
    run(lambda: 1)
except InvalidArgument as error:
    told = [error.message, error.hint]
workers = client.list_workers()
print(json.dumps({"got": got, "told": told, "workers": [w["python_version"] for w in workers]}))
"""
    )
    told = last_json(done.stdout)
    version = told["got"][0]
    here = "{}.{}".format(*sys.version_info[:2])
    assert version != here and told["got"][1:] == [3, [1, 2]]
    assert told["told"][0] == (
        f"The package holds code pickled by Python {here}, and jobs here run on Python {version}"
    )
    assert f"submit from Python {version}" in told["told"][1]
    assert told["workers"][0].startswith(version + ".")
    assert len(daemon.jobs()) == 1, "what was refused is no job"


def test_a_module_may_run_jobs_while_it_is_imported(daemon: Daemon) -> None:
    daemon.script(
        HEAD
        + """
class Box:
    pass
class Odd(Exception):
    pass
def make():
    return Box()
def fail():
    raise Odd("no")
BOX = run(make)
try:
    run(fail)
except RuntimeError as error:
    CAUSE = error.__cause__
""",
        "runs_when_imported.py",
    )
    done = daemon.run(
        "import runs_when_imported as m\n"
        "print(type(m.BOX) is m.Box and type(m.CAUSE) is m.Odd, m.CAUSE)\n"
    )
    assert done.stdout.splitlines()[-1] == "True no"
