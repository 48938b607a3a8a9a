"""Runs several jobs at a time from asyncio.

    python examples/async_jobs.py [SERVER_URL]

The jobs share the pool; each takes a tenth of a device, or waits until one is free.
"""

import asyncio
import sys
import time

from cumulus_client import AsyncCumulusClient, remote


def square(number: int) -> int:
    """Works on a worker."""
    print(f"squaring {number}")
    time.sleep(0.3)
    return number * number


async def gather(numbers: list[int]) -> int:
    """An async function, which the job runs to its end."""
    values = await asyncio.gather(*(asyncio.to_thread(square, number) for number in numbers))
    return sum(values)


async def main(url: str | None) -> None:
    """Submits three and waits for all, follows one more, maps, and calls what is decorated."""
    async with AsyncCumulusClient(url) as client:
        jobs = await asyncio.gather(
            *(client.submit(square, gpu_memory=0.1, duration=60, args=[n]) for n in (2, 3, 4))
        )
        print("results:", await asyncio.gather(*jobs))

        last = await client.submit(square, gpu_memory=0.1, duration=60, args=[5])
        async for chunk in last.logs():
            print(chunk, end="", flush=True)
        print("and:", await last.result(timeout=60))

        async for value in client.map(square, range(3), gpu_memory=0.1, duration=60):
            print("mapped:", value)

        gathered = remote(client, gpu_memory=0.1, duration=60)(gather)
        print("gathered:", await gathered([1, 2, 3]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
