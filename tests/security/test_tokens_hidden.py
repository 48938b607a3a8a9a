"""The daemon's own tokens, right and wrong ones, tried in every place: they are told nowhere."""

import base64
import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable

from tests.security.daemons import GuardedDaemon, raw, request, upgrade
from tests.security.marked import Marked, answers, files_holding, processes_holding

MakeGuarded = Callable[..., GuardedDaemon]

#: In a process of its own: the client is asyncio's, and this process Twisted's.
ASK = """
import sys
from cumulus_client import CumulusClient
from cumulus_client.exceptions import CumulusError, NotAuthenticated
with CumulusClient(sys.argv[1], sys.stdin.read()) as client:
    print(repr(client))
    try:
        print(client.get_server_info())
    except NotAuthenticated as error:
        print(f"{error} {error!r} {vars(error)} {error.__cause__!r}")
        sys.exit(3)
"""


def websocket(port: int, *texts: str) -> bytes:
    """Sends these WAMP messages after the opening handshake; what comes back until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as there:
        there.sendall(upgrade(host="127.0.0.1"))
        for text in texts:
            data = text.encode()
            # A client's frames are masked; a key of zeros changes nothing.
            length = (
                bytes([0x80 | len(data)])
                if len(data) < 126
                else b"\xfe" + len(data).to_bytes(2, "big")
            )
            there.sendall(b"\x81" + length + bytes(4) + data)
        said = b""
        while piece := there.recv(65536):
            said += piece
            if b"not_authenticated" in said or b"protocol_violation" in said:
                break
        return said


def test_they_are_told_nowhere(make_guarded: MakeGuarded) -> None:
    good, wrong = Marked("good"), Marked("wrong")
    daemon = make_guarded(extra="log: {level: debug}\n")
    digest = hashlib.sha256(good.value.encode()).hexdigest()
    daemon.settings["tokens"].append(
        {"name": "marked", "owner": "ann", "role": "admin", "token_sha256": digest}
    )
    environ = Marked("environ")
    daemon.settings["tokens"].append({"name": "by-env", "owner": "bob", "role": "client"})
    daemon.environment["CUMULUSD_TOKEN_BY_ENV"] = environ.value
    daemon.write()
    daemon.start()
    tokens = (good, wrong, environ)
    said = b""
    # HTTP: as it should be, and as people get it wrong.
    for token in tokens:
        basic = base64.b64encode(f"user:{token.value}".encode()).decode()
        for header in (
            f"Bearer {token.value}",
            f"bearer  {token.value} ",
            token.value,
            f"Token {token.value}",
            f"Basic {basic}",
            f"Bearer {token.value} more",
        ):
            for method, path in (("GET", "/api/info"), ("POST", "/api/jobs"), ("GET", "/none")):
                sent = request(method, path, host="h", authorization=header)
                _, headers, body = raw("127.0.0.1", daemon.port, sent)
                said += body + str(headers).encode()
        asked = request("GET", f"/api/info?token={token.value}", host="h")
        said += raw("127.0.0.1", daemon.port, asked)[2]
        for path in ("/agent", "/ws"):
            sent = upgrade(path, host="h", authorization=f"Bearer {token.value}")
            _, headers, body = raw("127.0.0.1", daemon.port, sent)
            said += body + str(headers).encode()
    # WAMP: tickets, and a token where a name, realm or URI belongs.
    for token in (wrong,):
        hello = '[1,"cumulus",{"roles":{"caller":{}},"authmethods":["ticket"],"authid":"x"}]'
        said += websocket(daemon.port, hello, json.dumps([5, token.value, {}]))
        said += websocket(daemon.port, hello, json.dumps([5, [token.value], {}]))
        said += websocket(daemon.port, hello, json.dumps([5, token.value + "\0", token.value]))
    for token in tokens:
        done = subprocess.run(
            [sys.executable, "-c", ASK, daemon.url],
            input=token.value,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == (3 if token is wrong else 0), done.stderr
        said += (done.stdout + done.stderr).encode()
    assert [one.name for one in tokens if one.is_in(said)] == []
    told = answers(daemon, good.value)
    assert [(where, one.name) for where in told for one in tokens if one.is_in(told[where])] == []
    assert files_holding(daemon.folder, tokens) == {}
    # The environment is where the operator put it, and nobody else's: jobs' processes have none.
    pid = daemon.process.pid if daemon.process is not None else 0
    assert processes_holding(tokens, but=[pid]) == []
    # Nor is anybody's: the embedded agent's is made at each start.
    assert not re.search(rb"[Bb]earer [A-Za-z0-9_-]{8}", daemon.log.read_bytes())
    assert "Traceback" not in daemon.log_text()


def test_a_jobs_processes_have_no_token_of_the_daemon(make_guarded: MakeGuarded) -> None:
    token = Marked("environ")
    daemon = make_guarded()
    daemon.settings["tokens"].append({"name": "by-env", "owner": "bob", "role": "client"})
    daemon.environment["CUMULUSD_TOKEN_BY_ENV"] = token.value
    daemon.write()
    daemon.start()
    done = daemon.run(
        f"""
from cumulus_client import CumulusClient
def look():
    import os
    with open(f"/proc/{{os.getppid()}}/environ") as runner:
        return sorted(os.environ), [name.split("=")[0] for name in runner.read().split(chr(0))]
with CumulusClient("{{URL}}", {token.source}) as client:
    print(client.run(look, gpu_memory=0.1, duration=60))
"""
    )
    assert "CUMULUS_ATTEMPT" in done.stdout
    assert "CUMULUSD_TOKEN" not in done.stdout
