"""Environments: built once, shared, never half-made."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_kit import UV, JobFolder, until

from cumulus_runner import environment
from cumulus_runner.boot import boot_id
from cumulus_runner.environment import Base
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


def wheel(path: Path, name: str, version: str, body: str) -> str:
    """A wheel made by hand; its path."""
    import zipfile

    file = path / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", body)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return str(file)


def index_of(path: Path) -> dict[str, str]:
    """uv's variables to install from that folder only."""
    return {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(path)}


def test_six_from_the_index_is_cached_the_second_time(
    new_job: NewJob, tmp_path: Path, package_index: None
) -> None:
    source = "import six\ndef f(): return six.__file__"
    cache = str(tmp_path / "environments")
    first = new_job(requirements=["six"], environments=cache).function(source)
    assert first.run()["outcome"] == "completed", first.output(Kind.SETUP)
    assert first.jsons(Kind.STATUS)[-1] == {"phase": "running", "cached": False, "requirements": 1}
    assert b"six" in first.output(Kind.SETUP)
    path = json.loads(first.output(Kind.RESULT))
    assert path.startswith(cache)
    second = new_job(requirements=[" six "], environments=cache).function(source)
    end = second.run()
    assert second.jsons(Kind.STATUS)[-1]["cached"] is True
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
    built = [name for name in os.listdir(cache) if not name.startswith(".") and "." not in name]
    assert len(built) == 1
    assert not [name for name in os.listdir(cache) if name.startswith(f".{built[0]}")]


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
    assert not [name for name in os.listdir(cache) if name.startswith(".") and name != ".uv-cache"]


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
        requirements=[path], environments=str(cache), installer_environment={"UV_NO_INDEX": "1"}
    ).function("import thing\ndef f(): return thing.__file__")
    assert job.run()["outcome"] == "completed"
    assert json.loads(job.output(Kind.RESULT)).startswith(str(job.path / "scratch"))
    assert not cache.exists()


def test_what_the_key_depends_on() -> None:
    base = Base("3.11.7", "/usr/bin/python3", [])
    key = environment.cache_key(base, ["six"])
    assert key == environment.cache_key(base, environment.normalised([" six", "six", ""]))
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


def test_an_environment_of_before_a_reboot_is_built_anew(tmp_path: Path) -> None:
    marker = tmp_path / environment.MARKER
    marker.write_text(json.dumps({"boot_id": boot_id()}))
    assert environment.is_complete(str(tmp_path))
    marker.write_text(json.dumps({"boot_id": "another"}))
    assert not environment.is_complete(str(tmp_path))
    marker.write_text("{")
    assert not environment.is_complete(str(tmp_path))
    assert not environment.is_complete(str(tmp_path / "absent"))


def test_base_own_is_this_interpreter() -> None:
    own = Base.own()
    assert own.executable == sys.executable
    version = subprocess.check_output(
        [sys.executable, "-c", "import platform as p; print(p.python_version())"]
    )
    assert own.version == version.decode().strip()
