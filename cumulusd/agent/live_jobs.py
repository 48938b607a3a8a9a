"""The jobs that have a folder on this worker: their sockets, journals and locks."""

from collections.abc import Iterator
from typing import Any

from twisted.logger import Logger

from cumulus_wire.codes import EndReason
from cumulusd.agent.job_folder import JobFolder, JobFolders
from cumulusd.agent.layer_proofs import LayerProofs
from cumulusd.agent.link import AgentLink
from cumulusd.agent.live_job import UNKNOWN_ATTEMPT, LiveJob
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.partitions import Partitions
from cumulusd.chronos.grant import Grant
from cumulusd.errors import CumulusError
from cumulusd.tasks import Tasks, sleep, wait_at_most

#: A runner that said that it leaves is gone some milliseconds later, and its share is then waited
#: for: its lock is seen free after about a quarter more of the time that it took.
_FIRST_LOCK_PAUSE_S = 0.001
_MAX_LOCK_PAUSE_S = 1.0
_LOCK_PAUSE_GROWTH = 1.25


class LiveJobs:
    """Owns what is open of them. The link sends their journals while they are here."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        folders: JobFolders,
        partitions: Partitions,
        link: AgentLink,
        tasks: Tasks,
        options: AgentOptions,
    ) -> None:
        """`tasks`: the caller's, who stops them before `close`."""
        self._reactor = reactor
        self._folders = folders
        self._partitions = partitions
        self._link = link
        self._tasks = tasks
        self._options = options
        self._proofs = LayerProofs(reactor.seconds)
        self._devices: object = None  #: as they were seen last
        self._jobs: dict[str, LiveJob] = {}

    def __iter__(self) -> Iterator[LiveJob]:
        return iter(self._jobs.values())

    def get(self, job_id: str) -> LiveJob | None:
        """None: there is no such job here."""
        return self._jobs.get(job_id)

    def recover(self) -> None:
        """Takes up the folders that an earlier agent left. Each that can't be is logged."""
        for job_id in self._folders.present():
            self._recover(job_id)

    def take_up(
        self, folder: JobFolder, attempt: int, journal_start: int, *, proves: bool = False
    ) -> LiveJob:
        """Takes the folder over; its journal is sent from now on. `proves`: nothing has run in it
        yet, and that its runner proves the OpenCL layer is to be remembered."""
        live = LiveJob(
            self._reactor,
            folder,
            attempt,
            journal_start,
            poked=self._link.sender.poke,
            came=self._runner_came,
            left=self.watch,
            proved=self._proved if proves else None,
        )
        self._jobs[live.job_id] = live
        self._link.sender.add(live.job_id, attempt, live.journal)
        return live

    def proven(self, grant: Grant) -> list[str] | None:
        """With what the OpenCL layer was proven here, for a job with that grant; None: it has no
        layer, or is to prove it in any case."""
        if not grant.opencl or self._options.prove_each_job:
            return None
        return self._proofs.known()

    def go_by_devices(self, devices: object) -> None:
        """What the last look at the drivers showed. Where it is something else than before, no
        proof of before holds. None: the look failed."""
        if devices is None or devices != self._devices:
            self._devices = devices
            if self._proofs.forget():
                self._tell_proofs()

    def stop_deviceless(self) -> None:
        """Ends the jobs whose device is lost, also with the daemon away."""
        for live in self._jobs.values():
            self._stop_if_deviceless(live)

    def _stop_if_deviceless(self, live: LiveJob) -> None:
        if not self._partitions.has_lost(live.job_id, live.attempt):
            return
        if live.socket.stop(EndReason.DEVICE_LOST.value, self._options.stop_grace_s):
            self._log.warn("job {job_id} is stopped: its device is lost", job_id=live.job_id)

    def watch(self, live: LiveJob) -> None:
        """Tells the daemon as soon as the lock is free."""
        if not live.watching:
            live.watching = True
            self._tasks.start(self._watch_lock(live), "watching a job's lock", job_id=live.job_id)

    async def is_free(self, live: LiveJob, wait_s: float) -> bool:
        """Whether no process of it is left; one whose runner is leaving gets `wait_s` for that.
        Where something is left, the daemon is told as soon as nothing is."""
        if live.lock_free():
            return True
        self.watch(live)
        if not live.socket.has_left:
            return False
        await wait_at_most(self._reactor, wait_s, live.freed.wait())
        return self._jobs.get(live.job_id) is live and live.lock_free()

    def forget(self, job_id: str) -> None:
        """The folder is out of the way at once; emptying the trash deletes it."""
        live = self._jobs.pop(job_id, None)
        self._link.sender.remove(job_id)
        self._link.forget(job_id)
        if live is not None:
            live.close()
        self._folders.discard(job_id)

    def close(self) -> None:
        """Closes sockets and descriptors, and deletes nothing."""
        jobs, self._jobs = self._jobs, {}
        for live in jobs.values():
            self._link.sender.remove(live.job_id)
            live.close()
            live.freed.fire()  # who waits for it sees that it isn't here any more

    def _recover(self, job_id: str) -> None:
        try:
            folder = self._folders.open(job_id)
        except (CumulusError, OSError) as error:
            self._log.error(
                "the folder of job {job_id} can't be opened: {error}", job_id=job_id, error=error
            )
            return
        attempt = self._partitions.attempt_of(job_id) or folder.read_attempt()
        live = self.take_up(folder, attempt or UNKNOWN_ATTEMPT, folder.read_journal_start())
        try:
            live.socket.open()
        except (CumulusError, OSError) as error:
            self._log.error(
                "the runner of job {job_id} can't be listened to: {error}",
                job_id=job_id,
                error=error,
            )
        if not live.lock_free():
            self.watch(live)

    def _runner_came(self, live: LiveJob) -> None:
        live.folder.pin_lock()
        self._link.forget(live.job_id)
        self._log.info("the runner of job {job_id} is there", job_id=live.job_id)
        self._stop_if_deviceless(live)

    def _proved(self, live: LiveJob, fingerprint: str, anew: bool) -> None:
        if not anew:
            self._proofs.used(fingerprint)
        elif self._proofs.proven(fingerprint):
            self._log.info(
                "the OpenCL layer is proven to be in force for job {job_id}, and so for those like "
                "it: {fingerprint}",
                job_id=live.job_id,
                fingerprint=fingerprint,
            )
            self._tell_proofs()

    def _tell_proofs(self) -> None:
        """Those that wait for their containers profit too."""
        known = self._proofs.known()
        for live in self._jobs.values():
            if not live.socket.nobody_came:
                continue
            try:
                self._folders.grants.tell_proven(live.job_id, known)
            except OSError as error:
                self._log.warn(
                    "job {job_id} can't be told of the OpenCL layer's proofs: {error}",
                    job_id=live.job_id,
                    error=error,
                )

    async def _watch_lock(self, live: LiveJob) -> None:
        pause_s = _FIRST_LOCK_PAUSE_S
        try:
            while self._jobs.get(live.job_id) is live:
                if live.socket.runner_is_there and not live.releasing:
                    return
                if live.lock_free():
                    self._link.sender.poke(live.job_id)
                    self._link.lock_free(live.job_id, live.attempt)
                    live.freed.fire()
                    return
                await sleep(self._reactor, pause_s)
                pause_s = min(_MAX_LOCK_PAUSE_S, pause_s * _LOCK_PAUSE_GROWTH)
        finally:
            live.watching = False
