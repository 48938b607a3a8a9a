"""The agent as a process of its own: `python3 -m cumulusd.agent`, on a worker.

It is told by environment variables what to do (`cumulusd/agent/settings.py`). SIGTERM ends it in
order: sockets are closed, jobs go on, the next agent takes them up.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import Logger, globalLogBeginner

from cumulusd.agent.service import AgentService
from cumulusd.agent.settings import AgentSettings, SettingsError, daemon_endpoint, read_settings
from cumulusd.errors import CumulusError
from cumulusd.log import log_observer

# sysexits.h
EXIT_CONFIG = 78
EXIT_UNAVAILABLE = 69
_log = Logger()


def main(environ: Mapping[str, str] | None = None) -> None:
    """Runs until SIGTERM or SIGINT; always ends in SystemExit."""
    # What the agent writes is its own and the jobs' users', however it was started.
    os.umask(0o022)
    try:
        settings = read_settings(os.environ if environ is None else environ)
    except SettingsError as error:
        sys.stderr.write(f"cumulus agent: it can't start as it is configured:\n{error}\n")
        raise SystemExit(EXIT_CONFIG) from None
    observer = log_observer(sys.stdout, settings.log_format, settings.log_level)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    react(run, [settings])


def run(reactor: Any, settings: AgentSettings) -> Deferred[None]:
    """Starts the agent; fires with SystemExit when it can't, else not before it is stopped."""
    ended: Deferred[None] = Deferred()
    # As the daemon does: Twisted's timers go by the wall clock, which is set and jumps.
    reactor.seconds = time.monotonic
    try:
        service = AgentService(
            reactor=reactor,
            endpoint=daemon_endpoint(reactor, settings),
            token=settings.token,
            node_id=settings.node_id,
            hostname=settings.hostname,
            root=settings.root,
            options=settings.options,
        )
        service.startService()
    except (CumulusError, OSError, SettingsError) as error:
        hint = f" ({error.hint})" if isinstance(error, CumulusError) and error.hint else ""
        _log.critical("the agent can't start: {why}", why=f"{error}{hint}")
        ended.errback(SystemExit(EXIT_UNAVAILABLE))
        return ended
    _log.info(
        "the agent of {hostname} ({node_id}) is up, the daemon is at {url}",
        hostname=settings.hostname,
        node_id=settings.node_id,
        url=settings.url,
        root=str(settings.root),
    )
    reactor.addSystemEventTrigger("before", "shutdown", _stop, service)
    return ended


def _stop(service: AgentService) -> Deferred[None]:
    _log.info("the agent stops; running jobs go on")
    return service.stopService()


if __name__ == "__main__":
    main()
