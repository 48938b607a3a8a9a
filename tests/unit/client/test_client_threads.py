"""Threads that share a client."""

import gc
import threading
import time

from cumulus_client.packaging import package_function


def shipped(x: int) -> int:
    """Something to pack."""
    return x + 1


def test_threads_pack_at_the_same_time() -> None:
    """Python 3.11's own parser fails when two threads build a syntax tree at a time."""
    problems: list[BaseException] = []

    def pack() -> None:
        try:
            for number in range(5):
                package_function(shipped, [number], {})
        except BaseException as error:
            problems.append(error)

    def let_others_go_on(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    # Garbage is collected while a tree is built, and finalisers let other threads go on.
    before = gc.get_threshold()
    gc.set_threshold(20, 1000, 1000)
    gc.callbacks.append(let_others_go_on)
    try:
        threads = [threading.Thread(target=pack) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(let_others_go_on)
        gc.set_threshold(*before)
    assert problems == []
