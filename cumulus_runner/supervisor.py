"""The runner's one loop: the child's output to the journal, the agent's commands, the deadline."""

from __future__ import annotations

import math
import os
import select
import time

from cumulus_runner.outcome import Stop, StopRequested, stop_asked
from cumulus_runner.pipe_reader import HEADERS_BYTES, READ_BYTES, RECORD_BYTES, PipeReader
from cumulus_runner.sandbox import reap
from cumulus_wire.journal import Kind, encode, encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from cumulus_runner.agent_socket import AgentSocket
    from cumulus_runner.checkpoint_index import CheckpointIndex
    from cumulus_runner.code_socket import CodeSocket
    from cumulus_runner.container_log import ContainerLog
    from cumulus_runner.control import Control
    from cumulus_runner.journal_writer import JournalWriter
    from cumulus_runner.sandbox import Process

#: How often to look for room in a full journal.
FULL_PAUSE_S = 0.05
#: Longest sleep: poll's clock stands still while the machine is suspended, the deadline's doesn't.
LONGEST_POLL_S = 1.0
#: How long processes may take to be gone after SIGKILL, and what they left in the pipes to be read.
KILL_WAIT_S = 10.0
DRAIN_WAIT_S = 2.0
DRAIN_MAX_BYTES = 1 << 20
#: How long records that may not be lost wait for a disk that is full.
DISK_WAIT_S = 30.0
#: Small writes in quick succession are gathered for so long, rather than each made a record.
GATHER_S = 0.001
GATHER_BELOW_BYTES = 16 << 10
TAIL_BYTES = 8 << 10


class JournalUnwritable(Exception):
    """The disk stayed full: what had to be recorded can't be."""


