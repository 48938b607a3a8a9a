"""Runs this very script on a worker, which leaves files there, and downloads them.

    python examples/script_with_outputs.py [SERVER_URL]

A script of one's own needs nothing of Cumulus: it writes what is to be kept below the folder that
CUMULUS_OUTPUT_DIR names, where that is set, and anywhere else where it isn't.
"""

import csv
import math
import os
import sys
import tempfile
from pathlib import Path

POINTS = 1000


def write_waves(folder: Path, points: int) -> None:
    """What the job is there for: a table in a subfolder, and a summary of it."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    total = 0.0
    with open(folder / "tables" / "sine.csv", "w", newline="") as file:
        writer = csv.writer(file)
        for number in range(points):
            value = math.sin(2 * math.pi * number / points)
            writer.writerow([number, f"{value:.6f}"])
            total += value * value
    (folder / "summary.txt").write_text(f"{points} points, mean square {total / points:.3f}\n")
    print(f"wrote {points} points")


def submit(url: str) -> None:
    """Submits this file as a script, and fetches what it left."""
    from cumulus_client import CumulusClient

    with (
        CumulusClient(url, os.environ.get("CUMULUS_API_KEY")) as client,
        tempfile.TemporaryDirectory() as here,
    ):
        job = client.submit_script(
            __file__, ["--points", str(POINTS)], gpu_memory=0.1, duration=60, name="waves"
        )
        for text in job.logs():
            print(text, end="", flush=True)
        job.result()
        for output in job.outputs():
            path = job.download(output["name"], Path(here) / Path(output["name"]).name)
            print(f"{output['name']}: {path.stat().st_size} bytes")
        print((Path(here) / "summary.txt").read_text(), end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--points"]:
        write_waves(Path(os.environ.get("CUMULUS_OUTPUT_DIR", ".")), int(sys.argv[2]))
    else:
        default = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
        submit(sys.argv[1] if len(sys.argv) > 1 else default)
