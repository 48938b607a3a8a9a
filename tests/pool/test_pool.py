"""The simulated pool under a real daemon: it is what benchmarks stand on, and what the daemon's own
process asks of engine and agents for its jobs is counted. No time is measured."""

import time
from collections import Counter

from tests.pool.agents import RUN_S
from tests.pool.rig import Pool, running

WORKERS, DEVICES, HISTORY, JOBS = 3, 2, 60, 20


#: Simulated agents only fetch the package.
SUBMITS = """\
from cumulus_client import CumulusClient

def work():
    pass

with CumulusClient("{URL}", "TOKEN") as client:
    for _ in range(JOBS):
        client.submit(work, gpu_memory=0.25, duration=60, env={"RUN_S": "0.5"})
"""


def requests(pool: Pool) -> Counter[str]:
    return Counter(pool.engine_requests()[0])


def test_jobs_run_on_a_simulated_pool_and_cost_so_many_requests() -> None:
    with running(WORKERS, DEVICES, HISTORY) as (pool, _):
        daemon = pool.daemon
        assert pool.present() == WORKERS
        assert len(daemon.jobs()) == HISTORY
        before = requests(pool)
        text = SUBMITS.replace("TOKEN", daemon.token).replace("JOBS", str(JOBS))
        daemon.run(text.replace("RUN_S", RUN_S))
        deadline = time.monotonic() + 90.0
        while any(job["phase"] != "ended" for job in daemon.jobs()):
            assert time.monotonic() < deadline, daemon.log_text()[-3000:]
            time.sleep(0.2)
        new = [job for job in daemon.jobs() if job["owner"] == "bench"]
        assert {job["status"] for job in new} == {"completed"} and len(new) == JOBS
        asked = requests(pool) - before
        # How often the whole is looked at depends on how quick the machine is.
        assert asked["POST /services/create"] == asked["DELETE /services/ID"] == JOBS
        assert asked["GET /services/ID"] <= JOBS
        metrics = daemon.metrics()
        received = metrics["cumulus_journal_received_bytes_total"]
        assert received > 0 and metrics["cumulus_store_failures_total"] == 0
