"""What runs in a job's container: a model of the runner, on the real journal writer and lock.

It reads the real `job.json`, holds a real `flock` on the folder, appends with the real
`JournalWriter`, keeps its own deadlines and obeys what comes on the (modelled) socket.
"""

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from cumulus_runner import outcome
from cumulus_runner.deadlines import LAST_MARGIN_S
from cumulus_runner.journal_writer import JournalWriter
from cumulus_wire import folder as names
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, encode, encode_json
from cumulus_wire.states import JobState
from tests.sim.sim_clock import BEGIN_UNIX_S, ProcessClock
from tests.sim.sim_swarm import Container

if TYPE_CHECKING:
    from tests.sim.sim_worker import SimRunnerSocket, Worker

_RETRY_S = 0.1


@attrs.frozen(kw_only=True)
class Script:
    """What a job does once its container is there."""

    kind: str  #: see `sim_plan.KINDS`
    setup_s: float = 0.1
    run_s: float = 1.0
    outputs: tuple[int, ...] = ()  #: sizes in bytes, spread over `run_s`
    stop_s: float = 0.2  #: how long the code takes to obey
    #: what code that pauses leaves to go on from: "local", "s3", "nothing"; None: it never looks
    obeys_pause: str | None = None


class Journal:
    """What a job's runners wrote, byte for byte: the truth that readers are compared with."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.attempt = 0  #: whose runner wrote last
        self.start = 0  #: where that attempt begins
        #: (outcome, reason) of that attempt's EXIT by the offset behind it.
        self.exits: dict[int, tuple[str, str | None]] = {}
        self.exit_at = 0.0  #: when that was
        self.files: dict[str, bytes] = {}  #: the outputs that its EXIT lists
        self.paused_for_s = 0.0  #: how long the code ran that paused last
        self.on_s3: int | None = None  #: outputs that its checkpoint there counts
        #: Offset behind which that attempt's journal was lost with its worker's power.
        self.torn_at: int | None = None
        #: Where the daemon gave the rest of that attempt up, and how far it had come.
        self.given_up: tuple[int, int] | None = None

    def begin(self, attempt: int, offset: int) -> None:
        """An attempt's runner begins; what lies behind its offset never came to the daemon."""
        if attempt == self.attempt:
            return
        assert offset <= len(self.data), f"attempt {attempt} at {offset} of {len(self.data)}"
        del self.data[offset:]
        self.attempt, self.start, self.torn_at, self.given_up = attempt, offset, None, None
        self.exits = {}
        self.files = {}

    def gave_up(self, offset: int, frame: bytes) -> bool:
        """The daemon's record that it gave up the rest of the attempt is at `offset`, in the place
        of what else was written there. False: that can't be."""
        if self.given_up is None and self.start <= offset <= len(self.data):
            self.given_up = offset, len(self.data)
            self.data[offset:] = frame
        return self.given_up is not None and bytes(self.data[offset:]) == frame

    def wrote(self, offset: int, frame: bytes) -> None:
        assert offset == len(self.data), f"written at {offset}, the journal ends {len(self.data)}"
        self.data += frame


