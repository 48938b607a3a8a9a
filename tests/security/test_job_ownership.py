"""A client's jobs are its own: each procedure about a job, for its owner and for everybody else, by
real sessions with the real daemon."""

import json
import subprocess
from typing import Any

import pytest

from cumulus_wire import uris
from tests.e2e.harness import PYTHON
from tests.security.conftest import World

#: JOB: ann's, ended. LIVE: ann's, running. What the daemon answers; `denied`: by the table already.
MATRIX = """
procedure                job   ann              bob              admin            viewer    agent
cumulus.job.get          JOB   ok               NotFound         ok               ok        denied
cumulus.job.attach       JOB   ok               NotFound         ok               ok        denied
cumulus.job.result       JOB   ok               NotFound         ok               ok        denied
cumulus.job.outputs      JOB   ok               NotFound         ok               ok        denied
cumulus.job.output       JOB   ok               NotFound         ok               ok        denied
cumulus.job.checkpoints  JOB   ok               NotFound         ok               ok        denied
cumulus.job.cancel       JOB   Conflict         NotFound         Conflict         denied    denied
cumulus.job.pause        JOB   Conflict         NotFound         Conflict         denied    denied
cumulus.job.resume       LIVE  Conflict         NotFound         Conflict         denied    denied
cumulus.job.delete       LIVE  Conflict         NotFound         Conflict         denied    denied
cumulus.job.get          LIVE  ok               NotFound         ok               ok        denied
cumulus.job.result       LIVE  NotEnded         NotFound         NotEnded         NotEnded  denied
cumulus.job.list         -     ok               ok               ok               ok        denied
cumulus.job.search       -     ok               ok               ok               ok        denied
cumulus.job.submit       -     InvalidArgument  InvalidArgument  InvalidArgument  denied    denied
cumulus.package.check    -     ok               ok               ok               denied    denied
cumulus.package.put      -     InvalidArgument  InvalidArgument  InvalidArgument  denied    denied
cumulus.package.commit   -     InvalidArgument  InvalidArgument  InvalidArgument  denied    denied
cumulus.worker.list      -     ok               ok               ok               ok        denied
cumulus.server.info      -     ok               ok               ok               ok        denied
"""
HEADER, *LINES = [line.split() for line in MATRIX.strip().splitlines()]
COLUMNS = HEADER[2:]

CALLS = """
import asyncio, json, sys
from cumulus_client.connection import Connection
from cumulus_client.exceptions import CumulusError

async def main():
    url, token, calls = json.loads(sys.stdin.read())
    connection = Connection(url, token)
    told = []
    for procedure, kwargs in calls:
        parts = []
        try:
            answer = await connection.call_once(procedure, kwargs, parts.append)
            told.append(["ok", repr((answer, parts))])
        except CumulusError as error:
            denied = "may not call" in error.message
            told.append(["denied" if denied else type(error).__name__, repr(str(error))])
    await connection.close()
    print(json.dumps(told))

asyncio.run(main())
"""


def calls(world: World, column: str, wanted: list[tuple[str, dict[str, Any]]]) -> list[list[str]]:
    """(outcome, all that was told) of each call, in a session of that column's token."""
    done = subprocess.run(
        [PYTHON, "-c", CALLS],
        input=json.dumps([world.daemon.url, world.tokens[column], wanted]),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: list[list[str]] = json.loads(done.stdout)
    return told


def arguments(world: World, procedure: str, job: str) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if job != "-":
        kwargs["job_id"] = {"JOB": world.ended, "LIVE": world.running}[job]
    if procedure == uris.JOB_OUTPUT:
        kwargs["name"] = "note.txt"
    elif procedure == uris.JOB_SUBMIT:
        kwargs["spec"] = {}
    elif procedure == uris.PACKAGE_CHECK:
        kwargs |= {"sha256": "0" * 64, "size_bytes": 1}
    return kwargs


def test_every_procedure_of_clients_has_its_line() -> None:
    named = {procedure for procedure, *_ in LINES}
    procedures = {
        value
        for name, value in vars(uris).items()
        if name.startswith(("JOB_", "PACKAGE_", "WORKER_", "SERVER_"))
    }
    assert named == procedures


@pytest.mark.parametrize("column", COLUMNS)
def test_each_procedure(world: World, column: str) -> None:
    wanted = [(procedure, arguments(world, procedure, job)) for procedure, job, *_ in LINES]
    told = calls(world, column, wanted)
    outcomes = {(line[0], line[1]): outcome for line, (outcome, _) in zip(LINES, told, strict=True)}
    place = HEADER.index(column)
    assert outcomes == {(line[0], line[1]): line[place] for line in LINES}
    if column in ("bob", "agent"):
        assert not [text for _, text in told if "of ann's" in text or "'ann'" in text]


def test_a_foreign_job_and_none_are_told_in_the_same_words(world: World) -> None:
    about = [line[0] for line in LINES if line[1] == "JOB"]
    foreign = calls(world, "bob", [(each, arguments(world, each, "JOB")) for each in about])
    missing = calls(
        world,
        "bob",
        [(each, {**arguments(world, each, "JOB"), "job_id": "job_0"}) for each in about],
    )
    assert [[kind, text.replace(world.ended, "job_0")] for kind, text in foreign] == missing


def test_nobodys_call_did_anything_to_the_jobs(world: World) -> None:
    (told,) = calls(world, "ann", [(uris.JOB_GET, {"job_id": world.running})])
    assert "'status': 'running'" in told[1]
