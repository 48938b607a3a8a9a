"""Two jobs share a device on a real Swarm: each gets its half to the byte, whatever it tries."""

import json
from pathlib import Path
from typing import Any

import pytest

from cumulus_wire import folder
from cumulus_wire.grant import OPENCL_LAYER
from cumulus_wire.journal import FrameParser, Kind
from tests.e2e.test_e2e_jobs import last_json
from tests.engine.swarm_daemon import SwarmDaemon

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

SCRIPT = Path(__file__).with_name("gpu_partition_jobs.py")
#: CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_RESOURCES
REFUSED, NO_MORE = -4, -5
#: One device in sight, with the share's bytes, and not one byte more to be had.
HELD = [1, True, REFUSED]


@pytest.fixture(scope="module")
def found(swarm: SwarmDaemon) -> dict[str, Any]:
    """What the two jobs found."""
    done = swarm.run(SCRIPT.read_text(), timeout_s=380)
    swarm.wait_nothing_left(60.0)
    return last_json(done.stdout)


def test_each_of_two_jobs_gets_its_half_to_the_byte(found: dict[str, Any]) -> None:
    first, second = found["views"]
    assert first["status"] == "running" and second["status"] == "completed"
    assert first["worker"] == second["worker"]
    for view in (first, second):
        assert view["partition"]["tier"] == "opencl", view["partition"]
        assert view["partition"]["gpu_memory_bytes"] == found["first"][0]
    quota, taken, code = found["first"]
    assert (taken, code) == (quota, REFUSED)
    # The first held all of its own while the second had all of its own.
    assert (found["second"]["quota"], found["second"]["afterwards"]) == (quota, quota)


def test_four_processes_of_a_job_share_its_quota(found: dict[str, Any]) -> None:
    quota = found["second"]["quota"]
    assert sum(found["second"]["children"]) == 37 * (quota // 37)


def test_shared_virtual_memory_images_and_sub_buffers_end_at_the_quota(
    found: dict[str, Any],
) -> None:
    quota = found["second"]["quota"]
    assert found["second"]["others"] == {
        "svm": [quota],
        "images": [quota, True],
        "sub-buffers": [REFUSED, REFUSED, quota],
    }


def test_no_edited_environment_gets_rid_of_the_layer(found: dict[str, Any]) -> None:
    second = found["second"]
    assert second["inherited"] == OPENCL_LAYER
    assert len(second["ways"]) == 8 and len(second["started"]) == 3
    assert all(held == HELD for held in second["ways"].values()), second["ways"]
    assert all(held == HELD for held in second["started"].values()), second["started"]


def test_a_python_of_the_jobs_own_with_a_loader_of_its_own_is_held(found: dict[str, Any]) -> None:
    assert found["second"]["venv"] == HELD


def test_the_files_of_the_grant_are_not_the_jobs_to_change(found: dict[str, Any]) -> None:
    """It can write into the accounts: who spoils them has nothing more, not even its own."""
    refused, codes, returncode, again = found["second"]["files"]
    assert len(refused) == 7 and all(refused.values()), refused
    assert codes == [NO_MORE, NO_MORE]
    assert returncode != 0 or int(again) < 0, (returncode, again)


#: Jobs one after the other, each with a share of its own, which it wants one byte more than; the
#: last two differ from those before by a variable and by their share.
ALIKE = """
import json
from cumulus_client import CumulusClient
client = CumulusClient("{URL}")

def held():
    import os
    import pyopencl as cl

    quota = int(os.environ["CUMULUS_GPU_MEMORY_BYTES"])
    (device,) = [d for p in cl.get_platforms() for d in p.get_devices()]
    ctx, codes = cl.Context([device]), []
    for size in (quota + 1, 1):
        try:
            cl.Buffer(ctx, cl.mem_flags.READ_WRITE, size)
            codes.append(0)
        except cl.Error as error:
            codes.append(error.code)
    return [device.global_mem_size == quota, *codes]

kinds = [{}, {}, {}, {"env": {"POCL_DEBUG": ""}}, {"gpu_memory": 0.2}]
found = []
for kind in kinds:
    job = client.submit(held, **{"gpu_memory": 0.1, "duration": 60, **kind})
    result = job.result(timeout=90)
    found.append([job.job_id, result])
print(json.dumps(found))
"""


def layer_told(swarm: SwarmDaemon, job_id: str) -> str:
    """What the job's journal says of the layer."""
    statuses = []
    for segment in sorted((swarm.state_dir / "journals" / job_id).iterdir()):
        offset = folder.segment_offset(segment.name)
        if offset is not None:
            records = FrameParser(offset).feed(segment.read_bytes())
            statuses += [record.json() for record in records if record.kind is Kind.STATUS]
    (running,) = [status for status in statuses if status["phase"] == "running"]
    return str(running["layer"])


def test_only_the_first_job_of_a_kind_proves_the_layer_and_all_are_held(swarm: SwarmDaemon) -> None:
    done = swarm.run(ALIKE, timeout_s=300)
    found = json.loads(done.stdout.splitlines()[-1])
    swarm.wait_nothing_left(60.0)
    assert [held for _, held in found] == [[True, REFUSED, 0]] * 5
    proven, told, expected = set(), [], []
    for (job_id, _), kind in zip(found, ("one", "one", "one", "variable", "share"), strict=True):
        kind_there = (swarm.job(job_id)["worker"]["node_id"], kind)
        expected.append("remembered" if kind_there in proven else "proven")
        proven.add(kind_there)
        told.append(layer_told(swarm, job_id))
    assert told == expected
    assert "remembered" in told  # three alike on two workers