class Supervisor:
    """Does one thing at a time for the runner, and never stops minding the rest meanwhile.

    `clock` gives seconds that go on while the machine is suspended. `wakeup` is the descriptor that
    signals write to.
    """

    def __init__(
        self,
        journal: JournalWriter,
        agent: AgentSocket,
        log: ContainerLog,
        clock: Callable[[], float],
        wakeup: int,
        grace_s: float,
    ) -> None:
        self._journal = journal
        self._agent = agent
        self._log = log
        self._clock = clock
        self._wakeup = wakeup
        self._grace_s = grace_s
        self._deadline = math.inf
        self._deadline_stop: Stop | None = None
        #: Why the job is to end, once it is.
        self.stop: Stop | None = None
        #: Set by the signal handler, the signal's number.
        self.signalled: int | None = None
        #: The last output of the set-up, for its error message.
        self.setup_tail = bytearray()
        self._code: CodeSocket | None = None
        self._reader = PipeReader()
        self._unwritten = b""
        self._batch_at = -math.inf
        self._control: Control | None = None
        self._index: CheckpointIndex | None = None

    def mind_pauses(self, control: Control, index: CheckpointIndex) -> None:
        """From now on the agent's word on pauses goes to `control`, and `index` gets its turns."""
        self._control, self._index = control, index

    def set_deadline(self, deadline: float, stop: Stop) -> None:
        """From `deadline` on the clock, the job is stopped so. Replaces the deadline before."""
        self._deadline, self._deadline_stop = deadline, stop

    def now(self) -> float:
        """The time on the clock."""
        return self._clock()

    @property
    def deadline(self) -> float:
        """When the job is stopped, on the clock."""
        return self._deadline

    def listen_to_code(self, code: CodeSocket) -> None:
        """From now on what the code tells there is recorded. The caller closes it."""
        self._code = code

    def attend(self) -> None:
        """Looks at agent and signals without waiting, and lets the caller see to `stop`."""
        self._turn({}, self._clock())

    def check(self) -> None:
        """Looks at everything without waiting. Raises StopRequested once the job is stopped."""
        self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        """Waits, awake to everything. Raises StopRequested once the job is stopped."""
        until = self._clock() + seconds
        while True:
            self._turn({}, until)
            self._look_at_deadline()
            if self.stop is not None:
                raise StopRequested(self.stop)
            if self._clock() >= until:
                return

    def record(self, kind: Kind, value: Mapping[str, Any]) -> None:
        """Writes a JSON record at once, past the bound if need be. Raises JournalUnwritable."""
        self._append_surely(encode_json(kind, value))

    def say_setup(self, text: str) -> None:
        """A line of the runner's own in the set-up's output. Raises JournalUnwritable."""
        self._append_surely(encode(Kind.SETUP, text.encode()))

    def record_result(self, part: bytes, until: float) -> bool:
        """Writes a part of the result when there is room; False when there was none `until` then.

        Raises StopRequested.
        """
        frame = encode(Kind.RESULT, part)
        # Half of the bound is all that can be waited for where the bound is small.
        needed = min(len(frame), self._journal.max_bytes // 2)
        while self._journal.room_bytes(needed) < needed:
            if self._clock() >= until:
                return False
            self.sleep(FULL_PAUSE_S)
        while not self._flush() or not self._append(frame):
            if self._clock() >= until:
                return False
            self.sleep(FULL_PAUSE_S)
        self.check()
        return True

    def run(self, process: Process, kinds: tuple[Kind, Kind]) -> Stop | None:
        """Minds `process` until it and all of its descendants are gone, its output recorded.

        `kinds`: of its stdout and stderr. Returns why it was stopped, None when it ended by itself.
        Closes its pipes.
        """
        pipes = {process.stdout: kinds[0], process.stderr: kinds[1]}
        stopped: Stop | None = None
        kill_at = give_up_at = math.inf
        killed = False
        try:
            while True:
                self._turn(pipes, min(self._deadline if stopped is None else kill_at, give_up_at))
                reap()
                if process.ended:
                    break
                self._look_at_deadline()
                now = self._clock()
                if self.stop is not None and stopped is None:
                    stopped = self.stop
                    kill_at = now + stopped.grace_s
                    process.terminate()
                    self._record_stopping(stopped)
                if stopped is not None and not killed:
                    kill_at = min(kill_at, now + stopped.grace_s)
                    if now >= kill_at:
                        process.kill()
                        killed, kill_at, give_up_at = True, math.inf, now + KILL_WAIT_S
                if now >= give_up_at:
                    self._log.note(f"process {process.pid} doesn't end, not even when killed")
                    break
            self._clear_up(process, pipes)
            self._hear_last_of_code()
        except BaseException:
            # Whatever went wrong here, the job doesn't run on without its journal.
            process.end_now()
            raise
        finally:
            process.close()
        return stopped

    def hold_pokes(self, seconds: float) -> None:
        """For so long, from now on, what is recorded is told to the agent with what follows; output
        of a process is told at once, and so all before it."""
        self._agent.hold(self._clock() + seconds)

    def tell_proof(self, proof: Mapping[str, Any]) -> None:
        """Tells the agent of the layer's proof; nothing that anyone says after it counts there."""
        self._agent.say_proof(proof, self._clock())

    def farewell(self) -> None:
        """Tells the agent that the journal is complete."""
        if self._agent.fileno() is None:
            self._log.note(f"the agent isn't connected: {self._agent.problem}")
        self._agent.poke(self._journal.end_offset)
        self._agent.say_bye(self._clock())
        self._log.flush()

    def _clear_up(self, process: Process, pipes: dict[int, Kind]) -> None:
        """Kills what is left of the process's descendants and reads what is left in its pipes."""
        give_up_at = self._clock() + KILL_WAIT_S
        while process.leaves_any():
            process.kill()
            now = self._clock()
            if now >= give_up_at:
                self._log.note("some of the job's processes don't end, not even when killed")
                break
            self._turn(pipes, now + 0.02)
        until, left = self._clock() + DRAIN_WAIT_S, DRAIN_MAX_BYTES
        while pipes and left > 0 and self._clock() < until:
            # The pipes hold little: this may pass the bound rather than wait for room.
            left -= self._turn(pipes, until, past_bound=True)
        if pipes:
            self._log.note("the last of the job's output could not be recorded")

    def _turn(self, pipes: dict[int, Kind], until: float, past_bound: bool = False) -> int:
        """Waits for something to do until then at most, and does it; the bytes of output read.

        A pipe that came to its end is taken out of `pipes`.
        """
        now = self._clock()
        self._agent.tick(now)
        self._log.tick(now)
        if self._index is not None:
            self._index.tick(now)
            until = min(until, self._index.wake_at())
        ready = self._unwritten == b"" or self._flush()
        blocked = bool(pipes) and not (ready and (past_bound or self._has_room()))
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        agent = self._agent.fileno()
        if agent is not None:
            writing = select.POLLOUT if self._agent.wants_write else 0
            poll.register(agent, select.POLLIN | writing)
        if not blocked:
            for pipe in pipes:
                poll.register(pipe, select.POLLIN)
        if self._code is not None:
            poll.register(self._code.fileno(), select.POLLIN)
            if not blocked and ready:
                until = min(until, self._code.wake_at())
        until = min(until, self._agent.wake_at(), self._log.wake_at(), now + LONGEST_POLL_S)
        if blocked or not ready:
            until = min(until, now + FULL_PAUSE_S)
        events = poll.poll(max(0, math.ceil((until - now) * 1000)))
        readable = []
        for fd, _ in events:
            if fd == self._wakeup:
                self._calm()
            elif fd == agent:
                for message in self._agent.receive(self._clock()):
                    self._obey(message)
            elif self._code is not None and fd == self._code.fileno():
                self._code.receive()
                if self._index is not None and self._code.take_checkpoint():
                    self._index.changed()
            else:
                readable.append(fd)
        self._take_signals()
        self._record_progress()
        return self._read(readable, pipes, past_bound) if readable else 0

    def _record_progress(self, last: bool = False) -> None:
        """A record nobody depends on: it waits where the journal is full."""
        progress = None if self._code is None else self._code.take_progress(self._clock(), last)
        if self._code is None or progress is None:
            return
        if not (self._flush() and self._has_room()) or not self._append(
            encode_json(Kind.PROGRESS, progress)
        ):
            self._code.put_back(progress)

    def _hear_last_of_code(self) -> None:
        """What it told in its last moments, however much that is."""
        until = self._clock() + DRAIN_WAIT_S
        while self._code is not None and self._code.receive() and self._clock() < until:
            pass
        self._record_progress(last=True)

    def _read(self, readable: list[int], pipes: dict[int, Kind], past_bound: bool) -> int:
        size = 0
        room = READ_BYTES * 4 if past_bound else self._journal.room_bytes(0)
        for fd in readable:
            limit = min(READ_BYTES, room - HEADERS_BYTES)
            # What the disk held up comes first.
            if limit <= 0 or self._unwritten:
                break
            kind = pipes[fd]
            frames, payloads = self._reader.read(fd, limit, kind)
            if not payloads:
                del pipes[fd]
                continue
            room -= len(frames)
            size += len(frames)
            self._agent.hold(-math.inf)
            if not self._append(frames):
                self._unwritten = bytes(frames)
            for data in payloads:
                self._copy(kind, data)
        if size:
            self._gather(size)
        return size

    def _copy(self, kind: Kind, data: memoryview) -> None:
        """What else gets to see the output."""
        if kind is Kind.SETUP:
            self.setup_tail += data
            del self.setup_tail[:-TAIL_BYTES]
        if kind is Kind.STDOUT:
            self._log.out(data, self._clock())
        else:
            self._log.err(data, self._clock())

    def _gather(self, size: int) -> None:
        """Lets a quick succession of small writes fill the pipe, to be read as one."""
        now = self._clock()
        if size < GATHER_BELOW_BYTES and now - self._batch_at < 2 * GATHER_S:
            time.sleep(GATHER_S)
            now = self._clock()
        self._batch_at = now

    def _has_room(self) -> bool:
        needed = min(RECORD_BYTES, self._journal.max_bytes // 8) + HEADERS_BYTES
        return self._journal.room_bytes(needed) >= needed

    def _append(self, frames: bytes | memoryview, urgent: bool = False) -> bool:
        if not self._journal.append(frames, urgent):
            return False
        self._agent.poke(self._journal.end_offset)
        self._agent.tick(self._clock())
        return True

    def _flush(self, urgent: bool = False) -> bool:
        """Writes the output that a full disk held up; True when none is left."""
        if self._unwritten:
            if not self._append(self._unwritten, urgent):
                return False
            self._unwritten = b""
        return True

    def _append_surely(self, frames: bytes) -> None:
        until = self._clock() + DISK_WAIT_S
        while not (self._flush(urgent=True) and self._append(frames, urgent=True)):
            if self._clock() >= until:
                raise JournalUnwritable(f"the disk was full for {DISK_WAIT_S:.0f} s")
            self._turn({}, self._clock() + FULL_PAUSE_S)

    def _record_stopping(self, stop: Stop) -> None:
        """A record nobody depends on: a full disk mustn't hold up the end."""
        value = {"phase": "stopping", "reason": stop.reason, "grace_s": stop.grace_s}
        if self._flush():
            self._append(encode_json(Kind.STATUS, value))

    def _look_at_deadline(self) -> None:
        if self.stop is None and self._clock() >= self._deadline:
            self.stop = self._deadline_stop

    def _request_stop(self, stop: Stop) -> None:
        """The first reason counts; later ones can only shorten the grace."""
        if self.stop is None:
            self.stop = stop
        else:
            self.stop.grace_s = min(self.stop.grace_s, stop.grace_s)

    def _calm(self) -> None:
        try:
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            return  # somebody was quicker

    def _take_signals(self) -> None:
        if self.signalled is not None:
            message = f"the container was stopped from outside (signal {self.signalled})"
            self.signalled = None
            self._request_stop(Stop(None, message, self._grace_s))

    def _obey(self, message: dict[str, Any]) -> None:
        """Carries out a command of the agent."""
        if message.get("t") == "pause" and self._control is not None:
            try:
                self._control.set_pause(message.get("wanted") is True)
            except OSError as error:
                self._log.note(f"the code can't be told to pause or to go on: {error}")
            return
        if message.get("t") != "stop":
            self._log.note(f"unknown command from the agent: {message.get('t')!r}")
            return
        self._request_stop(stop_asked(message, self._grace_s))
