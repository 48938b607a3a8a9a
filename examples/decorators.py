"""Functions that run on a worker when they are called.

    python examples/decorators.py

Which daemon: CUMULUS_SERVER_URL, else the profile of `cumulus login`, else this machine's.
"""

import concurrent.futures
import os

from cumulus_client import CumulusClient, async_remote, gpu, remote

client = CumulusClient()


@remote(client, gpu_memory=0.1, duration=60, env={"GREETING": "hello"})
def greet(name: str, *, mark: str = "!") -> str:
    """All arguments of a call are the function's, whatever they are called."""
    return f"{os.environ['GREETING']} {name}{mark}"


@gpu(client, memory=0.1, duration=60)
def square(number: int) -> int:
    """`gpu` is the same with the share named `memory`."""
    return number * number


@async_remote(client, gpu_memory=0.1, duration=60)
def cube(number: int) -> int:
    """Calling this one submits it, and gives the job."""
    return number**3


def main() -> None:
    """Calls, submits and maps them."""
    print(greet("Ada"), greet("Bob", mark="?"))
    politely = greet.with_options(env={"GREETING": "good day"}, priority=1)
    print(politely("Charles"))
    print("here, not on a worker:", square.func(3))

    jobs = [square.submit(3), cube(3)]
    jobs[0].add_done_callback(lambda job: print(f"{job.job_id} has ended"))
    futures = [job.future() for job in jobs]
    for future in concurrent.futures.as_completed(futures, timeout=60):
        print("as completed:", future.result())

    print("mapped:", list(square.map(range(4))))


if __name__ == "__main__":
    with client:
        main()
