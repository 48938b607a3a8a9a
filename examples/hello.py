"""Runs a function on a worker and prints what comes back.

    python examples/hello.py [SERVER_URL]

The function prints while it runs; its output appears here as it comes.
"""

import os
import platform
import sys
import time

from cumulus_client import CumulusClient

GREETING = "hello from"


def hello(count: int) -> dict[str, object]:
    """What a worker says."""
    for number in range(count):
        print(f"{GREETING} {platform.node()}: {number + 1} of {count}")
        time.sleep(0.2)
    print("this line is on stderr", file=sys.stderr)
    return {"node": platform.node(), "python": platform.python_version(), "count": count}


if __name__ == "__main__":
    url = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
    if len(sys.argv) > 1:
        url = sys.argv[1]
    with CumulusClient(url, os.environ.get("CUMULUS_API_KEY")) as client:
        print(client.run(hello, gpu_memory=0.1, duration=60, args=[3]))
