"""The unit under a real systemd: start, reload, watchdog, restarts with jobs, secrets, sockets."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.cluster import Cluster
from tests.engine.systemd_machine import CONFIG, SystemdMachine
from tests.security.authority import Authority

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

#: Of the machines on the cluster's bridge, beside those of other tests.
NUMBER = 150
QUICK = "[Service]\nWatchdogSec=6\nRestartSec=1\n"
TOKEN = "a-token-that-is-made-for-this-test"
HEAD = """\
from cumulus_client import CumulusClient
client = CumulusClient("http://127.0.0.1:50051")
"""
STEPS = (
    HEAD
    + """
def steps(count):
    import time
    for number in range(count):
        print("step", number, flush=True)
        time.sleep(0.05)
    return count

job = client.submit(steps, count=600, duration=600)
print("job", job.job_id)
for line in job.logs(follow=True):
    print(line, end="")
print("result", job.result(timeout=300))
"""
)


@pytest.fixture(scope="module")
def machine(cluster: Cluster, systemd_tree: Path) -> Iterator[SystemdMachine]:
    made = SystemdMachine.boot(cluster, systemd_tree, NUMBER)
    with made.machine:
        yield made


def steps_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^step (\d+)$", text, re.MULTILINE)]


def test_systemd_is_told_when_it_is_ready_and_reloaded(machine: SystemdMachine) -> None:
    machine.configure(CONFIG + "log: {level: warn}\n")
    machine.systemctl("start", "cumulusd")  # it comes back when READY was told
    assert machine.get("/health/live") in ("200", "404")  # it listens by then
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText").startswith("Up: jobs 0 running")
    assert machine.show("User") == "cumulusd"
    assert machine.run("stat", "-c", "%U %a", "/var/lib/cumulusd").strip() == "cumulusd 700"

    machine.write("/etc/cumulus/cumulusd.yaml", CONFIG + "log: {level: info}\n")
    machine.systemctl("reload", "cumulusd")
    machine.wait_shown("ActiveState", "active")
    machine.wait_shown("StatusText", "Up: jobs 0 running")
    events = [json.loads(line) for line in machine.journal("-o", "json").splitlines()]
    told = [one for one in events if "reloaded: certificates" in str(one.get("MESSAGE"))]
    assert [one["PRIORITY"] for one in told] == ["6"]
    # The journal has the time; the line has level and time no second time.
    assert told[0]["MESSAGE"].startswith("cumulusd.reloading.Reloads reloaded: ")

    machine.write("/etc/cumulus/cumulusd.yaml", CONFIG + "nonsense: 1\n")
    machine.systemctl("reload", "cumulusd")
    machine.wait_shown(
        "StatusText", "Up: jobs 0 running, 0 waiting, 0 paused; 1 worker(s); NOT WELL"
    )
    assert "nonsense" in machine.show("StatusText")
    assert machine.show("ActiveState") == "active"
    machine.systemctl("stop", "cumulusd")
    assert machine.show("Result") == "success"


def test_systemd_restarts_it_under_jobs_and_no_line_is_lost(machine: SystemdMachine) -> None:
    machine.configure(quick=QUICK)
    machine.systemctl("start", "cumulusd")
    machine.begin("follow", STEPS)
    machine.wait_output("follow", "step 20\n")

    # By order: what runs goes on, also while no daemon is there.
    machine.systemctl("stop", "cumulusd")
    assert machine.show("Result") == "success"
    assert "/cumulus_runner" in machine.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    machine.systemctl("start", "cumulusd")
    machine.wait_shown("StatusText", "Up: jobs 1 running")

    # Hung: it feeds no watchdog, is ended, and another begins.
    before = machine.show("MainPID")
    machine.signal("SIGSTOP")
    machine.wait_shown("NRestarts", "1")
    machine.wait_shown("ActiveState", "active")
    assert machine.show("MainPID") != before
    assert "Watchdog timeout" in machine.journal()
    # Where its threads stood, for whoever asks why it hung.
    assert "Fatal Python error: Aborted" in machine.journal()

    text = machine.wait_output("follow", "result ")
    assert steps_in(text) == list(range(600))
    assert "result 600" in text
    machine.systemctl("stop", "cumulusd")


def test_systemd_hands_over_secrets(machine: SystemdMachine, tmp_path: Path) -> None:
    machine.write("/etc/cumulus/ann.token", TOKEN + "\n", 0o600)
    config = CONFIG + "tokens: [{name: ann, owner: ann, role: client}]\n"
    machine.configure(
        config, secret="[Service]\nLoadCredential=CUMULUSD_TOKEN_ANN:/etc/cumulus/ann.token\n"
    )
    machine.systemctl("start", "cumulusd")
    bearer = ("--header", f"Authorization: Bearer {TOKEN}")
    assert machine.get("/api/jobs", *bearer) == "200"
    assert machine.get("/api/jobs") == "401"

    # As a variable instead.
    machine.write("/etc/cumulus/cumulusd.env", f"CUMULUSD_TOKEN_ANN={TOKEN}\n", 0o600)
    machine.configure(config)
    machine.systemctl("start", "cumulusd")
    assert machine.get("/api/jobs", *bearer) == "200"
    machine.run("rm", "/etc/cumulus/cumulusd.env")

    # A key that no user but root can read.
    certificate, key = Authority(tmp_path, "authority").issue("daemon")
    machine.write("/etc/cumulus/tls.crt", certificate.read_text())
    machine.write("/etc/cumulus/tls.key", key.read_text(), 0o600)
    machine.configure(
        CONFIG.replace(
            "tcp:50051:interface=127.0.0.1",
            "ssl:50051:interface=127.0.0.1:privateKey=${CREDENTIALS_DIRECTORY}/key"
            ":certKey=/etc/cumulus/tls.crt",
        ),
        secret="[Service]\nLoadCredential=key:/etc/cumulus/tls.key\n",
    )
    machine.systemctl("start", "cumulusd")
    machine.run("curl", "--silent", "--insecure", "--fail", "https://127.0.0.1:50051/api/jobs")

    # Neither: refused in words, at high priority, and not tried again.
    machine.configure(config)
    assert machine.machine.run("systemctl", "start", "cumulusd").returncode != 0
    assert (machine.show("ExecMainStatus"), machine.show("NRestarts")) == ("78", "0")
    assert machine.show("ActiveState") == "failed"
    assert "nor is there a credential of that name" in machine.journal("-p", "crit")


def test_systemd_holds_the_socket_while_it_restarts(machine: SystemdMachine) -> None:
    machine.write("/etc/cumulus/ann.token", TOKEN + "\n", 0o600)
    config = CONFIG.replace("tcp:50051:interface=127.0.0.1", "systemd:domain=INET6:name=cumulusd")
    machine.configure(
        config + "tokens: [{name: ann, owner: ann, role: client}]\n",
        secret="[Service]\nLoadCredential=CUMULUSD_TOKEN_ANN:/etc/cumulus/ann.token\n",
    )
    machine.systemctl("start", "cumulusd.socket")
    assert machine.show("ActiveState") == "inactive"
    bearer = ("--header", f"Authorization: Bearer {TOKEN}")
    assert machine.get("/api/jobs", *bearer) == "200"  # who comes starts it
    assert machine.show("ActiveState") == "active"
    machine.begin("asking", ASKING.format(token=TOKEN))
    machine.wait_output("asking", "begun")
    for _ in range(2):
        machine.systemctl("restart", "cumulusd")
    machine.write("/root/enough", "")
    told = machine.wait_output("asking", "asked ")
    assert "refused 0" in told
    machine.systemctl("stop", "cumulusd.socket", "cumulusd")


#: Connects, asks and hangs up, over and over. A request that was cut is asked again; a connection
#: that is refused is what must not be.
ASKING = """
import http.client, os, time
asked = refused = 0
print("begun")
while not os.path.exists("/root/enough"):
    connection = http.client.HTTPConnection("127.0.0.1", 50051, timeout=120)
    try:
        connection.connect()
    except ConnectionRefusedError:
        refused += 1
        continue
    try:
        connection.request("GET", "/api/jobs", headers={{"Authorization": "Bearer {token}"}})
        asked += connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        pass
    connection.close()
    time.sleep(0.02)
