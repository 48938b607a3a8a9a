"""Environments on a Swarm's workers: the agent sees a container's lock, from its own container."""

import fcntl
import os
from pathlib import Path

import pytest

from cumulus_wire.environments import MARKER
from tests.e2e.test_e2e_jobs import HEAD
from tests.engine.swarm_daemon import SwarmDaemon
from tests.next_line import next_line

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

SCRIPT = (
    HEAD
    + """
def use(seconds):
    import six, time
    print("up", flush=True)
    time.sleep(seconds)
    return six.__version__

job = client.submit(use, duration=120, requirements=["six==1.16.0"], args=[8])
next(iter(job.logs(follow=True)))
print("up", flush=True)
print(job.result(timeout=60))
"""
)


def environments(swarm: SwarmDaemon) -> list[Path]:
    """The whole environments on all workers."""
    layout = swarm.cluster.layout
    roots = [layout.worker_root(node) for node in layout.workers]
    return [path.parent for root in roots for path in root.glob(f"owners/*/env/*/{MARKER}")]


def is_free(place: Path) -> bool:
    """The agent could take it away now."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)


def test_a_containers_environment_is_held_until_it_is_gone(swarm: SwarmDaemon) -> None:
    """Both by the job that built it and by the next one, which takes it from the cache (or builds
    it on the other worker)."""
    for _ in range(2):
        with swarm.begin(SCRIPT) as process:
            assert process.stdout is not None
            first = next_line(process)
            assert first == "up\n", (first, process.communicate(timeout=60))
            places = environments(swarm)
            held = [place for place in places if not is_free(place)]
            out, err = process.communicate(timeout=90)
        assert len(held) == 1, places
        assert out.strip() == "1.16.0", err
        swarm.wait_nothing_left(30.0)
        assert held[0].exists() and is_free(held[0])
