"""What blocks the event loop shows as lag."""

from twisted.internet.task import Clock

from cumulusd.loop_lag import INTERVAL_S, LoopLag


def test_a_timer_that_comes_late_is_told_and_the_next_one_follows() -> None:
    clock, told = Clock(), list[float]()
    lag = LoopLag(clock, told.append)
    lag.start()
    clock.advance(INTERVAL_S)
    clock.advance(INTERVAL_S + 0.75)
    assert told == [0.0, 0.75]
    lag.stop()
    clock.advance(10 * INTERVAL_S)
    assert len(told) == 2 and not clock.getDelayedCalls()
