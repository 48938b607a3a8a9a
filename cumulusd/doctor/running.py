"""The running daemon, asked over its admin socket, and what its word says. Blocking, bounded."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from cumulusd import __version__
from cumulusd.admin.client import AdminClient
from cumulusd.config import Config
from cumulusd.doctor.finding import Finding, fault, not_known, of_error, ok, warning
from cumulusd.errors import CumulusError, NotAuthorized, NotFound, Unavailable


@attrs.frozen(kw_only=True)
class Running:
    """`is_there`: None when it can't be told. `status` and `tokens` are there if it answered."""

    is_there: bool | None
    status: Mapping[str, Any] | None = None
    tokens: list[dict[str, Any]] | None = None
    error: CumulusError | None = None

    @property
    def open_files_limit(self) -> int | None:
        """Of its process."""
        return None if self.status is None else int(self.status["open_files_limit"])

    @property
    def workers(self) -> list[dict[str, Any]] | None:
        """As `cumulus.worker.list` has them; None: nobody tells."""
        return None if self.status is None else list(self.status["workers"])


def ask(config: Config) -> Running:
    """Asks it. Raises nothing."""
    client = AdminClient(config.admin_path)
    try:
        return Running(is_there=True, tokens=client.tokens(), status=client.status())
    except Unavailable as error:
        # No file, or nobody behind it; anything else is a daemon in trouble.
        gone = isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)
        return Running(is_there=False if gone else None, error=None if gone else error)
    except NotAuthorized as error:
        return Running(is_there=None, error=error)
    except CumulusError as error:
        return Running(is_there=True, error=error)


def examine(config: Config, running: Running) -> Iterator[Finding]:
    """Is one there, is it of this release, and is each of its parts well?"""
    error = running.error
    if isinstance(error, NotAuthorized):
        yield not_known("daemon", f"{error.message}: it can't be asked", error.hint)
        return
    if isinstance(error, NotFound):
        yield warning(
            "daemon",
            "one runs, and can't tell how it is: it is of an older release",
            "restart it: jobs go on",
        )
        return
    if error is not None:
        yield of_error("daemon", error)
        return
    status = running.status
    if status is None:
        if os.path.lexists(config.admin_path):
            yield ok("daemon", "none runs with this configuration (one left its admin socket)")
        else:
            yield ok("daemon", "none runs with this configuration")
        return
    who = f"process {status['pid']}, version {status['version']}"
    if status["version"] != __version__:
        yield warning(
            "daemon",
            f"{who}, and what is installed is {__version__}",
            "restart it: jobs go on",
        )
    else:
        yield ok("daemon", f"it runs: {who}")
    for part, why in sorted(status["parts"].items()):
        if why != "ok":
            yield fault("daemon", f"its part {part} isn't well: {why}", "see the daemon's log")


def pool(workers: list[dict[str, Any]] | None) -> Iterator[Finding]:
    """As `cumulus doctor` has it. `workers`: as the daemon tells; None: none runs."""
    if workers is None:
        return
    usable = sum(bool(worker["usable"] and worker["devices"]) for worker in workers)
    if not workers:
        yield fault(
            "workers",
            "the pool has no worker",
            "enrol one (platform.swarm.enroll, or a provisioning token)",
        )
    elif not usable:
        yield fault("workers", f"none of {len(workers)} can take jobs", "see below")
    else:
        yield ok("workers", f"{usable} of {len(workers)} can take jobs")
    for worker in workers:
        if worker["agent"] == "present" and not worker["devices"]:
            why = worker["discovery_error"] or worker["fault"] or "none was found"
            yield fault(
                worker["hostname"],
                f"it has no devices: {why}",
                "look at the driver on that worker",
            )
        elif worker["agent"] == "present" and worker["fault"]:
            yield fault(
                worker["hostname"], str(worker["fault"]), "it takes jobs again when that is over"
            )
        for one in worker["disagreements"]:
            yield fault(
                worker["hostname"],
                f"ledger and platform disagree: {one}",
                "see `docker service ls` and the daemon's log; what jobs may have, the ledger says",
            )
