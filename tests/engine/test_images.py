"""The images as images/build makes them, on a real engine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from engines.cluster import Cluster
from engines.docker_api import DockerApi

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "runner"))
from runner_kit import JobFolder  # noqa: E402

from cumulus_wire.journal import Kind  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

BUILD = ROOT / "images" / "build"
BUILD_TIMEOUT_S = 1800
#: Beyond this, loading it on each worker takes too long for `script/demo --swarm`.
MAX_IMAGE_BYTES = 900_000_000
#: Stands for what building needs and no image may keep: a password in a proxy's address.
SECRET = "cumulus-test-secret"
KERNEL = """
import os
import numpy
import pyopencl as cl

devices = [device for platform in cl.get_platforms() for device in platform.get_devices()]
context = cl.Context(devices[:1])
queue = cl.CommandQueue(context)
numbers = numpy.arange(1000, dtype=numpy.float32)
buffer = cl.Buffer(
    context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=numbers
)
source = "__kernel void f(__global float *x) { int i = get_global_id(0); x[i] = sqrt(x[i]); }"
cl.Program(context, source).build().f(queue, numbers.shape, None, buffer)
result = numpy.empty_like(numbers)
cl.enqueue_copy(queue, result, buffer)
queue.finish()
assert numpy.allclose(result, numpy.sqrt(numbers), rtol=1e-5)
print("computed on", devices[0].platform.name, "as", os.getuid())
"""


def build(*arguments: str, **environment: str) -> list[dict[str, Any]]:
    """Runs images/build to its end: what it printed of each image."""
    done = subprocess.run(
        [BUILD, *arguments],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        env={**os.environ, **environment},
    )
    sys.stderr.write(done.stderr)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def images(engine_packages: None) -> dict[str, dict[str, Any]]:
    """Both images, from the cache where they are there."""
    return {one["image"]: one for one in build("all", "--rootfs", "debootstrap")}


@pytest.fixture(scope="session")
def worker(cluster: Cluster, images: dict[str, dict[str, Any]]) -> DockerApi:
    """An engine that has both images."""
    for one in images.values():
        cluster.load(Path(one["archive"]), ["worker1"])
    return cluster.api("worker1")


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., JobFolder]]:
    """Makes job folders as an agent leaves them: the jobs' user owns them."""
    made: list[JobFolder] = []

    def make(**orders: Any) -> JobFolder:
        made.append(JobFolder(tmp_path / f"job{len(made)}", uv=None, **orders))
        return made[-1]

    yield make
    for job in made:
        job.close()


def run(
    api: DockerApi,
    image: str,
    *command: str,
    user: str = "",
    binds: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
    tmpfs: tuple[str, ...] = (),
    timeout_s: float = 120.0,
) -> tuple[int, str]:
    """Runs a container, confined as a job's: exit code, and what it said."""
    made = api.call(
        "POST",
        "/containers/create",
        {
            "Image": image,
            "Cmd": list(command),
            "User": user,
            "Env": list(environment),
            "Tty": True,
            "HostConfig": {
                "Binds": list(binds),
                "CapDrop": ["ALL"],
                "Init": True,
                "NetworkMode": "none",
                "PidsLimit": 256,
                "ReadonlyRootfs": True,
                "Tmpfs": dict.fromkeys(tmpfs, ""),
            },
        },
    )
    path = f"/containers/{made['Id']}"
    try:
        api.call("POST", f"{path}/start")
        code = api.call("POST", f"{path}/wait", timeout_s=timeout_s)["StatusCode"]
        text = api.call("GET", f"{path}/logs", query={"stdout": "1", "stderr": "1"}) or ""
    finally:
        api.call("DELETE", path, query={"force": "1", "v": "1"})
    return code, str(text).replace("\r", "").strip()


def run_job(api: DockerApi, image: str, job: JobFolder) -> dict[str, Any]:
    """Runs the runner on the folder, as the platform starts it: the EXIT record."""
    for folder, _, names in os.walk(job.path):
        for name in ("", *names):
            os.chown(os.path.join(folder, name), 1000, 1000)
    code, text = run(
        api,
        image,
        "python3",
        "-u",
        "/usr/local/lib/cumulus/cumulus_runner/__main__.py",
        str(job.path),
        binds=(f"{job.path}:{job.path}",),
    )
    assert code == 0, text
    return job.exit()


# --- the images


