"""A cluster's network: one bridge, a cable per node, the way out and the names of hosts.

Everything carries the cluster's tag; the firewall's rules carry it as a comment.
"""

import ipaddress
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from engines.commands import run
from engines.layout import Layout, NodeLayout

__all__ = [
    "choose_subnet",
    "connect",
    "host_mtu",
    "make",
    "nameservers",
    "remove_rules",
    "rules_of",
]

Network = ipaddress.IPv4Network
_POOL = Network("10.192.0.0/10")


def choose_subnet(taken: Iterable[Network], rng: random.Random) -> str:
    """A /24 that overlaps nothing in `taken`. Pure but for `rng`."""
    held = [network for network in taken if network.prefixlen > 0]
    candidates = list(_POOL.subnets(new_prefix=24))
    rng.shuffle(candidates)
    for candidate in candidates:
        if not any(candidate.overlaps(network) for network in held):
            return str(candidate)
    raise RuntimeError(f"no subnet of {_POOL} is free of this machine's routes")


def taken_networks() -> list[Network]:
    """Where this machine's routes, addresses and nameservers lie."""
    taken = [
        ipaddress.ip_network(entry["dst"], strict=False)
        for entry in json.loads(run("ip", "-4", "-j", "route", "show", "table", "all") or "[]")
        if entry.get("dst", "default") != "default"
    ]
    for address in nameservers(Path("/etc/resolv.conf")):
        if ":" not in address:
            taken.append(ipaddress.ip_network(address))
    return [network for network in taken if isinstance(network, Network)]


def nameservers(path: Path) -> list[str]:
    """Addresses of the resolvers named there; without any, the resolver's own default."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        text = ""
    found = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    return found or ["127.0.0.1"]


def host_mtu() -> int:
    """The largest packet that gets out: the default route's; 1500 without one."""
    for entry in json.loads(run("ip", "-4", "-j", "route", "show", "default") or "[]"):
        (link,) = json.loads(run("ip", "-j", "link", "show", "dev", entry["dev"]))
        return int(link["mtu"])
    return 1500


def comment_of(tag: str) -> str:
    return f"cumulus:{tag}"


def rules(layout: Layout) -> list[tuple[str, str, list[str]]]:
    """(table, chain, rule) in the order in which they are to stand at the chain's head.

    The host answers the cluster on the bridge's address only: names, and what is started to listen
    there. Between nodes and outwards all goes, also where a Docker of the user's drops forwarding.
    """
    bridge, mark = layout.bridge, ["-m", "comment", "--comment", comment_of(layout.tag)]
    known = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    return [
        ("filter", "FORWARD", ["-i", bridge, *mark, "-j", "ACCEPT"]),
        ("filter", "FORWARD", ["-o", bridge, *known, *mark, "-j", "ACCEPT"]),
        ("filter", "INPUT", ["-i", bridge, *known, *mark, "-j", "ACCEPT"]),
        ("filter", "INPUT", ["-i", bridge, "-d", layout.bridge_address, *mark, "-j", "ACCEPT"]),
        ("filter", "INPUT", ["-i", bridge, *mark, "-j", "DROP"]),
        ("nat", "POSTROUTING", ["-s", layout.subnet, "!", "-o", bridge, *mark, "-j", "MASQUERADE"]),
    ]


def iptables(*arguments: str) -> str:
    return run("iptables", "-w", "20", *arguments)


def make(layout: Layout) -> None:
    """Bridge, cables, namespaces and rules. What fails midway is for `sweep` to remove."""
    bridge, mtu = layout.bridge, str(layout.mtu)
    run("ip", "link", "add", bridge, "type", "bridge")
    _no_ipv6(bridge)
    # Without a cable a bridge takes any packet size only once it has been told.
    run("ip", "link", "set", bridge, "mtu", mtu)
    run("ip", "addr", "add", f"{layout.bridge_address}/{layout.prefix_length}", "dev", bridge)
    run("ip", "link", "set", bridge, "up")
    for node in layout.nodes:
        connect(layout, node)
    for table, chain, rule in reversed(rules(layout)):
        iptables("-t", table, "-I", chain, "1", *rule)


def connect(layout: Layout, node: NodeLayout) -> None:
    """The node's network namespace, and its cable to the bridge."""
    namespace, link, mtu = layout.network_namespace(node), layout.host_link(node), str(layout.mtu)
    run("ip", "netns", "add", namespace)
    run(
        *("ip", "link", "add", link, "mtu", mtu, "type", "veth"),
        *("peer", "name", "eth0", "mtu", mtu, "netns", namespace),
    )
    _no_ipv6(link)
    run("ip", "link", "set", link, "master", layout.bridge, "up")
    inside = ("ip", "-n", namespace)
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "addr", "add", f"{node.address}/{layout.prefix_length}", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "add", "default", "via", layout.bridge_address)


def _no_ipv6(link: str) -> None:
    """No address of the bridge's that the rules above don't know."""
    switch = Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
    if switch.exists():
        switch.write_text("1")


def set_link(layout: Layout, node: NodeLayout, up: bool) -> None:
    """Plugs the node's cable, or pulls it."""
    run("ip", "link", "set", layout.host_link(node), "up" if up else "down")


def rules_of(tag: str) -> list[tuple[str, list[str]]]:
    """(table, rule as `-A chain …`) of all rules that carry the tag."""
    found = []
    for table in ("filter", "nat"):
        for line in iptables("-t", table, "-S").splitlines():
            words = [word.strip('"') for word in line.split()]
            if words[:1] == ["-A"] and comment_of(tag) in words:
                found.append((table, words))
    return found


def remove_rules(tag: str) -> None:
    for table, words in rules_of(tag):
        iptables("-t", table, "-D", *words[1:])


def links_of(tag: str) -> list[str]:
    """Network links whose names begin with the tag."""
    names = [link["ifname"] for link in json.loads(run("ip", "-j", "link", "show") or "[]")]
    return [name for name in names if name == tag or name.startswith(f"{tag}-")]


def namespaces_of(tag: str) -> list[str]:
    text = run("ip", "-j", "netns", "list").strip()
    names: Sequence[str] = [entry["name"] for entry in json.loads(text or "[]")]
    return [name for name in names if name.startswith(f"{tag}-")]
