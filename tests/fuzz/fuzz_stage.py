"""The daemon under test: a process of its own, what is known of it from outside, and a real job."""

import hashlib
import json
import os
import re
import secrets
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tests.e2e.harness import PYTHON, REPOSITORY, Daemon
from tests.fuzz.fuzz_engine import Finding
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_recording import Recording, record

ROLES = ("client", "admin", "viewer")
#: Nodes that the platform doesn't have: what their agents say touches no job. Each has one link.
NODE_IDS = tuple(f"fuzz{number}" for number in range(48))
#: How long after a round connections, sessions and processes may take to go.
SETTLE_S = 45.0
JOB_S = 120.0
#: What the log may take of the disk for one input, on the average of a round.
LOG_BYTES_AN_INPUT = 512
#: What memory may grow by, from the end of the warm-up to the end.
MEMORY_BYTES = 24 << 20
MEMORY_PART = 0.15
#: The same, of the line through the second half's rounds.
TREND_BYTES = 16 << 20
_SESSIONS = re.compile(r'^cumulus_sessions\{role="(\w+)"\} (\S+)', re.MULTILINE)

#: Bounds that are met within one exchange.
_ROUTER = """\
router:
  max_calls_in_flight: 32
  max_subscriptions: 32
  max_registrations: 16
  message_burst: 1000
  max_messages_per_s: 2000
  message_rate_patience_s: 3
  hello_timeout_s: 5
  close_timeout_s: 2
  message_timeout_s: 5
  slow_peer_timeout_s: 3
  low_watermark_bytes: 16384
  high_watermark_bytes: 65536
  hard_cap_bytes: 1048576
"""
_ENDED = ("completed", "failed", "timeout", "cancelled")


class FuzzedDaemon(Daemon):
    """With tokens, agents' too, which no configuration gives."""

    def __init__(self, folder: Path) -> None:
        self.tokens = {role: secrets.token_urlsafe(24) for role in ROLES}
        self.agents = {node_id: secrets.token_urlsafe(24) for node_id in NODE_IDS}
        listing = "".join(
            f"  - {{name: {role}, owner: {role}, role: {role}, token_sha256: {_hash(token)}}}\n"
            for role, token in self.tokens.items()
        )
        super().__init__(folder, extra=f"{_ROUTER}tokens:\n{listing}")
        self.command_prefix = (PYTHON, "-m", "tests.fuzz.fuzz_twistd")
        self.environment = {
            "CUMULUS_FUZZ_AGENTS": " ".join(
                f"{node_id}:{_hash(token)}" for node_id, token in self.agents.items()
            ),
            "PYTHONPATH": str(REPOSITORY),
        }


@attrs.frozen(kw_only=True)
class Sample:
    """What a daemon at rest takes."""

    rss_bytes: int
    descriptors: int
    children: int
    sessions: dict[str, int]


