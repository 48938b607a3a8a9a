"""The job that tries a new worker: its package, and what it does in a container."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cumulus_runner import package as runner_package
from cumulusd import smoke_script
from cumulusd.smoke_jobs import package


def test_its_package_is_one_that_the_runner_takes(tmp_path: Path) -> None:
    archive = tmp_path / "package.zip"
    archive.write_bytes(package())
    work = tmp_path / "work"
    runner_package.unpack(str(archive), str(work), 1 << 20, 10, lambda: None)
    manifest = runner_package.load_manifest(str(work))
    assert manifest["kind"] == "script" and (work / manifest["path"]).is_file()


def test_its_package_is_always_the_same() -> None:
    assert package() == package()
    with zipfile.ZipFile(io.BytesIO(package())) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def run(**variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "CUMULUS_PARTITION_ID": "p1", **variables}
    return subprocess.run(
        [sys.executable, "-I", smoke_script.__file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_gpu_it_asks_opencl_where_there_is_one() -> None:
    done = run(NVIDIA_VISIBLE_DEVICES="void")
    assert done.returncode == 0, done.stderr
    assert "partition p1" in done.stdout
    assert ("touched by OpenCL" in done.stdout) != ("offers no OpenCL" in done.stdout)


def test_a_gpu_that_its_container_can_not_reach_fails_it() -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has an NVIDIA driver")
    done = run(NVIDIA_VISIBLE_DEVICES="GPU-00000000-0000-0000-0000-000000000000")
    assert done.returncode != 0 and ("libcuda" in done.stderr or "CUDA" in done.stderr)
