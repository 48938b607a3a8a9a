"""Environments: built once, shared, never half-made."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from runner_kit import UV, JobFolder, index_of, until, wheel

from cumulus_runner import environment, sandbox
from cumulus_runner.environment import EnvironmentBuilder
from cumulus_runner.interpreter import Base, BaseNotes
from cumulus_runner.requirements import normalised
from cumulus_runner.supervisor import Supervisor
from cumulus_wire.environments import MARKER, key_of_rough
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]


@pytest.fixture(scope="module")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The package index can be reached; what asks for this installs a real package from it."""
    target = str(tmp_path_factory.mktemp("target"))
    asked = subprocess.run(
        [UV, "pip", "install", "--dry-run", "--no-cache", "--target", target, "six"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if asked.returncode:
        pytest.skip(f"the package index can't be reached from here: {asked.stderr}")


def test_six_from_the_index_is_cached_the_second_time(
    new_job: NewJob, tmp_path: Path, package_index: None
) -> None:
    source = "import six\ndef f(): return six.__file__"
    cache = str(tmp_path / "environments")
    first = new_job(requirements=["six"], environments=cache).function(source)
    assert first.run()["outcome"] == "completed", first.output(Kind.SETUP)
    status = first.jsons(Kind.STATUS)[-1]
    assert status.pop("build_s") > 0
    assert status == {"phase": "running", "cached": False, "requirements": 1}
    assert b"six" in first.output(Kind.SETUP)
    path = json.loads(first.output(Kind.RESULT))
    assert path.startswith(cache)
    second = new_job(requirements=[" Six # again"], environments=cache).function(source)
    end = second.run()
    status = second.jsons(Kind.STATUS)[-1]
    assert status["cached"] is True and status["build_s"] is None
    assert json.loads(second.output(Kind.RESULT)) == path and second.output(Kind.SETUP) == b""
    assert end["setup_s"] < 1


def test_a_requirement_that_doesnt_exist(new_job: NewJob, tmp_path: Path) -> None:
    job = new_job(
        requirements=["no-such-package-zq"], installer_environment=index_of(tmp_path)
    ).function("def f(): pass")
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "requirements_failed")
    assert "no-such-package-zq" in end["message"] and "requirements" in end["hint"]
    assert b"no-such-package-zq" in job.output(Kind.SETUP)
    assert [s["phase"] for s in job.jsons(Kind.STATUS)] == ["setup"]


def test_without_uv(new_job: NewJob) -> None:
    job = new_job(requirements=["six"], uv=None, installer_environment={"PATH": "/nowhere"})
    end = job.function("def f(): pass").run()
    assert end["reason"] == "requirements_failed" and "no uv" in end["message"]


def test_jobs_at_the_same_time_share_one_build(new_job: NewJob, tmp_path: Path) -> None:
    wheel(tmp_path, "thing", "1.0", "value = 42")
    cache = tmp_path / "environments"
    jobs = [
        new_job(
            requirements=["thing"],
            environments=str(cache),
            installer_environment=index_of(tmp_path),
        ).function("import thing\ndef f(): return [thing.value, thing.__file__]")
        for _ in range(4)
    ]
    for process in [job.start() for job in jobs]:
        process.wait(60)
    assert [job.exit()["outcome"] for job in jobs] == ["completed"] * 4
    assert len({job.output(Kind.RESULT) for job in jobs}) == 1
    assert sorted(job.jsons(Kind.STATUS)[-1]["cached"] for job in jobs) == [False, True, True, True]
    assert len(built_in(cache)) == 1
    assert not [name for name in os.listdir(cache) if key_of_rough(name)]


def test_a_builder_that_dies_leaves_nothing_half_made(new_job: NewJob, tmp_path: Path) -> None:
    wheel(tmp_path, "thing", "1.0", "value = 42")
    cache = tmp_path / "environments"
    slow = tmp_path / "slow-uv"
    uv = new_job().orders["uv"]
    slow.write_text(
        f'#!/bin/sh\n"{uv}" "$@" || exit 1\n'
        f'if [ "$1" = pip ]; then touch {tmp_path}/built; exec sleep 600; fi\n'
    )
    slow.chmod(0o755)
    orders = {
        "requirements": ["thing"],
        "environments": str(cache),
        "installer_environment": index_of(tmp_path),
    }
    source = "import thing\ndef f(): return thing.value"
    dying = new_job(**orders, uv=str(slow)).function(source)
    process = dying.start()
    until(lambda: (tmp_path / "built").exists(), "uv has installed")
    process.kill()
    process.wait(30)
    job = new_job(**orders).function(source)
    assert job.run()["outcome"] == "completed"
    assert job.jsons(Kind.STATUS)[-1]["cached"] is False
    assert job.output(Kind.RESULT) == b"42"
    assert not [name for name in os.listdir(cache) if key_of_rough(name)]


def test_the_bases_packages_are_seen_and_the_jobs_win(new_job: NewJob, tmp_path: Path) -> None:
    # A base that is itself a virtual environment, with two packages.
    base = tmp_path / "base"
    venv.create(base, with_pip=False, symlinks=True)
    (site,) = base.glob("lib/python*/site-packages")
    (site / "from_base.py").write_text("where = 'base'")
    (site / "thing.py").write_text("value = 'the base has another'")
    wheel(tmp_path, "thing", "1.0", "value = 'from the requirements'")
    job = new_job(
        python=str(base / "bin" / "python"),
        requirements=["thing"],
        environments=str(tmp_path / "environments"),
        installer_environment=index_of(tmp_path),
    ).function("import from_base, thing\ndef f(): return [from_base.where, thing.value]")
    assert job.run()["outcome"] == "completed", job.output(Kind.SETUP)
    assert json.loads(job.output(Kind.RESULT)) == ["base", "from the requirements"]


def test_requirements_that_are_files_arent_shared(new_job: NewJob, tmp_path: Path) -> None:
    cache = tmp_path / "environments"
    path = wheel(tmp_path, "thing", "1.0", "value = 1")
    job = new_job(
        requirements=[path], environments=str(cache), installer_environment={"UV_OFFLINE": "1"}
    ).function("import thing\ndef f(): return thing.__file__")
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)).startswith(str(job.path / "scratch"))
    assert not cache.exists()