def test_the_engine_gives_the_ids_that_were_written(
    worker: DockerApi, images: dict[str, dict[str, Any]]
) -> None:
    for one in images.values():
        assert worker.image_id(one["tag"]) == one["id"]
        config = worker.call("GET", f"/images/{one['id']}/json")
        assert config["Config"]["Labels"]["cumulus.content"] == one["content"]
        size = config["Size"]
        print(f"{one['tag']}: {size / 1e6:.0f} MB, archive {one['size_bytes'] / 1e6:.0f} MB")
        assert size < MAX_IMAGE_BYTES


def test_the_images_share_their_lower_layers(
    worker: DockerApi, images: dict[str, dict[str, Any]]
) -> None:
    job, agent = (
        worker.call("GET", f"/images/{images[name]['id']}/json")["RootFS"]["Layers"]
        for name in ("job", "agent")
    )
    assert job[:2] == agent[:2] and len(job) == 4 and len(agent) == 4


def test_a_kernel_runs_as_the_jobs_user_on_a_read_only_root(
    worker: DockerApi, images: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 1000, 1000)
    code, text = run(
        worker,
        images["job"]["id"],
        "python3",
        "-W",
        "error",
        "-c",
        KERNEL,
        binds=(f"{home}:{home}",),
        environment=(f"HOME={home}", f"TMPDIR={home}"),
    )
    assert (code, text) == (0, "computed on Portable Computing Language as 1000")


def test_nothing_in_the_image_is_the_jobs_to_write(
    worker: DockerApi, images: dict[str, dict[str, Any]]
) -> None:
    """Even where the root were not read-only: code, libraries and drivers are root's."""
    search = "find / -xdev ! -type l ! -type c \\( -perm -o+w -o -user 1000 -o -group 1000 \\)"
    _, text = run(worker, images["job"]["id"], "sh", "-c", f"{search} 2>/dev/null", user="0:0")
    found = {path for path in text.split() if not path.startswith("/home/cumulus/")}
    assert {"/tmp", "/home/cumulus"} <= found
    assert found <= {"/tmp", "/var/tmp", "/var/lock", "/run/lock", "/home/cumulus"}


def test_the_runner_runs_a_job(
    worker: DockerApi,
    images: dict[str, dict[str, Any]],
    new_job: Callable[..., JobFolder],
) -> None:
    job = new_job().function(
        "import numpy, os, pwd\n"
        "def f(n):\n"
        "    print('as', pwd.getpwuid(os.getuid()).pw_name)\n"
        "    return int(numpy.arange(n).sum())\n",
        10,
    )
    ended = run_job(worker, images["job"]["id"], job)
    assert ended["outcome"] == "completed", ended
    assert job.output(Kind.RESULT) == b"45"
    assert job.output(Kind.STDOUT) == b"as cumulus\n"


def test_requirements_are_installed_over_what_the_image_has(
    worker: DockerApi,
    images: dict[str, dict[str, Any]],
    new_job: Callable[..., JobFolder],
    tmp_path: Path,
) -> None:
    wheel = tmp_path / "cumulus_probe-1.0-py3-none-any.whl"
    about = "cumulus_probe-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("cumulus_probe.py", "answer = 42\n")
        made.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: cumulus-probe\nVersion: 1.0\n"
        )
        made.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{about}/RECORD", "")
    job = new_job(
        requirements=[f"./{wheel.name}"], installer_environment={"UV_OFFLINE": "1"}
    ).function(
        "import cumulus_probe, numpy, pyopencl\ndef f():\n    return cumulus_probe.answer\n",
        **{wheel.name: wheel.read_bytes()},
    )
    ended = run_job(worker, images["job"]["id"], job)
    assert ended["outcome"] == "completed", (ended, job.output(Kind.SETUP))
    assert job.output(Kind.RESULT) == b"42"


def test_the_agents_program_starts_and_its_probe_finds_a_device(
    worker: DockerApi, images: dict[str, dict[str, Any]]
) -> None:
    """All that the agent imports is there; its drivers are those of the jobs."""
    agent = images["agent"]["id"]
    code, text = run(worker, agent, "python3", "-c", "import cumulusd.agent.__main__")
    assert code == 0, text
    code, text = run(
        worker,
        agent,
        "sh",
        "-c",
        "id -u && python3 -I /usr/local/lib/python3*/dist-packages/cumulusd/chronos/probe.py",
        environment=("HOME=/tmp",),
        tmpfs=("/tmp",),
    )
    user, _, answer = text.partition("\n")
    assert code == 0 and user == "0", text
    assert "Portable Computing Language" in answer


