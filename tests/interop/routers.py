"""The routers that the black-box suite is put to: ours, alone and open to all, and Crossbar."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.interop.black_box import CROSSBAR, REALM, TICKETS, Target
from tests.interop.crossbar import Crossbar

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def open_router(log: Path, *arguments: str) -> Iterator[str]:
    """The daemon's router in a process of its own; its URL. Fails if it logged a fault."""
    with open(log, "w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.interop.open_router", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=REPOSITORY,
        )
        assert process.stdout is not None
        with process:
            try:
                line = process.stdout.readline()
                assert line.startswith("listening on "), log.read_text()
                yield f"ws://{line.split()[-1]}/ws"
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
        said.seek(0)
        faults = said.read()
    assert not faults, faults


@contextmanager
def ours(folder: Path) -> Iterator[Target]:
    """cumulusd's router: one that lets everybody in, one that wants tickets."""
    tickets = [f"--token={name}:admin:{ticket}" for name, ticket in TICKETS.items()]
    with ExitStack() as stack:
        url = stack.enter_context(open_router(folder / "open.log"))
        tickets_url = stack.enter_context(open_router(folder / "tickets.log", *tickets))
        yield Target(name="cumulusd", url=url, tickets_url=tickets_url)


@contextmanager
def crossbar(folder: Path) -> Iterator[Target]:
    """Crossbar. Raises NoCrossbar when it can't be installed."""
    node = Crossbar(folder, realm=REALM, tickets=TICKETS)
    try:
        node.start()
        yield Target(name=CROSSBAR, url=node.url, tickets_url=node.tickets_url)
    finally:
        node.stop()
