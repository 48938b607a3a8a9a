"""The router's bounds, which the daemon under test has low."""

import json
from collections.abc import Sequence

from hypothesis import strategies as st

from cumulusd.protocol.codec import JSON
from tests.fuzz.fuzz_engine import Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_messages import as_json
from tests.fuzz.fuzz_serialised import framed, joining
from tests.fuzz.fuzz_stage import Stage
from tests.fuzz.fuzz_wire import CLOSE, CLOSING, PING, TEXT, exchange, frame, frames_of, upgrade

#: A daemon that is flooded by many takes its time.
_FLOODED_IDLE_S = 3.0
#: `{N}` counts up.
_FLOODS = (
    '[48,{N},{},"cumulus.server.info"]',
    '[48,{N},{},"cumulus.job.list",[],{"limit":1000}]',
    '[48,{N},{"receive_progress":true},"cumulus.job.attach",[],{"job_id":"none"}]',
    '[48,{N},{},"cumulus.package.check",[],{"sha256":"' + "a" * 64 + '","size_bytes":{N}}]',
    '[48,{N},{},"cumulus.package.put",[],{"sha256":"'
    + "b" * 64
    + '","offset":0,"data":"\\u0000QQ=="}]',
    '[48,{N},{},"nobody.has.it",["' + "x" * 20_000 + '"]]',
    '[32,{N},{},"cumulus.job.j{N}.status"]',
    '[32,{N},{"match":"prefix"},"cumulus.job.{N}"]',
    '[64,{N},{},"a.b{N}"]',
    "[49,{N},{}]",
    '[48,1,{},"cumulus.server.info"]',
    "ping",
)


class Bounds(Target):
    """The router's bounds, which the daemon under test has low: the same message many times, in
    pieces or whole, by a peer that reads or one that doesn't until it has sent all."""

    on_wire = True
    batch = 8
    weight = 3.0

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._stage = stage

    def make(self, source: Source, count: int) -> list[bytes]:
        script = st.builds(
            lambda message, times, pieces, stalls: as_json([message, times, pieces, stalls]),
            st.sampled_from(_FLOODS),
            st.sampled_from((10, 100, 100, 1500)),
            st.sampled_from((1, 1, 1, 3, 50)),
            st.booleans(),
        )
        return source.draw(script, count)

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        token = self._stage.token("admin").encode()
        sendings, stalls = [], []
        for data in batch:
            message, times, pieces, stalled = json.loads(data)
            sent = [framed(line, JSON) for line in joining(token)]
            for number in range(times):
                text = message.replace("{N}", str(number + 1)).encode()
                sent += _pieces(text, pieces)
            sendings.append((upgrade("/ws", JSON.subprotocol), b"".join(sent) + CLOSING))
            stalls.append(stalled)
        tally = Tally()
        for each in exchange(self._stage.port, sendings, stalls, _FLOODED_IDLE_S):
            tally.inputs += each.arrived
            said_goodbye = frames_of(each.received)[-1:] == [(CLOSE, b"\x03\xe8")]
            tally.refusals += each.arrived and not said_goodbye
        return tally

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])


def _pieces(payload: bytes, count: int) -> list[bytes]:
    """The message in so many frames; none of them a message when it is a ping."""
    if payload == b"ping":
        return [frame(payload, PING)]
    size = max(1, len(payload) // count)
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(parts) - 1
    return [
        frame(part, 0 if number else TEXT, fin=number == last) for number, part in enumerate(parts)
    ]