print("refused", refused)
print("asked", asked)
"""


def test_systemd_runs_the_swarms_daemon_without_its_engine(machine: SystemdMachine) -> None:
    """Hardened as it is for Swarm, where the engine isn't there yet: it comes up and says so."""
    machine.configure(
        f"""\
listen: ["tcp:50051:interface=127.0.0.1"]
state_dir: /var/lib/cumulusd
platform:
  type: swarm
  swarm: {{agent_image: "cumulus-agent:latest", advertise_url: "ws://127.0.0.1:50051"}}
jobs: {{image: "cumulus-job:latest"}}
tokens: [{{name: ann, owner: ann, role: client, token_sha256: "{"0" * 64}"}}]
""",
        platform="swarm",
    )
    machine.systemctl("start", "cumulusd")
    machine.wait_shown(
        "StatusText", "Up: jobs 0 running, 0 waiting, 0 paused; 0 worker(s); NOT WELL"
    )
    assert "platform: " in machine.show("StatusText")
    assert machine.get("/health") == "503"
    assert "docker" in machine.run(
        "sh",
        "-c",
        f"grep Groups: /proc/{machine.show('MainPID')}/status | cut -f2 | xargs getent group",
    )
    machine.systemctl("stop", "cumulusd")
    assert machine.show("Result") == "success"
