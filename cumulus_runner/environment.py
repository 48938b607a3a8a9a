"""The job's own Python environment: built with uv, or taken from the owner's cache."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import sys

from cumulus_runner.boot import boot_id
from cumulus_runner.outcome import DISK_FULL_HINT, JobFailed, StopRequested
from cumulus_runner.sandbox import Process, StartFailed
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cumulus_runner.supervisor import Supervisor

#: Part of each cache key: raise it when environments are built differently.
LAYOUT = 1
MARKER = "cumulus_complete.json"
LOCK_PAUSE_S = 0.05
_PTH_NAME = "zz_cumulus_base.pth"
_MESSAGE_LINES = 25
_PROBE = (
    "import json, platform, sys; "
    "json.dump([platform.python_version(), sys.path], open(sys.argv[1], 'w'))"
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Base:
    """The interpreter beneath: what the job has without requirements."""

    __slots__ = ("executable", "site_directories", "version")

    def __init__(self, version: str, executable: str, path: Sequence[str]) -> None:
        self.version = version
        self.executable = executable
        self.site_directories = [
            entry for entry in path if os.path.basename(entry) in ("site-packages", "dist-packages")
        ]

    @classmethod
    def own(cls) -> Base:
        """The runner's own interpreter."""
        number = sys.version_info
        return cls(f"{number[0]}.{number[1]}.{number[2]}", sys.executable, sys.path)

    def fingerprint(self) -> list[str]:
        """What is installed in it: another image gives another one."""
        names = []
        for directory in self.site_directories:
            try:
                names += [
                    name
                    for name in os.listdir(directory)
                    if name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))
                ]
            except FileNotFoundError:
                continue  # an entry of sys.path needs not be there
        return sorted(names)


class Environment:
    """Where the job's Python is."""

    __slots__ = ("cached", "folder", "python")

    def __init__(self, python: str, folder: str | None, cached: bool) -> None:
        self.python = python
        self.folder = folder  #: None: no environment of its own
        self.cached = cached  #: it was there already


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

    def provide(self, python: str | None, requirements: Sequence[str]) -> Environment:
        """The environment for these requirements on this Python (None: the runner's own).

        Raises JobFailed (requirements_failed), StopRequested.
        """
        wanted = normalised(requirements)
        if not wanted:
            return Environment(python or sys.executable, None, False)
        if python is None or python == sys.executable:
            base = Base.own()
        else:
            base = self._probe(python)
        cache = self._private if any(map(is_local, wanted)) else self._cache
        try:
            os.makedirs(cache, exist_ok=True)
            return self._take_or_build(cache, base, wanted)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the runner tells it as what it is
            raise JobFailed(
                EndReason.REQUIREMENTS_FAILED,
                f"the environment can't be made in {error.filename or cache}: {error.strerror}",
                "This is the worker's fault, not the job's: tell its administrator.",
            ) from error

    def _take_or_build(self, cache: str, base: Base, wanted: list[str]) -> Environment:
        key = cache_key(base, wanted)
        place = os.path.join(cache, key)
        if is_complete(place):
            return Environment(os.path.join(place, "bin", "python"), place, True)
        lock = os.open(place + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._wait_for(lock)
            # What was seen before the lock was held no longer counts.
            if is_complete(place):
                return Environment(os.path.join(place, "bin", "python"), place, True)
            self._build(cache, key, base, wanted)
        finally:
            os.close(lock)
        return Environment(os.path.join(place, "bin", "python"), place, False)

    def _wait_for(self, lock: int) -> None:
        """Takes the lock. Raises StopRequested."""
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not told:
                    self._supervisor.say_setup("Waiting for another job that builds the same.\n")
                    told = True
                self._supervisor.sleep(LOCK_PAUSE_S)

    def _build(self, cache: str, key: str, base: Base, wanted: list[str]) -> None:
        import shutil

        uv = self._uv or find_program("uv", self._variables.get("PATH"))
        if uv is None:
            raise JobFailed(
                EndReason.REQUIREMENTS_FAILED,
                "the requirements can't be installed: there is no uv on this worker",
                "The worker's administrator installs uv, or the image brings it.",
            )
        for name in os.listdir(cache):
            # Under the lock all of these are rests of builders that died.
            if name.startswith(f".{key}."):
                shutil.rmtree(os.path.join(cache, name))
        rough = os.path.join(cache, f".{key}.{os.getpid()}")
        os.mkdir(rough)
        try:
            listing = os.path.join(rough, "requirements.txt")
            with open(listing, "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in wanted))
            made = os.path.join(rough, "environment")
            python = os.path.join(made, "bin", "python")
            variables = {
                **self._variables,
                "UV_CACHE_DIR": os.path.join(cache, ".uv-cache"),
                "UV_PYTHON_DOWNLOADS": "never",
                "UV_NO_CONFIG": "1",
            }
            for arguments in (
                ["venv", "--relocatable", "--python", base.executable, made],
                ["pip", "install", "--python", python, "--requirements", listing],
            ):
                self._run([uv, *arguments], variables, EndReason.REQUIREMENTS_FAILED)
            add_base(made, base)
            with open(os.path.join(made, MARKER), "w", encoding="utf-8") as file:
                json.dump({"boot_id": boot_id(), "requirements": wanted}, file)
            place = os.path.join(cache, key)
            if os.path.lexists(place):
                os.rename(place, os.path.join(rough, "replaced"))
            os.rename(made, place)
        finally:
            shutil.rmtree(rough, ignore_errors=True)

    def _probe(self, python: str) -> Base:
        """Asks another interpreter what it is. Raises JobFailed, StopRequested."""
        answer = os.path.join(self._private, "probe.json")
        os.makedirs(self._private, exist_ok=True)
        self._run([python, "-I", "-c", _PROBE, answer], self._variables, EndReason.RUNNER_FAILED)
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


def normalised(requirements: Sequence[str]) -> list[str]:
    """Stripped, without blanks and repetitions, in alphabetical order."""
    return sorted({" ".join(line.split()) for line in requirements} - {""})


def is_local(requirement: str) -> bool:
    """It names files of this job or options for uv, so no other job may share the outcome."""
    return requirement.startswith((".", "/", "-", "file:")) or "file:" in requirement


def cache_key(base: Base, wanted: Sequence[str]) -> str:
    """Names the environment: a hash of all that it is made from."""
    import hashlib

    parts = [LAYOUT, list(wanted), base.version, base.executable, base.fingerprint()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def is_complete(place: str) -> bool:
    """A whole environment is there.

    One of before a reboot doesn't count: files renamed into place may be empty after a power cut.
    """
    try:
        with open(os.path.join(place, MARKER), encoding="utf-8") as file:
            marker = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return isinstance(marker, dict) and marker.get("boot_id") == boot_id()


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
