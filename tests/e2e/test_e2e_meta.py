"""What an operator's own WAMP client sees of a running daemon: patterns of topics, who is there,
which agent offers what."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.raw_client import (
    AUTHENTICATE,
    CALL,
    CHALLENGE,
    ERROR,
    EVENT,
    GOODBYE,
    RESULT,
    SUBSCRIBE,
    SUBSCRIBED,
    WELCOME,
    Session,
)
from tests.security.daemons import TOKENS, GuardedDaemon

PROGRAM = """
from cumulus_client import CumulusClient

def work():
    return 7

with CumulusClient("{URL}", "{TOKEN}") as client:
    job = client.submit(work, duration=60)
    assert job.result() == 7
    print(job.job_id)
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedDaemon]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    daemon = GuardedDaemon(folder)
    daemon.start()
    yield daemon
    daemon.stop()


def join(daemon: GuardedDaemon, role: str) -> Session:
    session = Session(f"ws://127.0.0.1:{daemon.port}/ws")
    assert session.hello(authmethods=["ticket"])[0] == CHALLENGE
    session.send(AUTHENTICATE, TOKENS[role], {})
    message = session.receive()
    assert message[0] == WELCOME, message
    session.session_id = message[1]
    return session


def ask(session: Session, procedure: str, *args: Any) -> Any:
    answer = session.ask(CALL, {}, procedure, list(args))
    assert answer[0] == RESULT, answer
    return answer[3][0] if len(answer) > 3 and answer[3] else None


def test_all_jobs_are_followed_by_one_pattern_and_a_client_gets_no_others(
    guarded: GuardedDaemon,
) -> None:
    viewer, client = join(guarded, "viewer"), join(guarded, "client")
    pattern = {"match": "wildcard"}
    assert viewer.ask(SUBSCRIBE, pattern, "cumulus.job..status")[0] == SUBSCRIBED
    refused = [
        client.ask(SUBSCRIBE, pattern, "cumulus.job..status"),
        client.ask(SUBSCRIBE, {"match": "prefix"}, "cumulus.job."),
        client.ask(SUBSCRIBE, {"match": "prefix"}, ""),
    ]
    for answer in refused:
        assert (answer[0], answer[4]) == (ERROR, "wamp.error.not_authorized")
        assert "pattern" in answer[5][0]
    text = PROGRAM.replace("{URL}", guarded.url).replace("{TOKEN}", TOKENS["client"])
    job_id = guarded.run(text).stdout.split()[-1]
    seen = []
    while not seen or seen[-1][5]["job"]["status"] != "completed":
        seen.append(viewer.receive())
    assert {(event[0], event[3]["topic"]) for event in seen} == {
        (EVENT, f"cumulus.job.{job_id}.status")
    }
    assert client.settled() == []
    viewer.close()
    client.close()


def test_an_operator_sees_who_is_there_and_ends_a_session(guarded: GuardedDaemon) -> None:
    admin, client = join(guarded, "admin"), join(guarded, "client")
    assert ask(admin, "wamp.session.count", ["client"]) == 1
    details = ask(admin, "wamp.session.get", client.session_id)
    assert (details["authid"], details["authrole"]) == ("client-1", "client")
    assert TOKENS["client"] not in json.dumps(details)
    (denied,) = [client.ask(CALL, {}, "wamp.session.list", [])]
    assert (denied[0], denied[4]) == (ERROR, "wamp.error.not_authorized")
    offered = ask(admin, "wamp.registration.match", "cumulus.job.submit")
    assert ask(admin, "wamp.registration.get", offered)["uri"] == "cumulus.job.submit"
    ask(admin, "wamp.session.kill", client.session_id)
    message = client.receive()
    assert (message[0], message[2]) == (GOODBYE, "wamp.close.normal")
    assert ask(admin, "wamp.session.count", ["client"]) == 0
    admin.close()
    client.close()


def test_a_call_has_the_time_it_was_given(guarded: GuardedDaemon) -> None:
    """Following a job that has not ended sends nothing more after a while."""
    client = join(guarded, "client")
    text = PROGRAM.replace("{URL}", guarded.url).replace("{TOKEN}", TOKENS["client"])
    slow = text.replace("return 7", "import time; time.sleep(60)").replace(
        "assert job.result() == 7", ""
    )
    job_id = guarded.run(slow).stdout.split()[-1]
    request = client.request(
        CALL, {"timeout": 300, "receive_progress": True}, "cumulus.job.attach", [],
        {"job_id": job_id},
    )  # fmt: skip
    answer = client.receive()
    while answer[0] == RESULT:  # each one begins it anew
        assert answer[1] == request and answer[2]["progress"]
        answer = client.receive()
    assert (answer[0], answer[2], answer[4]) == (ERROR, request, "wamp.error.timeout")
    # The job itself goes on until it is cancelled.
    cancelled = client.ask(CALL, {}, "cumulus.job.cancel", [], {"job_id": job_id})
    assert cancelled[0] == RESULT, cancelled
    client.close()
