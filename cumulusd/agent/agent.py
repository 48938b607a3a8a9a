"""The agent: partitions, folders and runners of one worker, as the daemon commands them.

Nothing here depends on the daemon's being there: without it, jobs go on and end on time.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cumulusd.agent import offers
from cumulusd.agent.books import Books
from cumulusd.agent.cache_keeper import CacheKeeper
from cumulusd.agent.disk_room import DiskRoom
from cumulusd.agent.job_folder import JobFolders
from cumulusd.agent.job_locks import JobLocks
from cumulusd.agent.job_python import JobPython
from cumulusd.agent.kept_folder import Kept
from cumulusd.agent.link import AgentLink
from cumulusd.agent.live_job import LiveJob
from cumulusd.agent.live_jobs import LiveJobs
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.orders import (
    PauseOrder,
    PrepareOrder,
    ReleaseOrder,
    StopOrder,
    grant_answer,
    refuse_arguments,
    runner_orders,
)
from cumulusd.agent.output_files import OutputFiles
from cumulusd.agent.package import Ranges, store_package
from cumulusd.agent.partitions import Partitions
from cumulusd.agent.threads import Threads
from cumulusd.agent.trash import Trash
from cumulusd.chronos.discovery import Discovery, DiscoveryFailed
from cumulusd.chronos.grant import Grant
from cumulusd.chronos.libchronos import Libchronos
from cumulusd.disk import Disk, is_full
from cumulusd.errors import Conflict, CumulusError, InternalError, NotFound
from cumulusd.tasks import Tasks, sleep, wait_at_most

#: A verb: the call's keyword arguments to its answer. Raises CumulusError.
Verb = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]

SWEEP_S = 0.5
#: How long a release waits for a runner that is leaving: as a rule it is gone within 0.03 s.
LEAVE_WAIT_S = 2.0


class Agent:
    """One worker's agent. `open` it, then call its verbs; `close` frees everything it holds."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        hostname: str,
        options: AgentOptions,
        folders: JobFolders,
        partitions: Partitions,
        discovery: Discovery,
        link: AgentLink,
        disk: Disk,
        run_in_thread: Callable[[Callable[[], None]], Deferred[None]],
        libchronos: Libchronos | None = None,
        ca_bundle: str | None = None,
    ) -> None:
        """`libchronos`: books beside the ledger. `ca_bundle`: path of the bundle that jobs are
        given, mounted under the same path."""
        self._reactor = reactor
        self._hostname = hostname
        self._options = options
        self._folders = folders
        self._partitions = partitions
        self._discovery = discovery
        self._link = link
        self._room = DiskRoom(reactor, disk, hostname)
        self._python = JobPython(reactor, options.job_python, options.discovery_timeout_s)
        self._threads = Threads(run_in_thread)
        self._trash = Trash(self._threads, folders.empty_trash)
        self._books = Books(partitions, libchronos)
        self._ca_bundle = ca_bundle
        self._locks = JobLocks()
        self._tasks = Tasks()
        self._keeper = CacheKeeper(reactor, folders, self._room, self._threads, options)
        self._jobs = LiveJobs(reactor, folders, partitions, link, self._tasks, options)
        link.outputs.serve(OutputFiles(self._jobs, folders.kept, self._threads).read)

    def verbs(self) -> dict[str, Verb]:
        """What the daemon may call, as `docs/protocol.md` section 2 says."""
        return {
            "devices": self.devices,
            "prepare": self.prepare,
            "release": self.release,
            "command": self.command,
            "journals": self.journals,
            "partitions": self.partitions,
        }

    # -- life

    def open(self) -> None:
        """Loads the ledger and takes up the folders there are. Raises CumulusError."""
        try:
            self._partitions.load()
        except BaseException:
            self._folders.close()
            raise
        self._folders.discard_lost_grants()
        self._jobs.recover()
        self._tasks.start(self._sweep(), "the sweep over journals and partitions")
        self._tasks.start(self._keeper.run(), "bounding the environments")
        self._trash.clear()
        self._books.start()

    async def close(self) -> None:
        """Closes sockets and descriptors. Jobs go on; the next agent takes them up."""
        await self._tasks.stop()
        await self._link.outputs.stop()
        self._trash.stop()
        # Descriptors may be closed only when the threads that use them have ended.
        await self._threads.ended()
        self._jobs.close()
        self._folders.close()
        await self._books.stop()

    async def discover(self) -> bool:
        """Looks at the drivers once. What is wrong with them stands in `devices`. True: another
        look is wanted soon."""
        self._partitions.offers = offers.look(self._folders.root, self._options.tiers)
        await self._python.look()
        try:
            found = await self._discovery.look()
        except DiscoveryFailed as error:
            self._partitions.discovery_failed(str(error))
            self._jobs.go_by_devices(None)
            self._log.error("looking for devices failed: {error}", error=error)
            return False
        again = self._partitions.learn(found)
        self._jobs.stop_deviceless()
        self._jobs.go_by_devices((self._partitions.offers, found))
        self._books.update()
        if found.reason is not None:
            self._log.warn("there are no devices: {reason}", reason=found.reason)
        return again

    # -- the verbs

    async def devices(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`discovery_error` says in words why there are none, or why these are of an earlier
        look; `fault` why this worker takes no job now; `python_version` is the jobs', null where
        it is the image's."""
        refuse_arguments(arguments)
        return {
            "hostname": self._hostname,
            "devices": self._partitions.devices(),
            "discovery_error": self._partitions.discovery_error,
            "fault": self._room.fault() or self._books.fault(),
            "chronos": self._books.state(),
            "python_version": self._python.version,
        }

    async def partitions(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All of them, also the draining."""
        refuse_arguments(arguments)
        return {"partitions": self._partitions.listing()}

    async def journals(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One entry for each folder; `kept`: ids of the jobs that have a kept folder."""
        refuse_arguments(arguments)
        found = []
        for live in self._jobs:
            start, end = self._link.sender.extent(live.job_id)
            found.append(
                {
                    "job_id": live.job_id,
                    "attempt": live.attempt,
                    "start": start,
                    "end": end,
                    "lock_free": live.lock_free(),
                    "runner": live.socket.runner_is_there,
                }
            )
        return {"journals": found, "kept": self._folders.kept.present()}

    async def prepare(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Partition, folder and package are there when this fires; otherwise none of them."""
        order = PrepareOrder.read(arguments, self._options)
        async with self._locks.only_one(order.job_id):
            size_bytes = order.package_size_bytes
            with Ranges(self._link, order.package_sha256, 0, size_bytes) as package:
                package.ask_if_small()  # it comes while the ledger is written
                return await self._prepare(order, package)

    async def release(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`released` false: `reason` says what holds it; call again. `kept`: what is left for the
        next attempt, with `keep`; null: nothing."""
        order = ReleaseOrder.read(arguments)
        async with self._locks.only_one(order.job_id):
            why, kept = await self._release(order)
        return {
            "released": why is None,
            "reason": why,
            "kept": None if kept is None else attrs.asdict(kept),
            "devices": self._partitions.devices(),
        }

    async def command(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`taken`: a runner was there to be told."""
        is_pause = arguments.get("command") == "pause"
        order = PauseOrder.read(arguments) if is_pause else StopOrder.read(arguments)
        live = self._jobs.get(order.job_id)
        if live is None or not live.is_of(order.attempt):
            return {"taken": False}
        if isinstance(order, PauseOrder):
            return {"taken": live.socket.pause(order.wanted)}
        return {"taken": live.socket.stop(order.reason.value, order.grace_s)}

    # -- making and clearing

    async def _prepare(self, order: PrepareOrder, package: Ranges) -> dict[str, Any]:
        live = self._jobs.get(order.job_id)
        if live is not None and not live.is_of(order.attempt):
            raise Conflict(
                f"attempt {live.attempt} of job {order.job_id} still has its folder here",
                job_id=order.job_id,
                details={"attempt": live.attempt},
                hint="release that attempt first",
            )
        grants = self._folders.grants
        # Submitters may name their jobs: this id can have been another owner's before, of whom
        # something was left here while this worker was away.
        complete = live is not None and live.folder.is_of(order.owner, order.attempt)
        answer = grants.read(order.job_id) if complete else None
        complete = answer is not None
        if live is not None and not complete and not live.lock_free():
            raise Conflict(
                f"the folder of job {order.job_id} isn't complete, but processes run in it",
                job_id=order.job_id,
                hint="end them, or prepare the job on another worker",
            )
        kept = self._folders.kept
        if order.needs_kept and not kept.has(order.job_id):
            raise NotFound(
                f"what job {order.job_id} was to go on from is not on this worker any more",
                job_id=order.job_id,
                details={"checkpoint_lost": True},
                hint="submit the job again: it begins anew",
            )
        if not complete:
            if not self._room.has(order.package_size_bytes):
                await self._trash.cleared()  # of the job before, it may be
            self._room.require(order.job_id, order.package_size_bytes)
        try:
            grant = self._partitions.reserve(order, grants.place(order.job_id))
            environments = str(self._folders.environments(order.owner))
        except (CumulusError, OSError) as error:
            if is_full(error):
                raise self._room.refusal(order.job_id, str(error)) from error
            raise
        if answer is None:
            answer = grant_answer(
                grant,
                self._folders.path(order.job_id),
                environments,
                kept.path(order.job_id),
                self._ca_bundle,
                self._partitions.lifetime_s(order),
            )
            made = False
            try:
                if order.attempt == 1:  # before which nothing was kept: not of this job
                    kept.discard(order.job_id)
                made = kept.provide(order.job_id)
                await self._books.require(grant)
                await self._make_folder(order, package, grant, answer, environments)
            except BaseException as error:
                # Cancelled, too: nothing half-made stays.
                self._jobs.forget(order.job_id)
                if made:
                    kept.discard(order.job_id)
                try:
                    self._partitions.free(order.job_id, order.attempt)
                finally:
                    self._trash.clear()  # which makes room to note it, next time
                if is_full(error):
                    raise self._room.refusal(order.job_id, str(error)) from error
                raise
            self._log.info(
                "job {job_id}: {units} units of {device}",
                job_id=order.job_id,
                units=order.units,
                device=grant.device.name,
                tier=grant.tier.value,
            )
        return {"grant": answer, "devices": self._partitions.devices()}

    async def _make_folder(
        self,
        order: PrepareOrder,
        package: Ranges,
        grant: Grant,
        answer: dict[str, Any],
        environments: str,
    ) -> None:
        self._jobs.forget(order.job_id)  # what an agent left that died while making it
        try:
            folder = self._folders.create(order.job_id)
        except OSError as error:
            raise _folder_error(order.job_id, error) from error
        live: LiveJob | None = None
        try:
            await store_package(
                self._link,
                self._reactor,
                folder,
                sha256=order.package_sha256,
                size_bytes=order.package_size_bytes,
                timeout_s=self._options.package_timeout_s,
                asked=package,
            )
            orders = runner_orders(
                order,
                grant,
                environments,
                self._folders.kept.path(order.job_id),
                self._options,
                self._ca_bundle,
                self._partitions.last_moment(order),
            )
            proven = self._jobs.proven(grant)
            self._folders.grants.write(order.job_id, grant, answer, proven)
            live = self._jobs.take_up(
                folder, order.attempt, order.journal_start, proves=proven is not None
            )
            live.socket.open()
            folder.write_secrets(order.secrets)
            folder.write_orders(orders)
            # An attempt doesn't outlive the boot, so nobody has to wait for the disk. What a later
            # boot finds is to be whole once the runner is there, which takes longer.
            self._threads.run(folder.syncing(), "writing a job's folder to disk")
        except BaseException as error:
            if live is None:
                folder.close()
            if isinstance(error, OSError):
                raise _folder_error(order.job_id, error) from error
            raise

    async def _release(self, order: ReleaseOrder) -> tuple[str | None, Kept | None]:
        """Why it can't be released yet, None when it is; and what is kept for the next attempt."""
        job_id, attempt = order.job_id, order.attempt
        live = self._jobs.get(job_id)
        if live is None or not live.is_of(attempt):
            self._partitions.free(job_id, attempt)
            if live is not None:
                return None, None  # another attempt is here, and what is kept is its own
            kept = self._let_go(job_id, order.keep)
            self._trash.clear()
            return None, kept
        live.releasing = True
        if not await self._jobs.is_free(live, LEAVE_WAIT_S):
            self._partitions.drain(job_id, attempt)
            return f"the lock on the folder of job {job_id} is held: its processes run", None
        if self._link.sender.undelivered(job_id) is not None:
            self._partitions.drain(job_id, attempt)
        if (why := await self._delivery(job_id)) is not None:
            return f"job {job_id} has ended, but {why}", None
        self._jobs.forget(job_id)
        kept = self._let_go(job_id, order.keep)
        try:
            self._partitions.free(job_id, attempt)
        finally:
            # Also when the disk is too full to note it: this is what makes room.
            self._trash.clear()
        return None, kept

    def _let_go(self, job_id: str, keep: bool) -> Kept | None:
        """What stays of its kept folder: all of it, if that is to be and something is in it."""
        left = self._folders.kept.look(job_id) if keep else None
        if left is None:
            self._folders.kept.discard(job_id)
        return left

    async def _delivery(self, job_id: str) -> str | None:
        """Waits, within a bound, until the journal may go; else what is missing."""
        ends_s = self._reactor.seconds() + self._options.release_wait_s
        while (why := self._link.sender.undelivered(job_id)) is not None:
            left_s = ends_s - self._reactor.seconds()
            if left_s <= 0:
                return why
            await wait_at_most(self._reactor, left_s, self._link.progress.wait())
        return None

    # -- from time to time

    async def _sweep(self) -> None:
        while True:
            try:
                self._link.sender.sweep()
                self._partitions.expire()
            except Exception:
                # Nothing is awaited above, so this is no cancellation; the next sweep may do.
                self._log.failure("a sweep over journals and partitions failed")
            await sleep(self._reactor, SWEEP_S)


def _folder_error(job_id: str, error: OSError) -> CumulusError:
    return InternalError(
        f"the folder of job {job_id} can't be made on the worker: {error}",
        job_id=job_id,
        hint="check free space and permissions of the agent's folder",
    )