class Stage:
    """Starts the daemon, records real traffic, judges log and health, and stops it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.daemon = FuzzedDaemon(folder)
        self._say = say
        self._log_read = 0
        self.samples: list[Sample] = []
        self.warm_up = 1  #: samples that are no measure
        self.recording = Recording()

    @property
    def port(self) -> int:
        """Of its one listener."""
        return self.daemon.port

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self.daemon.process is not None
        return self.daemon.process.pid

    def token(self, role: str, number: int = 0) -> str:
        """That role's; of agents there are many."""
        if role == "agent":
            return self.daemon.agents[NODE_IDS[number % len(NODE_IDS)]]
        return self.daemon.tokens[role]

    def start(self, source: Source) -> None:
        """Returns when the daemon is healthy and real traffic is recorded."""
        self.daemon.start()
        self.recording = record(self.daemon, self.token("client"))
        for name, data in self.recording.seeds().items():
            source.add(name, data)
        self.judge()

    def stop(self) -> list[str]:
        """Ends it; what was wrong about that."""
        process = self.daemon.process
        if process is None:
            return []
        if process.poll() is not None:
            return [f"the daemon has ended by itself: {process.returncode}"]
        code = self.daemon.stop()
        # twistd ends itself by the signal that it was told to end by, once all has stopped.
        wrong = [f"the daemon left with {code}"] if code not in (0, -signal.SIGTERM) else []
        return wrong + self.judge()

    def judge(self) -> list[str]:
        """What its log has got since the last call that must not be there."""
        with open(self.daemon.log, "rb") as log:
            log.seek(self._log_read)
            data = log.read()
        # Half a line is read again.
        data = data[: data.rfind(b"\n") + 1]
        self._log_read += len(data)
        return [text for line in data.splitlines() if (text := _fault_of(line)) is not None][:10]

    def log_bytes(self) -> int:
        """How long it is."""
        return self.daemon.log.stat().st_size

    def run_job(self) -> None:
        """A real job from submission to its right end; then it is deleted. Raises Finding."""
        began = time.monotonic()
        boundary = "----job"
        from tests.fuzz.fuzz_zips import form

        fields = {"gpu_memory": b"0.1", "duration": b"60"}
        body = form(fields, self.recording.package, boundary)
        view = self._ask("POST", "/api/jobs", body, f"multipart/form-data; boundary={boundary}")
        path = f"/api/jobs/{view['job_id']}"
        while (status := self._ask("GET", path)["status"]) not in _ENDED:
            if time.monotonic() - began > JOB_S:
                raise Finding(f"a real job is {status} after {JOB_S:g} s")
            time.sleep(0.1)
        if status != "completed" or self._ask("GET", f"{path}/results") != {"n": 3}:
            raise Finding(f"a real job ended wrong: {self._ask('GET', path)}")
        self._say(f"a real job ended well in {time.monotonic() - began:.1f} s")

    def delete_jobs(self) -> None:
        """All that have ended; those that live are cancelled first. Raises Finding."""
        ends = time.monotonic() + SETTLE_S
        while jobs := self._ask("GET", "/api/jobs"):
            for job in jobs:
                path = f"/api/jobs/{job['job_id']}"
                ended = job["status"] in _ENDED
                self._ask(
                    "DELETE" if ended else "POST", path if ended else f"{path}/cancel", missing=True
                )
            if time.monotonic() > ends:
                raise Finding(f"jobs that don't go: {[job['job_id'] for job in jobs][:5]}")
            time.sleep(0.1)

    def settle(self) -> Sample:
        """What it takes once everything of the round is gone. Raises Finding when it doesn't go."""
        ends = time.monotonic() + SETTLE_S
        base = self.samples[0] if self.samples else None
        while True:
            sample = self.sample()
            left = [] if base is None else _left(base, sample)
            if base is None or not left:
                break
            if time.monotonic() > ends:
                raise Finding(f"not gone {SETTLE_S:g} s after the round: {'; '.join(left)}")
            time.sleep(0.25)
        self.samples.append(sample)
        return sample

    def sample(self) -> Sample:
        """Now. Raises Finding when it isn't healthy."""
        process = self.daemon.process
        if process is None or process.poll() is not None:
            raise Finding(f"the daemon has ended: {self.daemon.log_text()[-2000:]}")
        try:
            status, health = self.daemon.get("/health")
            _, metrics = self.daemon.get("/metrics", self.token("viewer"))
        except OSError as error:
            raise Finding(f"the daemon doesn't answer: {error}") from error
        if status != 200:
            raise Finding(f"the daemon is not healthy: {health}")
        return Sample(
            rss_bytes=_rss_bytes(self.pid),
            descriptors=len(os.listdir(f"/proc/{self.pid}/fd")),
            children=len(_children(self.pid)),
            sessions={role: int(float(count)) for role, count in _SESSIONS.findall(metrics)},
        )

    def memory_faults(self) -> list[str]:
        """What is wrong with how much memory it took, over the whole run."""
        sizes = [sample.rss_bytes for sample in self.samples[self.warm_up :]]
        if len(sizes) < 2:
            return []
        base, last = sizes[0], sizes[-1]
        allowed = base + max(MEMORY_BYTES, int(base * MEMORY_PART))
        faults = []
        if last > allowed:
            faults.append(f"memory: {base >> 20} MiB at first, {last >> 20} MiB at last")
        half = sizes[len(sizes) // 2 :]
        if len(half) >= 4 and (grown := _slope(half) * (len(half) - 1)) > TREND_BYTES:
            faults.append(f"memory grew by {grown / (1 << 20):.1f} MiB over the second half")
        return faults

    def _ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "", *, missing: bool = False
    ) -> Any:
        request = urllib.request.Request(self.daemon.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.token('admin')}")
        if kind:
            request.add_header("Content-Type", kind)
        if body:
            request.data = body
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            with error:
                told = error.read()
            if missing and error.code in (404, 409):
                return {}
            raise Finding(f"{method} {path}: {error.code} {told[:500]!r}") from error
        except OSError as error:
            raise Finding(f"{method} {path}: {error}") from error
        return json.loads(text) if text else {}


def _left(base: Sample, now: Sample) -> list[str]:
    left = []
    if now.descriptors > base.descriptors + 4:
        left.append(f"{now.descriptors} descriptors, {base.descriptors} at first")
    if now.children > base.children:
        left.append(f"{now.children} children, {base.children} at first")
    for role, count in now.sessions.items():
        if count > base.sessions.get(role, 0):
            left.append(f"{count} sessions of role {role}")
    return left


def _fault_of(line: bytes) -> str | None:
    """What is wrong about a line of the log; None: nothing."""
    try:
        event = json.loads(line)
    except ValueError:
        event = {"message": line.decode(errors="replace"), "level": "unstructured"}
    if not isinstance(event, dict):
        return repr(line[:500])
    text = f"{event.get('level')} {event.get('message')}"
    trace = str(event.get("traceback") or "")
    if trace or event.get("level") in ("critical", "unstructured") or "Unhandled" in text:
        return f"{text[:1000]}\n{trace[-2500:]}"
    return None


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise Finding("the daemon has no memory")


def _children(pid: int) -> list[int]:
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            continue
        found += [int(number) for number in text.split()]
    return found


def _slope(sizes: list[int]) -> float:
    """Of the line through these, a step."""
    count = len(sizes)
    middle, mean = (count - 1) / 2, sum(sizes) / count
    over = sum((index - middle) * (size - mean) for index, size in enumerate(sizes))
    return over / sum((index - middle) ** 2 for index in range(count))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
