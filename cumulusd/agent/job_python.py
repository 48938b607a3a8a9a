"""Which Python the jobs' code gets here, where it is one of this machine's."""

import os
import re
from typing import Any

from twisted.logger import Logger

from cumulusd.chronos.discovery import DiscoveryFailed, run_probe

_PROGRAM = "import os, platform; os.setpgrp(); print(platform.python_version())"
_VERSION = re.compile(rb"\d{1,3}\.\d{1,3}\.\S{1,20}\s*\Z")


class JobPython:
    """Asks the configured interpreter; of jobs in containers only their image knows."""

    _log = Logger()

    def __init__(self, reactor: Any, python: str | None, timeout_s: float) -> None:
        """`python`: its path; None: it isn't known here."""
        self._reactor = reactor
        self._python = python
        self._timeout_s = timeout_s
        #: "3.11.7"; None: not known
        self.version: str | None = None

    async def look(self) -> None:
        """Asks it, which takes milliseconds. What goes wrong is logged: jobs say it themselves."""
        if self._python is None:
            return
        command = [self._python, "-I", "-c", _PROGRAM]
        try:
            said = await run_probe(
                self._reactor, command, os.environ, self._timeout_s, "for the jobs' Python"
            )
        except DiscoveryFailed as error:
            self._log.error(
                "the jobs' Python {python} doesn't tell its version: {why}",
                python=self._python,
                why=str(error),
            )
            self.version = None
            return
        self.version = said.decode().strip() if _VERSION.match(said) else None
