"""A user's program that reads jobs, in a process of its own, so that it can be stopped and killed.

    python -m tests.torture.reader URL TOKEN FOLDER

Takes one JSON object a line on stdin, {"name", "job_id" or "spec", "manner", "chance"}, follows
each of these jobs, and keeps what it was given in FOLDER: `NAME.copy` (see `copies`) and, at the
job's end, `NAME.end.json`, the view it was told. It goes on where an earlier process of the same
folder was killed. Ends when stdin has ended and all jobs have.
"""

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

from cumulus_client._job_stream import Ended, JobStream, Journal
from cumulus_client.connection import Connection
from cumulus_client.exceptions import (
    ConnectionFailed,
    CumulusError,
    NoWorkersAvailable,
    Unavailable,
)
from tests.torture import copies

#: How long daemon or workers may be away before this program gives up on a job.
AWAY_S = 120.0


class _Brought:
    """The submit of a job whose package is with the daemon already."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec

    async def arguments(self) -> dict[str, Any]:
        return {"spec": self._spec}

    def answered(self, *, accepted: bool) -> None:
        """Nothing goes along."""

    def mends(self, error: BaseException | None) -> bool:
        return False


class Reader:
    """Follows one job in its manner: `follow`, `stall` (reads with long pauses), or `reattach`
    (leaves every few events and comes back)."""

    def __init__(self, connection: Connection, folder: Path, order: dict[str, Any]) -> None:
        self._connection = connection
        self._order = order
        self._copy = folder / f"{order['name']}.copy"
        self._end = folder / f"{order['name']}.end.json"
        self._error = folder / f"{order['name']}.error"
        self._chance = random.Random(order["chance"])
        self._stalls = 2

    async def run(self) -> None:
        """To the job's end."""
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while not self._end.exists():
            try:
                if await self._follow():
                    heard_at = loop.time()
            except (ConnectionFailed, Unavailable, NoWorkersAvailable) as error:
                if loop.time() - heard_at > AWAY_S:
                    self._error.write_text(f"nobody to ask for {AWAY_S:g} s: {error}")
                    return
                await asyncio.sleep(0.3)
            except CumulusError as error:
                self._error.write_text(f"{type(error).__name__}: {error}")
                return

    async def _follow(self) -> bool:
        """One stream, until it ends or is left; whether it brought anything."""
        held = copies.load(self._copy)
        stream = JobStream(
            self._connection,
            job_id=self._order.get("job_id"),
            submission=_Brought(self._order["spec"]) if "spec" in self._order else None,
            from_offset=held[-1].next_offset if held else 0,
        )
        manner, events = self._order["manner"], 0
        try:
            while (event := await stream.next()) is not None:
                if isinstance(event, Journal):
                    events += 1
                    copies.append(self._copy, event.records)
                    if manner == "stall" and self._stalls and self._chance.random() < 0.2:
                        self._stalls -= 1
                        await asyncio.sleep(self._chance.uniform(2.0, 6.0))
                    if manner == "reattach" and self._chance.random() < 0.15:
                        return True
                elif isinstance(event, Ended):
                    draft = self._end.with_suffix(".draft")
                    draft.write_text(json.dumps(event.job))
                    draft.replace(self._end)  # whole, whenever this process is killed
        finally:
            await stream.close()
        return events > 0


async def main(url: str, token: str, folder: Path) -> None:
    """Until stdin and all jobs have ended."""
    connection = Connection(url, token)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    try:
        async with asyncio.TaskGroup() as readers:
            while line := await lines.readline():
                readers.create_task(Reader(connection, folder, json.loads(line)).run())
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
