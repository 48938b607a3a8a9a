"""What the daemon knows of its platform is too old to go by when that doesn't answer any more."""

from pathlib import Path

import pytest_twisted
from twisted.internet.defer import Deferred
from world import World

from cumulusd.jobs.placing import SILENT_S


@pytest_twisted.ensureDeferred
async def test_a_platform_that_falls_silent_is_told_though_no_call_failed(tmp_path: Path) -> None:
    world = World(tmp_path)
    placing = world.supervisor.placing
    assert placing.silence == "the platform has not answered yet"
    placing.start()
    assert placing.silence is None and placing.error is None
    silence: Deferred[None] = Deferred()
    world.platform.silence = silence
    world.clock.pump([1.0] * int(SILENT_S + 3))
    assert placing.error is None, "the call hangs: it has not failed"
    assert "has not answered for" in str(placing.silence)
    world.platform.silence = None
    silence.callback(None)
    assert placing.silence is None
    await placing.stop()
