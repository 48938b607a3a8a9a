"""`twistd cumulusd`: options, logging, and a start that either works or says why not.

Imported by twistd before a reactor is chosen: nothing here may import one (`tap` does, and is
imported only when the service is made).
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, TextIO, cast

from twisted.application import service
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver
from twisted.python import logfile, usage
from twisted.python.components import Componentized

from cumulusd.config import Config, ConfigError, load_config
from cumulusd.errors import CumulusError
from cumulusd.exits import EXIT_CONFIG, EXIT_DAMAGED, EXIT_NEWER, EXIT_UNAVAILABLE
from cumulusd.jobs.store_file import StoreDamaged, StoreNewer
from cumulusd.log import LevelFilter, is_journal, log_observer


class Options(usage.Options):
    """`--config FILE`. After parsing, `config` is the checked configuration."""

    synopsis = "[options] cumulusd --config FILE"
    longdesc = "Cumulus: runs Python functions on a pool of GPU workers."
    optParameters = [
        ["config", "c", None, "The configuration, a YAML file (see etc/cumulusd.yaml)."],
    ]

    config: Config

    def load(self) -> Config:
        """The configuration, from its file as it is now. Raises ConfigError."""
        return load_config(self["config"], os.environ)

    def postOptions(self) -> None:
        """Loads the configuration; every fault goes to stderr, and the exit code is 78."""
        if self["config"] is None:
            raise usage.UsageError("name the configuration: --config FILE")
        try:
            self.config = self.load()
        except ConfigError as error:
            told = f"cumulusd: the configuration can't be used:\n{error}"
            sys.stderr.write(for_operator(told, sys.stderr, os.environ))
            raise SystemExit(EXIT_CONFIG) from None


class Daemon(service.MultiService):
    """The root service: brings its log observer along, and ends the process when a start fails."""

    def __init__(self, observer: ILogObserver | None, pidfile: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._observer = observer
        self._pidfile = pidfile

    def setServiceParent(self, parent: Any) -> None:
        """twistd puts the service into its application before logging begins: the place to say
        which observer is to be used, from the first line on."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Starts listening where that needs privileges."""
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]
        except _REFUSALS as error:
            self._give_up(error)

    def startService(self) -> None:
        """Starts everything. A failure ends the process with a message."""
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except _REFUSALS as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> NoReturn:
        if self._pidfile and os.path.exists(self._pidfile):
            os.unlink(self._pidfile)  # twistd leaves it when a start ends in SystemExit
        # By now sys.stderr writes to the log; the operator looks at the terminal.
        stderr = sys.__stderr__
        if stderr is not None:
            stderr.write(for_operator(start_failure(error), stderr, os.environ))
            stderr.flush()
        hopeless = (code for kind, code in _HOPELESS.items() if isinstance(error, kind))
        raise SystemExit(next(hopeless, EXIT_UNAVAILABLE))


#: Starts that another try helps nothing.
_HOPELESS = {StoreDamaged: EXIT_DAMAGED, StoreNewer: EXIT_NEWER}


#: Starts that fail in words of their own; anything else is a bug and shows its traceback.
_REFUSALS = (CannotListenError, CumulusError, OSError, SystemExit)


def start_failure(error: BaseException) -> str:
    """What to tell the operator of a start that failed."""
    if isinstance(error, CannotListenError):
        where = f"{error.interface or '*'}:{error.port}"
        cause = getattr(error.socketError, "strerror", None) or error.socketError
        return (
            f"cumulusd: can't listen on {where}: {cause}. Is another cumulusd running? "
            "Stop it, or change `listen` in the configuration."
        )
    if isinstance(error, CumulusError):
        hint = f" ({error.hint})" if error.hint else ""
        return f"cumulusd: can't start: {error.message}{hint}"
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        return error.code
    return f"cumulusd: can't start: {error}"


def for_operator(text: str, stream: TextIO, environ: Mapping[str, str]) -> str:
    """Lines for stderr: as they are, or in the journal as critical ones."""
    mark = "<2>" if is_journal(stream, environ) else ""
    return "".join(f"{mark}{line}\n" for line in text.splitlines())


def make_service(options: Options) -> service.IService:
    """What twistd runs."""
    from cumulusd import tap  # brings the reactor

    twistd: Mapping[str, Any] = options.parent or {}  # twistd's own options
    level = LevelFilter(options.config.log.level)
    observer = observer_for(options.config, twistd, sys.stdout, level)
    root = Daemon(observer, twistd.get("pidfile"))
    made = tap.make_service(options.config, reread=options.load, log_level=level)
    made.setServiceParent(root)  # type: ignore[no-untyped-call]
    return cast(service.IService, root)


def observer_for(
    config: Config, twistd: Mapping[str, Any], stdout: TextIO, level: LevelFilter
) -> ILogObserver | None:
    """Where the log goes: as twistd was told (`--logfile`, else stdout, else twistd.log).

    None leaves it to twistd: with `--syslog`.
    """
    if twistd.get("syslog"):
        return None
    name = twistd.get("logfile")
    if name == "-" or (not name and twistd.get("nodaemon")):
        return log_observer(stdout, config.log.format, level, os.environ)
    file: TextIO = logfile.LogFile.fromFullPath(  # type: ignore[no-untyped-call]
        name or "twistd.log"
    )  # rotates by size
    format = "json" if config.log.format == "auto" else config.log.format
    return log_observer(file, format, level)


#: The name twisted.application.service.ServiceMaker looks for.
makeService = make_service
