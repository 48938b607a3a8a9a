"""A whole run: rounds, what is looked at between them, and the numbers at the end."""

import time
from collections.abc import Callable
from typing import Any

from tests.fuzz.fuzz_engine import Engine, Finding
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_stage import LOG_BYTES_AN_INPUT, Stage

#: Between two looks at the daemon at rest; a short run looks more often.
ROUND_S = 45.0
ROUNDS_AT_LEAST = 2
#: Samples that are no measure: what is loaded once is not yet loaded.
WARM_UP_PART = 0.2
_LOG_SLACK_BYTES = 256 << 10


class Run:
    """Starts the daemon, fuzzes for a time, and judges."""

    def __init__(
        self, engine: Engine, stage: Stage, source: Source, say: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._stage = stage
        self._source = source
        self._say = say

    def run(self, seconds: float) -> dict[str, Any]:
        """For about so long, starting and stopping not counted, or until the engine is stopped; the
        numbers."""
        began = time.monotonic()
        healthy = True
        try:
            self._stage.start(self._source)
            self._judged("stage", self._stage.run_job)
            self._judged("stage", self._rest)
            self._say("the rounds begin")
            healthy = self._rounds(seconds)
        except KeyboardInterrupt:
            self._say("interrupted again: nothing more is looked at")
        except Finding as finding:
            healthy = False
            self._engine.note("daemon", str(finding))
        finally:
            minutes = (time.monotonic() - began) / 60
            healthy = self._end() and healthy
        return self._summary(minutes, healthy)

    def _rounds(self, seconds: float) -> bool:
        count = max(ROUNDS_AT_LEAST, round(seconds / ROUND_S))
        self._stage.warm_up = max(1, int(count * WARM_UP_PART))
        ends = time.monotonic() + seconds
        healthy = True
        for number in range(count):
            left = ends - time.monotonic()
            if left <= 0 or self._engine.stopped:
                break
            inputs, log_bytes = self._engine.inputs, self._stage.log_bytes()
            self._engine.round(left / (count - number))
            made = self._engine.inputs - inputs
            logged = self._stage.log_bytes() - log_bytes
            if logged > made * LOG_BYTES_AN_INPUT + _LOG_SLACK_BYTES:
                self._engine.note("daemon", f"{made} inputs made {logged} bytes of log")
            healthy = self._judged("daemon", self._rest) and healthy
            healthy = self._judged("daemon", self._stage.run_job) and healthy
            last = self._stage.samples[-1]
            self._say(
                f"round {number + 1} of {count}: {made} inputs, {logged >> 10} KiB of log, "
                f"{last.rss_bytes >> 20} MiB, {last.descriptors} descriptors"
            )
            self._stage.sample()  # raises when the daemon has ended: no further rounds
        return healthy

    def _rest(self) -> None:
        """The daemon at rest: nothing of the round is left. Raises Finding."""
        self._stage.delete_jobs()
        self._stage.settle()

    def _judged(self, kind: str, look: Callable[[], None]) -> bool:
        try:
            look()
        except Finding as finding:
            self._engine.note(kind, str(finding))
            return False
        finally:
            for text in self._stage.judge():
                self._engine.note(kind, f"in the log: {text}")
        return True

    def _end(self) -> bool:
        """Stops the daemon; is all well with it?"""
        faults = [] if self._engine.stopped else self._stage.memory_faults()
        for text in (*faults, *self._stage.stop()):
            faults.append(text)
            self._engine.note("daemon", text)
        return not faults

    def _summary(self, minutes: float, healthy: bool) -> dict[str, Any]:
        samples = self._stage.samples[self._stage.warm_up :] or self._stage.samples
        memory = [round(sample.rss_bytes / (1 << 20), 1) for sample in samples]
        return {
            "inputs": self._engine.inputs,
            "findings": self._engine.findings,
            "kinds": {
                name: {
                    "inputs": counts.inputs,
                    "refusals": counts.refusals,
                    "findings": counts.findings,
                    "per_s": round(counts.inputs / counts.seconds) if counts.seconds else 0,
                }
                for name, counts in self._engine.counts.items()
            },
            "targets": {
                name: {
                    "inputs": counts.inputs,
                    "refusals": counts.refusals,
                    "per_s": round(counts.inputs / counts.seconds) if counts.seconds else 0,
                }
                for name, counts in self._engine.targets.items()
            },
            "daemon": "healthy" if healthy else "not healthy",
            "memory_mib": {
                "before": memory[0] if memory else None,
                "after": memory[-1] if memory else None,
                "most": max(memory, default=None),
            },
            "descriptors": [sample.descriptors for sample in (samples[:1] + samples[-1:])],
            "minutes": round(minutes, 2),
        }
