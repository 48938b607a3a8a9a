"""A user's script under `mypy --strict`: what it gets is typed, what it gives is checked."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

SCRIPT = """\
import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, assert_type

from cumulus_client import *


def train(epochs: int, rate: float = 0.1) -> dict[str, float]:
    return {"loss": rate * epochs}


async def fetch(name: str) -> bytes:
    return name.encode()


client = CumulusClient("http://127.0.0.1:1", api_key="k")
assert_type(client.run(train, gpu_memory=0.5, duration="90m", epochs=3), dict[str, float])
assert_type(client.run(train, 0.25, 600, ["numpy"], None, [3]), dict[str, float])
assert_type(client.run(fetch, args=["x"]), bytes)
job = client.submit(train, epochs=3, cpu=2, memory="8GiB", files={"a": b"b"}, secrets={"A": "b"})
assert_type(job, CumulusJob)
assert_type(job.status(), str)
assert_type(job.done(), bool)
assert_type(job.download("model.pt"), Path)
job.add_done_callback(lambda ended: print(ended.job_id))
assert_type(client.map(train, [1, 2], max_in_flight=4), Generator[dict[str, float], None, None])
assert_type(client.map(fetch, "ab"), Generator[bytes, None, None])
for index, value in client.map(train, range(3), ordered=False):
    print(index, value)
assert_type(client.cancel_job("j"), bool)
client.run(train, gpu_memory="half")  # error: no overload
client.map(train, [1], gpu=1)  # error: no overload


@remote(client, gpu_memory=0.25, env={"A": "b"}, retries=2)
def square(x: int) -> int:
    return x * x


@gpu(client, memory=0.25)
async def load(x: int) -> str:
    return str(x)


@async_remote(client)
def later(x: int) -> str:
    return str(x)


assert_type(square(3), int)
assert_type(square.func(3), Any)
assert_type(square.submit(3), CumulusJob)
assert_type(square.with_options(duration=60)(3), int)
assert_type(square.map([1, 2], timeout="1h"), Generator[int, None, None])
assert_type(load.map([1, 2]), Generator[str, None, None])
assert_type(load(3), str)
assert_type(later(3), CumulusJob)
assert_type(create_remote_function(client, train)(epochs=1), dict[str, float])
square("3")  # error: arg-type


@remote(client, gpus=2)  # error: no overload
def wrong() -> None: ...


async def main() -> None:
    async with AsyncCumulusClient() as far:
        assert_type(await far.run(train, epochs=3), dict[str, float])
        assert_type(await far.run(fetch, name="x"), bytes)
        task = asyncio.create_task(far.run(train, epochs=3))
        assert_type(await task, dict[str, float])
        handle = await far.submit(train, epochs=3)
        assert_type(handle, AsyncCumulusJob)
        assert_type(await handle, Any)
        assert_type(far.map(train, [1]), AsyncGenerator[dict[str, float], None])
        async for chunk in handle.logs():
            assert_type(chunk, str)

        @remote(far)
        def double(x: int) -> int:
            return 2 * x

        assert_type(await double(3), int)
        assert_type(double.map([1]), AsyncGenerator[int, None])
        assert_type(await double.submit(3), AsyncCumulusJob)


try:
    job.result(timeout=5)
except JobFailed as error:
    assert_type(error.remote_traceback, str | None)
    assert_type(error.hint, str | None)
"""


def test_a_users_script(tmp_path: Path) -> None:
    script = tmp_path / "user.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--config-file=", "--cache-dir", str(tmp_path / "cache"), str(script)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert not done.stderr, done.stderr
    expected = [
        f"{script}:{number}" for number, line in enumerate(SCRIPT.splitlines(), 1)
        if "# error" in line
    ]  # fmt: skip
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    places = {line.partition(": error:")[0] for line in found}
    assert places == set(expected), done.stdout