def test_what_the_key_depends_on() -> None:
    base = Base("3.11.7", "/usr/bin/python3", [])
    key = environment.cache_key(base, ["six"])
    assert key == environment.cache_key(base, normalised([" six", "six", ""]))
    assert key != environment.cache_key(base, ["six==1"])
    assert key != environment.cache_key(Base("3.11.8", "/usr/bin/python3", []), ["six"])
    assert key != environment.cache_key(Base("3.11.7", "/opt/python3", []), ["six"])


def test_the_key_follows_what_the_image_has_installed(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    base = Base("3.11.7", "/usr/bin/python3", [str(site), str(tmp_path / "dist-packages")])
    before = environment.cache_key(base, ["six"])
    (site / "torch-2.9.dist-info").mkdir()
    assert environment.cache_key(base, ["six"]) != before


def test_whole_is_what_has_its_marker(tmp_path: Path) -> None:
    marker = tmp_path / MARKER
    environment.write_marker(str(tmp_path), ["six"])
    assert environment.is_whole(str(tmp_path))
    for rest in ("{", "", "[]"):
        marker.write_text(rest)
        assert not environment.is_whole(str(tmp_path))
    marker.unlink()
    assert not environment.is_whole(str(tmp_path))
    assert not environment.is_whole(str(tmp_path / "absent"))


def test_the_marker_is_written_when_the_disk_has_the_rest(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an environment outlives a power cut whole, or isn't there."""
    cache = tmp_path / "environments"
    order: list[str] = []

    def note_run(_: EnvironmentBuilder, argv: list[str], *rest: object) -> None:
        if argv[1] == "venv":
            os.makedirs(os.path.join(argv[-1], "lib"))
        assert not list(cache.glob(f".*/environment/{MARKER}"))
        order.append(f"sync {argv[-1]}" if "syncfs" in " ".join(argv) else argv[1])

    monkeypatch.setattr(EnvironmentBuilder, "_run", note_run)
    built = builder_of(new_job(environments=str(cache))).provide(None, ["thing"])
    assert built.held is not None and built.folder is not None
    os.close(built.held)
    assert [step.partition(" ")[0] for step in order] == ["venv", "pip", "sync"]
    assert order[-1].endswith("/environment")
    assert environment.is_whole(built.folder)


def test_the_disk_is_synced_by_a_process(tmp_path: Path) -> None:
    program = [sys.executable, "-I", "-S", "-c", environment._SYNC]
    assert subprocess.run([*program, tmp_path], timeout=60).returncode == 0
    assert subprocess.run([*program, "/proc/self/none"], capture_output=True).returncode != 0


def test_what_is_cached_starts_no_process(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job with the same requirements begins as quickly as one without any."""
    base = tmp_path / "base"
    venv.create(base, with_pip=False, symlinks=True)
    python = str(base / "bin" / "python")
    wheel(tmp_path, "thing", "1.0", "value = 42")
    orders = {
        "python": python,
        "environments": str(tmp_path / "environments"),
        "installer_environment": index_of(tmp_path),
    }
    first = new_job(**orders, requirements=["thing"]).function("def f(): pass")
    assert first.run()["outcome"] == "completed", first.output(Kind.SETUP)

    def refuse(*_: object) -> None:
        raise AssertionError("a process is started for an environment that is there")

    monkeypatch.setattr(sandbox.Process, "start", refuse)
    monkeypatch.setattr(os, "fork", refuse)
    builder = builder_of(new_job(**orders))
    for provided in (builder.provide(python, ["Thing"]), builder.take(python, ["Thing"])):
        assert provided is not None and provided.cached and provided.held is not None
        os.close(provided.held)
    # What isn't there, or may not be shared, is made later: taking runs nothing.
    assert builder.take(python, ["another"]) is None
    assert builder.take(python, [str(tmp_path)]) is None


def test_what_a_job_left_in_an_environment_waits_for_the_proof(
    new_job: NewJob, tmp_path: Path
) -> None:
    """It runs when the interpreter starts: beside the set-up, but not before the share is held."""
    wheel(tmp_path, "thing", "1.0", "value = 42")
    cache = tmp_path / "environments"
    orders = {
        "requirements": ["thing"],
        "environments": str(cache),
        "installer_environment": index_of(tmp_path),
    }
    source = "import thing\ndef f(): return thing.value"
    assert new_job(**orders).function(source).run()["outcome"] == "completed"
    (place,) = built_in(cache)
    (site,) = place.glob("lib/python*/site-packages")
    begun = tmp_path / "begun"
    (site / "left.pth").write_text(f"import os; open({str(begun)!r}, 'w').close()\n")
    # No layer is loaded into processes here, so that the proof fails; the unpacking takes longer
    # than an interpreter to start.
    many = {f"file{number}.txt": "" for number in range(1500)}
    held = new_job(**orders, opencl_layer=True, package_max_files=2000).function(source, **many)
    assert held.run()["reason"] == "partition_failed"
    assert not begun.exists()
    free = new_job(**orders).function(source)
    assert free.run()["outcome"] == "completed" and begun.exists()
    assert free.output(Kind.RESULT) == b"42"


def test_what_an_interpreter_said_counts_until_it_changes(tmp_path: Path) -> None:
    base = tmp_path / "base"
    venv.create(base, with_pip=False, symlinks=True)
    (site,) = base.glob("lib/python*/site-packages")
    python = str(base / "bin" / "python")
    notes = BaseNotes(str(tmp_path))
    assert notes.read(python) is None
    notes.write(Base("3.11.7", python, [str(base), str(site)]))
    read = notes.read(python)
    assert read is not None
    assert (read.version, read.executable) == ("3.11.7", python)
    assert read.site_directories == [str(site)]
    (site / "more.pth").write_text("/somewhere")
    assert notes.read(python) is None
    notes.write(Base("3.11.7", python, [str(site)]))
    (base / "pyvenv.cfg").write_text("home = /elsewhere")
    assert notes.read(python) is None
    (next(tmp_path.glob(".base-*"))).write_text('{"version": 1}')
    assert notes.read(python) is None


def test_an_environment_is_held_while_its_job_runs(new_job: NewJob, tmp_path: Path) -> None:
    """Also by processes of the job that outlive the runner."""
    wheel(tmp_path, "thing", "1.0", "value = 42")
    cache = tmp_path / "environments"
    orders = {
        "requirements": ["thing"],
        "environments": str(cache),
        "installer_environment": index_of(tmp_path),
    }
    for _ in ("it builds", "it finds"):
        job = new_job(**orders).function(
            "import time\ndef f():\n    print('up', flush=True)\n    time.sleep(60)"
        )
        process = job.start()
        until(job.said(b"up"), "the code runs")
        (place,) = built_in(cache)
        descriptor = os.open(place, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


def test_what_is_being_taken_away_is_built_anew(new_job: NewJob, tmp_path: Path) -> None:
    wheel(tmp_path, "thing", "1.0", "value = 42")
    cache = tmp_path / "environments"
    orders = {
        "requirements": ["thing"],
        "environments": str(cache),
        "installer_environment": index_of(tmp_path),
    }
    source = "import thing\ndef f(): return thing.value"
    assert new_job(**orders).function(source).run()["outcome"] == "completed"
    (place,) = built_in(cache)
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        job = new_job(**orders).function(source)
        assert job.run()["outcome"] == "completed", job.output(Kind.SETUP)
    finally:
        os.close(descriptor)
    assert job.jsons(Kind.STATUS)[-1]["cached"] is False
    assert job.output(Kind.RESULT) == b"42"


def builder_of(job: JobFolder) -> EnvironmentBuilder:
    """One in this process, without a journal or an agent."""
    scratch = job.path / "scratch"
    work = job.path / "work"
    for path in (scratch, work):
        path.mkdir()
    lock = os.open(job.path / "lock", os.O_RDONLY | os.O_CREAT)
    wakeup, alarm = os.pipe2(os.O_NONBLOCK)
    silent = SimpleNamespace(
        end_offset=0,
        room_bytes=lambda _: 1 << 20,
        append=lambda _: True,
        fileno=lambda: None,
        tick=lambda _: None,
        wake_at=lambda: math.inf,
        wants_write=False,
        poke=lambda _: None,
        out=lambda _: None,
        err=lambda _: None,
        note=lambda _: None,
    )
    supervisor = Supervisor(silent, silent, silent, time.monotonic, wakeup, 1.0)  # type: ignore[arg-type]
    job.descriptors += [lock, wakeup, alarm]
    return EnvironmentBuilder(
        supervisor,
        uv=job.orders["uv"],
        cache=job.orders["environments"],
        scratch=str(scratch),
        work=str(work),
        installer_environment={"PATH": os.environ["PATH"], **job.orders["installer_environment"]},
        lock=lock,
    )


def built_in(cache: Path) -> list[Path]:
    """The whole environments there."""
    return [path for path in cache.iterdir() if (path / MARKER).exists()]


def test_base_own_is_this_interpreter() -> None:
    own = Base.own()
    assert own.executable == sys.executable
    version = subprocess.check_output(
        [sys.executable, "-c", "import platform as p; print(p.python_version())"]
    )
    assert own.version == version.decode().strip()
