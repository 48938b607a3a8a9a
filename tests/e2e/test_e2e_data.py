"""Bulk data goes through client, daemon, agent and job in memory that doesn't grow with it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon

MIB = 1 << 20
#: Buffers and windows on the way; the data itself is more than twice that.
MOST_MORE_BYTES = 40 * MIB

SUBMIT = """
from cumulus_client import CumulusClient
import hashlib

def peak_bytes(process="self"):
    with open(f"/proc/{process}/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) * 1024

def warm():
    return 1

def work():
    import hashlib, os, shutil
    with open("data.bin", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    shutil.move("data.bin", os.path.join(os.environ["CUMULUS_OUTPUT_DIR"], "back.bin"))
    def peak(process):
        with open(f"/proc/{process}/status") as status:
            return int(status.read().split("VmHWM:")[1].split()[0]) * 1024
    return found, peak("self"), peak(os.getppid())

client = CumulusClient("{URL}")
assert client.run(warm, gpu_memory=0.1, duration=60) == 1
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak_bytes()
job = client.submit(work, gpu_memory=0.1, duration=500, files=["data.bin"])
sent = peak_bytes() - before
found, of_code, of_runner = job.result(timeout=500)
path = job.download("back.bin")
fetched = peak_bytes() - before
with path.open("rb") as file:
    assert hashlib.file_digest(file, "sha256").hexdigest() == found
with open("data.bin", "rb") as file:
    assert hashlib.file_digest(file, "sha256").hexdigest() == found
print(sent, fetched, of_code, of_runner)
"""


def anonymous_bytes(pid: int) -> int:
    """Resident memory of a process that isn't of files."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.parametrize(
    "size_bytes",
    [
        96_000_000,
        pytest.param(2_000_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_data_goes_there_and_back_in_constant_memory(
    make_daemon: Callable[..., Daemon], size_bytes: int
) -> None:
    """With a daemon as it is by default; its local workers' agents are in its process."""
    daemon = make_daemon().start()
    assert daemon.process is not None
    block = os.urandom(8 * MIB)
    with open(daemon.folder / "data.bin", "wb") as file:
        for offset in range(0, size_bytes, len(block)):
            file.write(block[: size_bytes - offset])
    try:
        before = peak = anonymous_bytes(daemon.process.pid)
        with daemon.begin(SUBMIT, "data.py") as script:
            while script.poll() is None:
                peak = max(peak, anonymous_bytes(daemon.process.pid))
                time.sleep(0.02)
            out, err = script.communicate()
        assert script.returncode == 0, err + daemon.log_text()[-3000:]
        sent, fetched, of_code, of_runner = map(int, out.split())
        assert sent < MOST_MORE_BYTES and fetched < MOST_MORE_BYTES, out
        assert of_code < 2 * MOST_MORE_BYTES and of_runner < 2 * MOST_MORE_BYTES, out
        # The first job of a daemon brings what is kept from then on.
        assert peak - before < MOST_MORE_BYTES, f"{(peak - before) / MIB:.0f} MiB more"
        daemon.wait_nothing_left()
    finally:
        daemon.stop()
        shutil.rmtree(daemon.folder)  # lest it stay for as long as pytest keeps folders