class Runner:
    """One container's inside."""

    def __init__(
        self, worker: "Worker", container: Container, script: Script, journal: Journal
    ) -> None:
        self.worker = worker
        self.container = container
        self.script = script
        self.journal = journal
        self.job_id = container.job_id
        self.attempt = container.attempt
        self.clock = ProcessClock(worker.clock)
        self.path: Path = worker.root / "jobs" / self.job_id
        self.code_began_at: float | None = None
        self._lock: int | None = None
        self._writer: JournalWriter | None = None
        self._socket: SimRunnerSocket | None = None
        self._orders: dict[str, Any] = {}
        self._stop: outcome.Stop | None = None
        self._pause_s = 0.05
        self._error: bytes = b""
        self._left = list(script.outputs)
        self._pause_wanted = False
        self._result = hashlib.sha256()
        self.clock.callLater(0.03, self._begin)

    # -- for the container's engine

    def term(self) -> None:
        if self.clock.alive and self._writer is not None and self.script.kind != "frozen":
            self.stop(None, 1.0)
        elif self.clock.alive and self._writer is None and self.script.kind != "silent":
            self._container_ends(143)

    def kill(self) -> None:
        """Gone, with all that it holds."""
        if not self.clock.alive:
            return
        self.clock.kill()
        self.worker.runner_died(self)
        if self._writer is not None:
            self._writer.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._socket is not None:
            self.worker.clock.callLater(0.001, self._socket.runner_left, self)

    # -- for the agent's socket

    def stop(self, reason: str | None, grace_s: float) -> None:
        """An order to end; the first one counts."""
        if self._stop is not None or self._writer is None or self.script.kind == "frozen":
            return
        why = None if reason is None else EndReason(reason)
        self._stop = outcome.Stop(why, f"stopped: {reason or 'the container is stopped'}", grace_s)
        self.clock.callLater(min(self.script.stop_s, grace_s), self._stopped)

    def pause(self, wanted: bool) -> None:
        """Whether the code is to pause, where it next looks."""
        if self._writer is None or self.script.kind == "frozen":
            return
        self._pause_wanted = wanted
        if wanted:
            self.clock.callLater(self.worker.random.uniform(0.01, 0.4), self._look)

    def socket_closed(self) -> None:
        self._socket = None
        self._pause_s = 0.05
        self.clock.callLater(self._pause_s, self._connect)

    # -- inside

    def _begin(self) -> None:
        kind = self.script.kind
        if kind == "no_runner" or not self.path.exists():
            self._container_ends(127)
            return
        try:
            self._orders = json.loads((self.path / names.ORDERS).read_bytes())
            if kind == "silent":
                if self._end_at_last_moment() <= 0 or self._is_rebooted():
                    self._container_ends(1)
                return
            self._lock = os.open(
                self.path / names.LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            self._container_ends(1)
            return
        except BlockingIOError:
            self.worker.violation(f"two runners at once in the folder of job {self.job_id}")
            self._container_ends(1)
            return
        assert self._orders["attempt"] == self.attempt, self._orders
        options = self._orders
        self._writer = _Writer(
            self.worker,
            str(self.path / names.JOURNAL),
            options["journal_max_bytes"],
            options["segment_bytes"],
            options["journal_start"],
        )
        self.journal.begin(self.attempt, options["journal_start"])
        self._connect()
        late_s = self._end_at_last_moment()
        if late_s <= 0 or self._is_rebooted():
            self._refuse()
            why = "the worker was restarted, or the time is over"
            self._say_end(outcome.Outcome(JobState.FAILED, EndReason.RUNNER_FAILED, why), None)
            return
        status = {"phase": "setup", "attempt": self.attempt}
        self._record(encode_json(Kind.STATUS, status, self._now_us()))
        self.clock.callLater(options["setup_timeout_s"], self._late, EndReason.SETUP_TIMEOUT, True)
        self.clock.callLater(self.script.setup_s, self._run)

    def _end_at_last_moment(self) -> float:
        """Ends whatever happens when the runner's last moment comes, which even a frozen one keeps
        here: one that hangs in the kernel for ever can't be told from a worker that is away.
        Gives the seconds until it is stopped for that."""
        now_s = self.worker.clock.now - self.worker.booted_at
        left_s = self._orders["last_moment_s"] - now_s
        self.clock.callLater(max(0.0, left_s - 1.0), self._last_moment)
        stop_in_s = float(left_s - self._orders["stop_grace_s"] - LAST_MARGIN_S)
        if stop_in_s > 0:
            self.clock.callLater(stop_in_s, self.stop, EndReason.DURATION_EXCEEDED.value, 1.0)
        return stop_in_s

    def _is_rebooted(self) -> bool:
        return bool(self._orders["boot_id"] != self.worker.boot_id)

    def _refuse(self) -> None:
        """Another attempt may have begun elsewhere: nothing is started."""

    def _last_moment(self) -> None:
        self._container_ends(137)

    def _run(self) -> None:
        if self._stop is not None:
            return
        self.code_began_at = self.worker.clock.now
        self._record(
            encode_json(Kind.STATUS, {"phase": "running", "cached": False}, self._now_us())
        )
        self._take_up()
        duration_s = self._orders["duration_s"]
        self.clock.callLater(duration_s, self._late, EndReason.DURATION_EXCEEDED, False)
        self._next()

    def _take_up(self) -> None:
        """Goes on from the checkpoint that there is."""
        done = None
        try:
            done = int((Path(self._orders["kept"]) / names.CHECKPOINTS / "state").read_text())
        except FileNotFoundError:
            if self._orders["resumed"] and self.script.obeys_pause == "local":
                self.worker.violation(f"job {self.job_id} is resumed without its checkpoint")
        if self.script.obeys_pause == "s3":
            done = self.journal.on_s3
        self._left = list(self.script.outputs)[done or 0 :]

    def _look(self) -> None:
        """The code looks whether it is to pause."""
        obeys, began = self.script.obeys_pause, self.code_began_at
        if self._stop is not None or not self._pause_wanted or obeys is None or began is None:
            return
        done = len(self.script.outputs) - len(self._left)
        entry = {"filename": "state", "path": "/state", "timestamp": 1.0, "size_bytes": 1}
        if obeys == "local":
            state = Path(self._orders["kept"]) / names.CHECKPOINTS / "state"
            state.write_text(str(done))
            entry["s3_key"] = None
        elif obeys == "s3":
            self.journal.on_s3 = done
            entry["s3_key"] = f"{self.job_id}/state"
        if obeys != "nothing":
            told = {"checkpoints": [entry]}
            self._record(encode_json(Kind.CHECKPOINT, told, self._now_us()))
        self.journal.paused_for_s = self.worker.clock.now - began
        self._say_end(outcome.paused(), None)

    def _late(self, reason: EndReason, setup: bool) -> None:
        if setup == (self.code_began_at is None):
            self.stop(reason.value, 1.0)

    def _next(self) -> None:
        """The next output, or the end of the code."""
        if self._stop is not None:
            return
        pause_s = self.script.run_s / (len(self.script.outputs) + 1)
        if self._left:
            self.clock.callLater(pause_s, self._print)
        elif self.script.kind not in ("long", "frozen"):
            self.clock.callLater(pause_s, self._finish)

    def _print(self) -> None:
        if self._stop is not None:
            return
        size = self._left[0]
        number = len(self.script.outputs) - len(self._left)
        payload = (f"{self.job_id}/{self.attempt}/{number} ".encode() * (size // 8 + 1))[:size]
        frame = encode(Kind.STDOUT if number % 3 else Kind.STDERR, payload, self._now_us())
        if not self._append(frame, urgent=False):
            self.clock.callLater(_RETRY_S, self._print)  # slow, not lost
            return
        self._left.pop(0)
        self._next()

    def _finish(self) -> None:
        """The code has ended by itself."""
        if self._stop is not None:
            return
        kind = self.script.kind
        result: dict[str, Any] | None = None
        if kind == "raises":
            error = {"type": "ValueError", "module": "builtins", "message": "no", "traceback": "T"}
            self._record(encode_json(Kind.ERROR, error, self._now_us()))
            verdict = outcome.Outcome(JobState.FAILED, EndReason.USER_ERROR, "ValueError: no")
        elif kind == "exits":
            verdict = outcome.Outcome(JobState.FAILED, EndReason.EXIT_CODE, "left", exit_code=3)
        else:
            value = f"result of {self.job_id}".encode()
            self._record(encode(Kind.RESULT, value, self._now_us()))
            result = {
                "encoding": "json",
                "size_bytes": len(value),
                "sha256": hashlib.sha256(value).hexdigest(),
            }
            verdict = outcome.Outcome(JobState.COMPLETED, None, "completed", exit_code=0)
        self._say_end(verdict, result)

    def _stopped(self) -> None:
        assert self._stop is not None
        self._say_end(outcome.of_stop(self._stop), None)

    def _say_end(self, verdict: outcome.Outcome, result: dict[str, Any] | None) -> None:
        reason = None if verdict.reason is None else verdict.reason.value
        run_s = self.journal.paused_for_s if verdict.state is JobState.PAUSED else 0.0
        record = verdict.exit_record(result, setup_s=0.0, run_s=run_s)
        if verdict.state is not JobState.PAUSED:
            record["outputs"] = self._leave_outputs()
        self._stop = self._stop or outcome.Stop(None, "", 0.0)
        self._record(encode_json(Kind.EXIT, record, self._now_us()))
        self.journal.exits[len(self.journal.data)] = (verdict.state.value, reason)
        self.journal.exit_at = self.worker.clock.now
        self.clock.callLater(0.001, self._say_bye)
        code = 0 if verdict.state in (JobState.COMPLETED, JobState.PAUSED) else 1
        self.clock.callLater(self.worker.random.uniform(0.005, 0.1), self._leave, code)

    def _leave_outputs(self) -> list[dict[str, Any]]:
        """Some jobs leave files: one small, one over several ranges."""
        folder = self.worker.root / "kept" / self.job_id / names.OUTPUTS
        if self.code_began_at is None or len(self.script.outputs) < 2 or not folder.is_dir():
            return []
        listed = []
        for name, size in (("sub/small", 100), ("large", 300_000)):
            data = (f"{self.job_id}/{self.attempt}/{name} ".encode() * (size // 8))[:size]
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            self.journal.files[name] = data
            sha256 = hashlib.sha256(data).hexdigest() if name == "large" else None
            listed.append({"name": name, "size_bytes": size, "sha256": sha256})
        return listed

    def _leave(self, code: int) -> None:
        assert self._writer is not None
        self._writer.sync()
        self._container_ends(code)

    def _container_ends(self, code: int) -> None:
        self.worker.swarm.end_container(self.container, code, quiet=False)

    def _record(self, frame: bytes) -> None:
        if not self._append(frame, urgent=True):
            raise AssertionError("an urgent record found no room")

    def _append(self, frame: bytes, urgent: bool) -> bool:
        writer = self._writer
        assert writer is not None
        if not urgent and writer.room_bytes(len(frame)) < len(frame):
            return False
        offset = writer.end_offset
        if not writer.append(frame, urgent):
            return False
        self.journal.wrote(offset, frame)
        if self._socket is not None:
            self.clock.callLater(0.001, self._poke)
        return True

    def _poke(self) -> None:
        if self._socket is not None:
            self._socket.poked()

    def _say_bye(self) -> None:
        if self._socket is not None:
            self._socket.runner_left(self)

    def _connect(self) -> None:
        if self._socket is not None:
            return
        self._socket = self.worker.socket_of(self)
        if self._socket is None:
            self.clock.callLater(self._pause_s, self._connect)
            self._pause_s = min(2.0, self._pause_s * 2)
            return
        self._socket.hello(self)

    def _now_us(self) -> int:
        unix_s = BEGIN_UNIX_S + self.worker.clock.now + self.worker.wall_offset_s
        return int(unix_s * 1e6)


class _Writer(JournalWriter):
    """The real one, on a disk that may be full."""

    def __init__(
        self, worker: "Worker", path: str, max_bytes: int, segment_bytes: int, start_offset: int
    ) -> None:
        self._worker = worker
        super().__init__(path, max_bytes, segment_bytes, start_offset)

    def append(self, frames: bytes, urgent: bool = False) -> bool:
        if self._worker.disk_full and not urgent:  # urgent ones have disk set aside
            return False
        return super().append(frames, urgent)
