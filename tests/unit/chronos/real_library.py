"""The library itself, as it is published: fetched, held to its hash, and built once a checkout.

It is nobody's copy: its source and what is built of it stay in var/cache.
"""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REQUIREMENT = "chronos-gpu==1.1.0"
SHA256 = "00827ff83329e1c491eacde746c3b2c5e632ff2837f04ec394780febcd3ec524"

_CACHE = Path(__file__).parents[3] / "var" / "cache" / "chronos"
_FETCH_S = 300
_BUILD_S = 900

#: Runs a program with a /tmp/chronos_locks of its own, which others see below FOLDER/tmp: the
#: library has that path built in. All else in /tmp stays as it is; the program keeps the process.
_INSIDE = r"""
folder=$1; shift
for path in /tmp/*; do
    name=${path##*/}
    if [ -d "$path" ] && [ ! -L "$path" ] && [ "$name" != chronos_locks ]; then
        mkdir -p "$folder/tmp/$name"
        mount --rbind "$path" "$folder/tmp/$name"
    fi
done
mount --rbind "$folder/tmp" /tmp
exec "$@"
"""


def real_library() -> Path:
    """The built library. Skips the test where it can't be fetched or built here."""
    library = _CACHE / SHA256 / "libchronos.so"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            for program in ("cmake", "g++", "gcc"):
                if shutil.which(program) is None:
                    pytest.skip(f"there is no {program} to build {REQUIREMENT} with")
            found = subprocess.run(
                ["gcc", "-print-file-name=libOpenCL.so"], capture_output=True, text=True, timeout=60
            )
            if not (found.stdout.startswith("/") and Path("/usr/include/CL/cl.h").exists()):
                pytest.skip(f"there is no ocl-icd-opencl-dev to build {REQUIREMENT} with")
            with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
                _build(_fetch(Path(folder)), library)
    return library


def _fetch(folder: Path) -> Path:
    """Its source, as it was pinned. Skips the test where no index has it."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip(f"there is no pip to fetch {REQUIREMENT} with")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", REQUIREMENT.partition("==")[0], "--dest", str(folder)]
    command += ["--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise AssertionError(f"{REQUIREMENT} is not what was pinned: {done.stderr}")
    if done.returncode != 0:
        pytest.skip(f"{REQUIREMENT} is not to be had here: {done.stderr.strip()[-300:]}")
    (archive,) = folder.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True, timeout=60)
    (source,) = (path.parent for path in folder.glob("*/CMakeLists.txt"))
    return source


def _build(source: Path, library: Path) -> None:
    """As provision/worker.sh builds it."""
    build = source / "build"
    configure = ["cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DBUILD_TESTS=OFF", "-DBUILD_EXAMPLES=OFF"]
    configure += ["-DCMAKE_REQUIRE_FIND_PACKAGE_OpenCL=ON"]
    configure += ["-DCMAKE_DISABLE_FIND_PACKAGE_yaml-cpp=ON"]
    configure += ["-DCMAKE_SHARED_LINKER_FLAGS=-static-libstdc++ -static-libgcc"]
    make = ["cmake", "--build", build, "--target", "chronos"]
    for command in (configure, make):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    library.parent.mkdir(exist_ok=True)
    new = library.with_suffix(".new")
    shutil.copy(build / "lib" / "libchronos.so", new)
    os.replace(new, library)


def python_with_own_locks(folder: Path) -> Path:
    """A program that is this Python, whose /tmp/chronos_locks is `folder`/tmp/chronos_locks.

    Skips the test where no mount namespace is to be had."""
    words = ["unshare", "--mount"]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user"]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare to keep the locks from others by")
    if done.returncode != 0:
        pytest.skip(f"its locks can't be kept from others here: {done.stderr.strip()}")
    (folder / "tmp").mkdir(parents=True)
    inside = folder / "inside.sh"
    inside.write_text(_INSIDE)
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\nexec {" ".join(words)} sh -e {inside} {folder} {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return program
