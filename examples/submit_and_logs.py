"""Submits a job, reads its output while it runs, and takes its result from another client.

    python examples/submit_and_logs.py [SERVER_URL]

`submit` returns once the daemon holds the job: this program may end, and the job goes on. Whoever
knows its id can come back to it.
"""

import os
import sys
import time

from cumulus_client import CumulusClient


def count(limit: int, pause: float) -> int:
    """Counts on a worker, and gives the sum."""
    total = 0
    for number in range(1, limit + 1):
        print(f"{number} of {limit}")
        total += number
        time.sleep(pause)
    return total


def main(url: str) -> None:
    """Submits, follows, and attaches."""
    api_key = os.environ.get("CUMULUS_API_KEY")
    with CumulusClient(url, api_key) as client:
        job = client.submit(count, gpu_memory=0.1, duration=60, name="counting", args=[4, 0.2])
        print(f"submitted {job.job_id}, it is {job.status()}")
        for chunk in job.logs():
            print(chunk, end="", flush=True)
        job_id = job.job_id
    with CumulusClient(url, api_key) as client:
        again = client.attach(job_id)
        print(f"{again.status()}: {again.result(timeout=30)}")


if __name__ == "__main__":
    default = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
    main(sys.argv[1] if len(sys.argv) > 1 else default)
