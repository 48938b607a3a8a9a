"""Pauses a job that saves checkpoints, and lets it go on from the last one.

    python examples/pause_and_resume.py [SERVER_URL]

`pause()` asks the code; it saves what it needs and leaves, and its share of the device is free for
others. `resume()` queues the job again under its id, and its output goes on where it was.
"""

import os
import sys
import time

from cumulus_client import CumulusClient, CumulusJob


def count(limit: int) -> list[int]:
    """Works on a worker: one attempt after the other counts on, and leaves a mark of where."""
    import json
    from pathlib import Path

    import runtime  # Cumulus's own module inside of jobs

    saved = Path(os.environ["CUMULUS_CHECKPOINT_DIR"]) / "state.json"
    state = json.loads(saved.read_text()) if saved.exists() else {"number": 0, "began_at": []}
    state["began_at"].append(state["number"])
    while state["number"] < limit:
        state["number"] += 1
        print(f"counted to {state['number']}", flush=True)
        if runtime.should_pause():
            saved.write_text(json.dumps(state))
            raise runtime.CooperativePause
        runtime.progress(state["number"] / limit, f"{state['number']} of {limit}")
        time.sleep(0.1)
    return state["began_at"]


def wait_for(job: CumulusJob, status: str) -> None:
    """Until the job is in that state."""
    while job.status() != status:
        if job.done():
            raise SystemExit(f"the job is {job.status()}, not {status}")
        time.sleep(0.1)


def main(url: str) -> None:
    """Submits, pauses, resumes."""
    with CumulusClient(url, os.environ.get("CUMULUS_API_KEY")) as client:
        job = client.submit(count, gpu_memory=0.25, duration=120, args=[80])
        wait_for(job, "running")
        time.sleep(1)
        print(job.pause()["message"])
        wait_for(job, "paused")
        print("paused; its share is free for others")
        print(job.resume()["message"])
        began_at = job.result(timeout=60)
        print("its attempts began at", began_at)
        counted = [line for line in "".join(job.logs()).splitlines() if "counted" in line]
        print(f"its output has {len(counted)} lines, ending with {counted[-1]!r}")


if __name__ == "__main__":
    default = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
    main(sys.argv[1] if len(sys.argv) > 1 else default)
