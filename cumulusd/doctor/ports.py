"""Swarm's own ports on the other nodes, tried from here, and the firewall of this one."""

import errno
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cumulusd.doctor.finding import Finding, not_known, ok, warning
from cumulusd.doctor.swarm_look import Look
from cumulusd.swarm import labels
from cumulusd.swarm.answers import NodeInfo

#: Swarm's gossip, which every node has, and what managers have.
GOSSIP_PORT = 7946
MANAGER_PORT = 2377
CONNECT_TIMEOUT_S = 3.0
#: Nodes that are tried; a large Swarm's others are counted.
MAX_TRIED = 32
_AT_A_TIME = 8
FIREWALL_TIMEOUT_S = 15.0
#: Where provision/worker.sh puts it; where a package and the repository have it.
FIREWALLS = (
    Path("/usr/local/lib/cumulus/firewall.sh"),
    Path(__file__).parents[1] / "provision" / "firewall.sh",
    Path(__file__).parents[2] / "provision" / "firewall.sh",
)


def swarm_ports(look: Look) -> Iterator[Finding]:
    """TCP only: UDP (7946, 4789) gives no answer that could be waited for."""
    own = None if look.info is None else look.info.node_id
    others = [
        node
        for node in look.nodes or ()
        if node.node_id != own and node.state == "ready" and node.address not in ("", "0.0.0.0")
    ]
    if look.nodes is None or not others:
        return
    doors = [(node, port) for node in others[:MAX_TRIED] for port in _tcp_ports(node)]
    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as pool:
        answers = pool.map(lambda door: _dial(door[0].address, door[1]), doors)
        closed = [
            f"{node.hostname} ({node.address}:{port}: {why})"
            for (node, port), why in zip(doors, answers, strict=True)
            if why is not None
        ]
    tried = f"{min(len(others), MAX_TRIED)} of {len(others)} other node(s)"
    if closed:
        yield warning(
            "ports",
            f"Swarm's TCP ports don't all answer from this machine: {'; '.join(closed)}",
            "the managers need 2377/tcp, 7946/tcp and udp, 4789/udp between all nodes; where this "
            "machine is no manager it needn't reach them",
        )
    else:
        yield ok("ports", f"Swarm's TCP ports (2377 of managers, 7946) answer on {tried}")
    yield not_known("ports", "7946/udp and 4789/udp: they can't be tried from here")


def firewall(look: Look, scripts: Sequence[Path] = FIREWALLS) -> Iterator[Finding]:
    """Is it in force here? Of other workers only they themselves can tell."""
    own = None if look.info is None else look.info.node_id
    workers = [node for node in look.nodes or () if node.labels.get(labels.WORKER) == "true"]
    if any(node.node_id != own for node in workers):
        yield not_known(
            "firewall",
            "what jobs reach from the other workers can't be told from here",
            "on each of them: firewall.sh status (provision/firewall.sh)",
        )
    if own is None or all(node.node_id != own for node in workers):
        return
    script = next((one for one in scripts if os.access(one, os.X_OK)), None)
    if script is None:
        yield not_known(
            "firewall", "this machine is a worker, and firewall.sh isn't installed on it"
        )
        return
    yield _asked(script)


def _asked(script: Path) -> Finding:
    advice = f"{script} apply, as docs/swarm.md has it: else jobs reach this host and the daemon"
    if os.geteuid() != 0:
        return not_known("firewall", "only root may ask for its rules", f"sudo {script} status")
    try:
        done = subprocess.run(
            [script, "status"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FIREWALL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return not_known("firewall", f"{script} status can't be had: {error}")
    if done.returncode == 0:
        return ok("firewall", "its rules are in force on this machine")
    if done.returncode == 1:
        return warning("firewall", "its rules are not in force on this machine", advice)
    return not_known("firewall", f"{script} status: {done.stderr.strip()[-300:]}")


def _tcp_ports(node: NodeInfo) -> list[int]:
    return [GOSSIP_PORT, MANAGER_PORT] if node.role == "manager" else [GOSSIP_PORT]


def _dial(address: str, port: int) -> str | None:
    """Why it doesn't answer; None when it does."""
    try:
        socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S).close()
    except TimeoutError:
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    except OSError as error:
        return os.strerror(error.errno or errno.EIO)
    return None
