"""Runs several jobs at a time from asyncio.

    python examples/async_jobs.py [SERVER_URL]

Three jobs share the pool; each takes a quarter of a device, or waits until one is free.
"""

import asyncio
import os
import sys
import time

from cumulus_client import AsyncCumulusClient


def square(number: int) -> int:
    """Works on a worker."""
    print(f"squaring {number}")
    time.sleep(0.3)
    return number * number


async def main(url: str) -> None:
    """Submits three, waits for all, and follows one more."""
    async with AsyncCumulusClient(url, os.environ.get("CUMULUS_API_KEY")) as client:
        jobs = await asyncio.gather(
            *(client.submit(square, gpu_memory=0.25, duration=60, args=[n]) for n in (2, 3, 4))
        )
        print("results:", await asyncio.gather(*(job.result(timeout=60) for job in jobs)))
        last = await client.submit(square, gpu_memory=0.25, duration=60, args=[5])
        async for chunk in last.logs():
            print(chunk, end="", flush=True)
        print("and:", await last.result(timeout=60))


if __name__ == "__main__":
    default = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default))
