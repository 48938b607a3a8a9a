"""One job's folder while the agent looks after it: journal, runner's socket, lock."""

from collections.abc import Callable
from typing import Any

from cumulusd.agent.job_folder import JobFolder
from cumulusd.agent.journal import Journal
from cumulusd.agent.runner_socket import RunnerSocket
from cumulusd.tasks import Signal

#: Attempt of a folder that says nothing of it; any attempt's release clears it.
UNKNOWN_ATTEMPT = 0


class LiveJob:
    """Owns what is open of one job; `close` frees all of it and deletes nothing."""

    def __init__(
        self,
        reactor: Any,
        folder: JobFolder,
        attempt: int,
        journal_start: int,
        *,
        poked: Callable[[str], None],
        came: Callable[["LiveJob"], None],
        left: Callable[["LiveJob"], None],
        proved: Callable[["LiveJob", str, bool], None] | None = None,
    ) -> None:
        """`proved`: see `RunnerSocket`."""
        self.job_id = folder.job_id
        self.attempt = attempt
        self.folder = folder
        self.journal = Journal(folder.handle, journal_start)
        self.releasing = False  #: the daemon has asked for its release
        self.watching = False  #: somebody waits for its lock
        self.freed = Signal()  #: fires when the one who waits for its lock saw it free
        self.socket = RunnerSocket(
            reactor,
            folder,
            attempt,
            poked=lambda: poked(folder.job_id),
            came=lambda: came(self),
            left=lambda: left(self),
            proved=None if proved is None else lambda *proof: proved(self, *proof),
        )

    def is_of(self, attempt: int) -> bool:
        """Whether what is said of that attempt is said of this folder."""
        return self.attempt in (attempt, UNKNOWN_ATTEMPT)

    def lock_free(self) -> bool:
        """No process of the job is left, or none has begun."""
        return self.folder.lock_free()

    def close(self) -> None:
        """May be called twice."""
        self.socket.close()
        self.journal.close()
        self.folder.close()
