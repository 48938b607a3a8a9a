"""The daemon as one service: `assembly`'s parts, the reactor, and what the surroundings ask for."""

import os
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService

from cumulusd.assembly import assemble
from cumulusd.collecting import hold_until_started
from cumulusd.config import Config
from cumulusd.log import LevelFilter
from cumulusd.notify import notifier_of
from cumulusd.open_files import raise_limit
from cumulusd.parts import Parts
from cumulusd.reloading import Take
from cumulusd.service import Cumulusd


def make_service(
    config: Config,
    reactor: Any = None,
    *,
    reread: Callable[[], Config] | None = None,
    log_level: LevelFilter | None = None,
) -> IService:
    """The daemon as one service. `reactor`: None takes the running one. `reread` loads the
    configuration anew, which SIGHUP then does; None: it has no file. `log_level` is the log's,
    which a reload sets."""
    if reactor is None:
        from twisted.internet import reactor as running

        reactor = running
        # Twisted's timers go by the wall clock, which is set and jumps: a job must not be given up
        # for that. Nothing is scheduled yet.
        reactor.seconds = time.monotonic
        raise_limit()
        hold_until_started(reactor)
    notifier, watchdog_s = notifier_of(os.environ, reactor)

    def assemble_with_log(config: Config, reactor: Any) -> Parts:
        parts = assemble(config, reactor)
        if log_level is not None:
            parts.reloads.add("log level", _taking(log_level))
        return parts

    return Cumulusd(
        config,
        reactor,
        assemble_with_log,
        reread,
        notifier=notifier,
        watchdog_s=watchdog_s,
    )


def _taking(log_level: LevelFilter) -> Take:
    async def take(config: Config) -> None:
        log_level.set(config.log.level)

    return take
