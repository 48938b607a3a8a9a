"""The job's own Python environment: built with uv, or taken from the owner's cache."""

from __future__ import annotations

import errno
import json
import os
import re
import sys

from cumulus_runner import variables
from cumulus_runner.interpreter import PROBE, Base, BaseNotes, Environment
from cumulus_runner.light_sha256 import sha256
from cumulus_runner.locked_folder import hold_alone, hold_folder, is_at
from cumulus_runner.outcome import DISK_FULL_HINT, JobFailed, StopRequested
from cumulus_runner.requirements import is_local, normalised
from cumulus_runner.sandbox import Process, StartFailed
from cumulus_wire.codes import EndReason
from cumulus_wire.environments import (
    LOCK_SUFFIX,
    MARKER,
    STALE_PREFIX,
    UV_CACHE,
    key_of_rough,
)
from cumulus_wire.journal import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cumulus_runner.orders import Orders
    from cumulus_runner.supervisor import Supervisor

#: Part of each cache key: raise it when environments are built differently.
LAYOUT = 2
LOCK_PAUSE_S = 0.05
_PTH_NAME = "zz_cumulus_base.pth"
_MESSAGE_LINES = 25
#: Writes all that is dirty on the disk of a folder to it. In a process, since it may take long.
_SYNC = """
import os, sys
try:
    import ctypes
except ImportError:
    os.sync()
    sys.exit()
if ctypes.CDLL(None, use_errno=True).syncfs(os.open(sys.argv[1], os.O_RDONLY)):
    sys.exit("the disk can't be written: " + os.strerror(ctypes.get_errno()))
"""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class EnvironmentBuilder:
    """Makes the environment for a job's requirements, or finds the one made before.

    An environment is built beside its place, under a lock, and renamed into it when it is whole, so
    that jobs at the same time share one build and no half-made one is ever seen.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        uv: str | None,
        cache: str | None,
        scratch: str,
        work: str,
        installer_environment: Mapping[str, str],
        lock: int,
    ) -> None:
        """`cache`: the owner's folder of environments; None: this job's alone, in `scratch`.

        `lock`: descriptor that every child keeps.
        """
        self._supervisor = supervisor
        self._uv = uv
        self._cache = cache or os.path.join(scratch, "environments")
        self._private = os.path.join(scratch, "environments")
        self._work = work
        self._variables = dict(installer_environment)
        self._lock = lock

    @classmethod
    def for_job(
        cls, orders: Orders, supervisor: Supervisor, *, scratch: str, work: str, lock: int
    ) -> EnvironmentBuilder:
        """As the job's orders say."""
        return cls(
            supervisor,
            uv=orders.uv,
            cache=orders.environments,
            scratch=scratch,
            work=work,
            installer_environment={**variables.base(scratch), **orders.installer_environment},
            lock=lock,
        )

    def take(self, python: str | None, requirements: Sequence[str]) -> Environment | None:
        """The environment for these requirements that is there already; None: `provide` makes it.
        Runs nothing."""
        wanted = normalised(requirements)
        if not wanted:
            return Environment(python or sys.executable)
        if any(map(is_local, wanted)):
            return None
        try:
            base = self._known_base(self._cache, python)
            return None if base is None else self._take(self._cache, cache_key(base, wanted))
        except OSError:
            return None  # `provide` meets it too, and tells it

    def provide(self, python: str | None, requirements: Sequence[str]) -> Environment:
        """The environment for these requirements on this Python (None: the runner's own).

        Raises JobFailed (requirements_failed), StopRequested.
        """
        wanted = normalised(requirements)
        if not wanted:
            return Environment(python or sys.executable)
        cache = self._private if any(map(is_local, wanted)) else self._cache
        try:
            os.makedirs(cache, exist_ok=True)
            return self._take_or_build(cache, self._base(cache, python), wanted)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the runner tells it as what it is
            raise JobFailed(
                EndReason.REQUIREMENTS_FAILED,
                f"the environment can't be made in {error.filename or cache}: {error.strerror}",
                "This is the worker's fault, not the job's: tell its administrator.",
            ) from error

    def _take_or_build(self, cache: str, base: Base, wanted: list[str]) -> Environment:
        begun_at = self._supervisor.now()
        key = cache_key(base, wanted)
        found = self._take(cache, key)
        if found is not None:
            return found
        place = os.path.join(cache, key)
        lock = self._lock_alone(place + LOCK_SUFFIX)
        try:
            # What was seen before the lock was held no longer counts.
            found = self._take(cache, key)
            if found is not None:
                return found
            held = self._build(cache, key, base, wanted)
        finally:
            os.close(lock)
        build_s = self._supervisor.now() - begun_at
        return Environment(python_in(place), place, held=held, build_s=build_s)

    def _take(self, cache: str, key: str) -> Environment | None:
        place = os.path.join(cache, key)
        held = hold_whole(place)
        return None if held is None else Environment(python_in(place), place, held=held)

    def _lock_alone(self, path: str) -> int:
        """The exclusive lock on that file. Raises StopRequested."""
        told = False
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if hold_alone(lock) and is_at(lock, path):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            if not told:
                self._supervisor.say_setup("Waiting for another job that builds the same.\n")
                told = True
            self._supervisor.sleep(LOCK_PAUSE_S)

    def _hold_uv_cache(self, path: str) -> int:
        """Keeps uv's cache from being evicted; makes it first if need be. Raises StopRequested."""
        while True:
            os.makedirs(path, exist_ok=True)
            held = hold_folder(path)
            if held is not None:
                return held
            self._supervisor.sleep(LOCK_PAUSE_S)

    def _build(self, cache: str, key: str, base: Base, wanted: list[str]) -> int:
        """Builds it and puts it into its place; the descriptor that holds it there."""
        import shutil

        uv = self._uv or find_program("uv", self._variables.get("PATH"))
        if uv is None:
            raise JobFailed(
                EndReason.REQUIREMENTS_FAILED,
                "the requirements can't be installed: there is no uv on this worker",
                "The worker's administrator installs uv, or the image brings it.",
            )
        for name in os.listdir(cache):
            # Under the lock all of these are rests of builders that died. What isn't deleted here,
            # since the agent is just at it, harms nobody: its name is never taken again.
            if key_of_rough(name) == key:
                shutil.rmtree(os.path.join(cache, name), ignore_errors=True)
        rough = os.path.join(cache, f".{key}.{int.from_bytes(os.urandom(7), 'big')}")
        os.mkdir(rough)
        uv_cache = os.path.join(cache, UV_CACHE)
        uv_cache_held = self._hold_uv_cache(uv_cache)
        try:
            listing = os.path.join(rough, "requirements.txt")
            with open(listing, "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in wanted))
            made = os.path.join(rough, "environment")
            python = python_in(made)
            variables = {
                **self._variables,
                "UV_CACHE_DIR": uv_cache,
                "UV_PYTHON_DOWNLOADS": "never",
                "UV_NO_CONFIG": "1",
            }
            for arguments in (
                ["venv", "--relocatable", "--python", base.executable, made],
                ["pip", "install", "--python", python, "--requirements", listing],
            ):
                self._run([uv, *arguments], variables, EndReason.REQUIREMENTS_FAILED)
            add_base(made, base)
            if cache != self._private:
                # Others use it, also after a power cut: the marker is there only when all else is.
                sync = [sys.executable, "-I", "-S", "-c", _SYNC, made]
                self._run(sync, self._variables, EndReason.REQUIREMENTS_FAILED)
            write_marker(made, wanted)
            return put_into_place(made, os.path.join(cache, key))
        finally:
            os.close(uv_cache_held)
            shutil.rmtree(rough, ignore_errors=True)

    def _base(self, cache: str, python: str | None) -> Base:
        """What that interpreter is. Raises JobFailed, StopRequested."""
        base = self._known_base(cache, python)
        if base is None:
            assert python is not None
            base = self._probe(python)
            BaseNotes(cache).write(base)
        return base

    def _known_base(self, cache: str, python: str | None) -> Base | None:
        """None: it has to be asked."""
        if python is None or python == sys.executable:
            return Base.own()
        return BaseNotes(cache).read(python)

    def _probe(self, python: str) -> Base:
        """Asks another interpreter what it is. Raises JobFailed, StopRequested."""
        answer = os.path.join(self._private, "probe.json")
        os.makedirs(self._private, exist_ok=True)
        self._run([python, "-I", "-c", PROBE, answer], self._variables, EndReason.RUNNER_FAILED)
        with open(answer, encoding="utf-8") as file:
            version, path = json.load(file)
        # Under the path that was ordered, whatever it calls itself: that one's packages count.
        return Base(version, python, path)

    def _run(self, argv: list[str], variables: Mapping[str, str], reason: EndReason) -> None:
        """Runs a program, its output into the journal. Raises JobFailed, StopRequested."""
        supervisor = self._supervisor
        supervisor.check()
        supervisor.setup_tail.clear()
        try:
            process = Process.start(argv, variables, self._work, self._lock)
        except StartFailed as error:
            raise JobFailed(reason, str(error)) from error
        stopped = supervisor.run(process, (Kind.SETUP, Kind.SETUP))
        if stopped is not None:
            raise StopRequested(stopped)
        if process.exit_code != 0:
            how = (
                f"exit code {process.exit_code}"
                if process.signal is None
                else f"signal {process.signal}"
            )
            name = " ".join([os.path.basename(argv[0]), *argv[1:3]])
            tail = last_lines(bytes(supervisor.setup_tail))
            if os.strerror(errno.ENOSPC) in tail or os.strerror(errno.EDQUOT) in tail:
                raise JobFailed(
                    EndReason.DISK_FULL, f"{name} failed ({how}): {tail}", DISK_FULL_HINT
                )
            raise JobFailed(
                reason,
                f"{name} failed ({how}): {tail}",
                "Check the names and versions in `requirements`; the whole output is in the log."
                if reason is EndReason.REQUIREMENTS_FAILED
                else None,
            )


def cache_key(base: Base, wanted: Sequence[str]) -> str:
    """Names the environment: a hash of all that it is made from."""
    parts = [LAYOUT, list(wanted), base.version, base.executable, base.fingerprint(), _platform()]
    text = json.dumps(parts).encode()
    digest = sha256(len(text))
    digest.update(text)
    return digest.hexdigest()[:40]


def python_in(environment: str) -> str:
    """Its interpreter."""
    return os.path.join(environment, "bin", "python")


def _platform() -> list[str]:
    """What wheels are chosen by, beside the Python version."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        libc = ""  # another libc than glibc
    return [os.uname().machine, libc]


def hold_whole(place: str) -> int | None:
    """Descriptor that keeps the environment there from being evicted, marked as used now; None:
    there is none, or none that is whole."""
    held = hold_folder(place)
    if held is None:
        return None
    try:
        if is_whole(place):
            os.utime(os.path.join(place, MARKER))
            return held
    except BaseException:
        os.close(held)
        raise
    os.close(held)
    return None


def is_whole(place: str) -> bool:
    """The marker is there, which is on disk only when all of the environment is."""
    try:
        with open(os.path.join(place, MARKER), encoding="utf-8") as file:
            return isinstance(json.load(file), dict)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def write_marker(made: str, wanted: Sequence[str]) -> None:
    """Says, durably, that the environment is whole."""
    with open(os.path.join(made, MARKER), "w", encoding="utf-8") as file:
        json.dump({"requirements": list(wanted)}, file)
        file.flush()
        os.fsync(file.fileno())


def put_into_place(made: str, place: str) -> int:
    """Renames a whole environment to where others find it; the descriptor that holds it there."""
    held = hold_folder(made)
    if held is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), made)
    try:
        if os.path.lexists(place):
            # It isn't whole, but may have users from when it was: the agent deletes it after them.
            cache = os.path.dirname(place)
            os.rename(place, os.path.join(cache, f"{STALE_PREFIX}{os.urandom(8).hex()}"))
        os.rename(made, place)
    except BaseException:
        os.close(held)
        raise
    return held


def add_base(environment: str, base: Base) -> None:
    """Lets the environment see the base's packages, behind its own: those win."""
    lib = os.path.join(environment, "lib")
    for name in os.listdir(lib):
        own = os.path.join(lib, name, "site-packages")
        if os.path.isdir(own):
            with open(os.path.join(own, _PTH_NAME), "w", encoding="utf-8") as file:
                # addsitedir, unlike a plain path, follows the base's own .pth files too.
                for directory in base.site_directories:
                    file.write(f"import site; site.addsitedir({directory!r})\n")


def find_program(name: str, path: str | None) -> str | None:
    """The first executable of that name on `path`."""
    for directory in (path or os.defpath).split(os.pathsep):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    return None


def last_lines(output: bytes) -> str:
    """The end of a program's output, for a message."""
    lines = _ANSI.sub("", output.decode(errors="replace")).strip().splitlines()
    return "\n".join(lines[-_MESSAGE_LINES:])[-3000:]
