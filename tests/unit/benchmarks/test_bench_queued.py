"""The pool in memory that script/bench makes scheduling passes on fills and drains like one."""

from bench.parts.queued import DEVICES, WORKERS, FullPool


def test_nothing_is_placed_while_all_is_taken() -> None:
    pool = FullPool(50)
    assert pool.tick()
    pool.submit()
    assert pool.settle()
    assert pool.placed == 0


def test_a_share_that_comes_free_is_taken() -> None:
    pool = FullPool(50)
    pool.end_one()
    pool.settle()
    assert pool.placed >= 1
    before = pool.placed
    for _ in range(WORKERS * DEVICES):
        pool.end_one()
        pool.settle()
    assert pool.placed == 50 > before