def test_byte_code_is_there_and_used(worker: DockerApi, images: dict[str, dict[str, Any]]) -> None:
    """Else each job would compile what it imports, and throw it away."""
    for name in ("job", "agent"):
        code, text = run(
            worker,
            images[name]["id"],
            "python3",
            "-v",
            "-c",
            "import cumulus_wire.journal, numpy, logging",
        )
        assert code == 0
        for module in ("cumulus_wire/", "numpy/", "logging/"):
            lines = [line for line in text.splitlines() if f"{module}__init__.py" in line]
            assert any("matches" in line for line in lines), lines
        assert "bytecode is stale" not in text


# --- building them


def test_nothing_is_built_twice(images: dict[str, dict[str, Any]]) -> None:
    began = time.monotonic()
    (again,) = build("job", "--rootfs", "debootstrap")
    assert not again["built"] and again["id"] == images["job"]["id"]
    assert time.monotonic() - began < 10.0


def extracted(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file in the archive."""
    file = tar.extractfile(name)
    assert file is not None
    return file


def processes_of(folder: Path) -> list[str]:
    """What runs with that folder in its command line, or in a root below it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit():
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in line or os.readlink(entry / "root").startswith(str(folder)):
                found.append(line)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_a_build_that_is_killed_leaves_nothing_mounted_or_running(
    images: dict[str, dict[str, Any]], tmp_path: Path, number: signal.Signals
) -> None:
    """Killed while pip runs in the chroot, upon the system's layer of the cache: what pip made for
    this image is smaller, and what it made for another variant isn't used."""
    output = tmp_path / "out"
    (output / "cache").mkdir(parents=True)
    for layer in (BUILD.parents[1] / "var/images/cache").glob("*.tar"):
        if layer.stat().st_size > 300 << 20:
            for path in (layer, layer.with_suffix(".sha256")):
                shutil.copyfile(path, output / "cache" / path.name)
    with open(tmp_path / "said", "w+") as said:
        process = subprocess.Popen(
            [BUILD, "job", "--rootfs", "debootstrap", "--output", output],
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            deadline = time.monotonic() + 120.0
            while not any("/bin/pip" in line for line in processes_of(output)):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.send_signal(number)
            process.wait(60.0)
        said.seek(0)
        assert "debootstrap" not in said.read()
    deadline = time.monotonic() + 10.0
    while left := processes_of(output):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert str(output) not in Path("/proc/self/mountinfo").read_text()
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert not (output / "work").exists()
    shutil.rmtree(output)


@pytest.mark.slow
def test_by_docker_build_from_a_base_image_nothing_secret_stays(
    cluster: Cluster, images: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Any Debian that the engine has may be the base: here our own lowest layer."""
    api = cluster.api("manager")
    docker = {"DOCKER_HOST": f"unix://{cluster.endpoint}", "DOCKER_CONFIG": str(tmp_path)}
    base = "cumulus-test-base:latest"
    with tarfile.open(images["job"]["archive"]) as tar:
        manifest = json.load(extracted(tar, "manifest.json"))[0]
        lowest = extracted(tar, manifest["Layers"][0])
        query = {"fromSrc": "-", "repo": "cumulus-test-base", "tag": "latest"}
        api.call("POST", "/images/create", lowest, query=query, timeout_s=300.0)
    wheels = tmp_path / f"wheels-{SECRET}"
    wheels.mkdir()
    (wheels / f"{SECRET}-1-py3-none-any.whl").touch()
    (made,) = build(
        "job",
        *("--rootfs", "registry", "--base", base, "--output", str(tmp_path / "out")),
        **docker,
        PIP_TRUSTED_HOST=f"{SECRET}.invalid",
        PIP_FIND_LINKS=str(wheels),
    )
    assert made["way"] == "registry" and made["id"] == api.image_id(made["tag"])
    search = subprocess.run(["grep", "-c", SECRET, made["archive"]], capture_output=True, text=True)
    assert search.stdout.strip() == "0"
    code, text = run(
        api,
        made["id"],
        "python3",
        "-I",
        "-c",
        "import ctypes, cumulus_runner, numpy, os\n"
        "print(os.getuid(), ctypes.CDLL(None).clInitLayer)",
    )
    assert code == 0 and text.startswith("1000 <_FuncPtr"), text  # preloaded
    shutil.rmtree(tmp_path / "out")
