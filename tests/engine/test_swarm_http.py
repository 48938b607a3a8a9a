"""An old client's zip on a real Swarm: what it requires is installed, `runtime` is ours."""

import pytest
import requests

from tests.e2e.harness import Daemon
from tests.engine.swarm_daemon import STRANGER, TOKENS
from tests.old_sdk import OldClient

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def works(word):  # type: ignore[no-untyped-def]
    import os

    import runtime
    import six

    print("on", os.environ["CUMULUS_PARTITION_ID"], flush=True)
    return {"word": six.ensure_str(word), "pause": runtime.should_pause()}


def test_an_old_program_runs_unchanged(daemon: Daemon) -> None:
    old, stranger = OldClient(daemon.url, TOKENS["client"]), OldClient(daemon.url, STRANGER)
    try:
        value = old.run(works, gpu_memory=0.25, duration=60, requirements=["six"], args=["done"])
        assert value == {"word": "done", "pause": False}
        job = old.list_jobs()[0]
        log = old.session.get(f"{old.server_url}/api/jobs/{job['job_id']}/logs", timeout=10)
        assert log.text == f"on {job['partition_id']}\n"
        with pytest.raises(requests.HTTPError, match="404"):
            stranger.results(job["job_id"])
    finally:
        old.close()
        stranger.close()
