"""An id that was one owner's job, and becomes another's: nothing of the old carries over."""

import time
from types import SimpleNamespace
from typing import Any

import pytest_twisted
from twisted.internet.threads import deferToThread

from cumulus_wire import uris
from tests.old_sdk import OldClient, OldPackager
from tests.security.conftest import World
from tests.security.test_logins import by_ticket, log_in
from tests.unit.protocol.wamp_peers import reactor, until


def nap(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


@pytest_twisted.ensureDeferred
async def test_who_listened_to_a_job_hears_nothing_of_the_next_of_that_id(world: World) -> None:
    """Both owners chose the id themselves, as clients over HTTP may."""
    job_id = "the-same-id"
    ann, bob = (OldClient(world.daemon.url, str(world.tokens[name])) for name in ("ann", "bob"))
    code = OldPackager().package_function(nap, [], "x", [0.0])

    def run(client: OldClient) -> None:
        client.submit(code, gpu_memory=0.1, duration=60, job_id=job_id)
        client.wait(job_id)

    await deferToThread(run, ann)
    server: Any = SimpleNamespace(port_number=world.daemon.port, _clients=[])
    heard: dict[str, list[str]] = {"ann": [], "admin": []}
    peers = []
    for name, owners in heard.items():
        peer, _, _ = await log_in(server, by_ticket(str(world.tokens[name])))
        peers.append(peer)
        await peer.subscribe(
            lambda job, owners=owners: owners.append(job["owner"]), uris.job_status_topic(job_id)
        ).addTimeout(10, reactor)
    assert await deferToThread(deleted, ann, job_id)
    await deferToThread(run, bob)
    peer, _, _ = await log_in(server, by_ticket(str(world.tokens["admin"])))
    peers.append(peer)
    view = await peer.call(uris.JOB_GET, job_id=job_id).addTimeout(10, reactor)
    assert view.kwresults["owner"] == "bob"
    for peer in peers:
        peer.leave()
    await until(lambda: all(peer.gone for peer in peers))
    ann.session.close()
    bob.session.close()
    # Who listens to one job's topic asks anew for the next one's; an admin may.
    assert [owners for owners in heard.values() if "bob" in owners] == [], heard


def deleted(client: OldClient, job_id: str) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = client.session.delete(f"{client.server_url}/api/jobs/{job_id}", timeout=60)
        if answer.status_code == 200:
            return True
        time.sleep(0.2)
    return False
