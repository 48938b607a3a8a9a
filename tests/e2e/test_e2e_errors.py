"""Each kind of error as a program meets it, with what it says to do."""

import hashlib
import json
from collections.abc import Callable

from tests.e2e.harness import Daemon, free_port

TOKENS = {role: f"token-of-{role}-0123456789abcdef" for role in ("client", "viewer")}


def test_every_kind_of_error_is_met_and_advises(make_daemon: Callable[..., Daemon]) -> None:
    tokens = "".join(
        f"  - {{name: {role}, owner: {role}, role: {role}, "
        f"token_sha256: {hashlib.sha256(token.encode()).hexdigest()}}}\n"
        for role, token in TOKENS.items()
    )
    limits = "jobs:\n  package_max_bytes: 65536\n  max_queued_per_owner: 1\n  max_duration_s: 900\n"
    daemon = make_daemon(extra=f"tokens:\n{tokens}{limits}").start()
    done = daemon.run(
        f"""
import json, os, time
import cumulus_client as c
url, dead, tokens = {daemon.url!r}, "http://127.0.0.1:{free_port()}", {TOKENS!r}
"""
        + """
client = c.CumulusClient(url, tokens["client"])
met = {}
def expect(kind, call):
    try:
        call()
    except c.CumulusError as error:
        assert type(error) is kind, (type(error), error)
        assert isinstance(error, RuntimeError)
        met[kind.__name__] = [str(error), error.hint]
    else:
        raise AssertionError(f"no {kind.__name__}")
def quick(*a): return 1
def odd(): return (1, 2)
def long():
    import time
    time.sleep(60)
short = {"gpu_memory": 0.2, "duration": 60}
expect(c.PackagingError, lambda: client.run(quick, args=[client], **short))
expect(c.InvalidArgument, lambda: client.run(quick, gpu_memory=0.2, duration=-1))
expect(c.NotAuthenticated, lambda: c.CumulusClient(url, "wrong").list_jobs())
expect(c.NotAuthorized, lambda: c.CumulusClient(url, tokens["viewer"]).run(quick, **short))
expect(c.NotFound, lambda: client.attach("job_000000000000"))
expect(c.TooLarge, lambda: client.run(quick, args=[os.urandom(100_000)], **short))
expect(c.ConnectionFailed, lambda: c.CumulusClient(dead).run(quick, timeout=3, **short))
expect(c.JobTimeout, lambda: client.run(long, gpu_memory=0.2, duration=1))
expect(c.JobFailed, lambda: client.run(lambda: 1 / 0, **short))
job = client.submit(odd, **short)
assert job.result() == (1, 2)
with c.CumulusClient(url, tokens["client"]) as other:
    expect(c.ResultError, lambda: other.attach(job.job_id).result())
with c.CumulusClient(url, tokens["client"], allow_pickle=False) as strict:
    expect(c.ResultError, lambda: strict.run(odd, **short))
whole = client.submit(long, gpu_memory=1, duration=600)
while whole.status() != "running":
    time.sleep(0.05)
expect(c.JobFailed, lambda: client.run(quick, gpu_memory=0.2, duration=60, queue_timeout=0))
waiting = client.submit(quick, **short)
expect(c.TooMany, lambda: client.submit(quick, **short))
expect(c.ClientTimeout, lambda: waiting.result(timeout=0.1))
for one in (waiting, whole):
    one.cancel()
    expect(c.JobCancelled, one.result)
expect(c.Conflict, lambda: whole.pause())
print(json.dumps(met))
""",
        timeout_s=100,
    )
    met = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(met) == 14
    for kind, (text, hint) in met.items():
        assert text and "Traceback" not in text.split("Remote traceback:")[0], (kind, text)
        if kind != "JobCancelled":
            assert hint, f"{kind} says what to do: {text}"
    daemon.wait_nothing_left()
