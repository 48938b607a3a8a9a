"""What a cluster is planned to be, without making one."""

import ipaddress
import random
from dataclasses import replace
from pathlib import Path

import pytest

from cumulusd.config import load_config
from engines.engine import command, environment
from engines.kept import configuration
from engines.layout import Layout, plan, runtime_of
from engines.network import choose_subnet, nameservers, rules

SUBNET = "10.200.7.0/24"


def layout(nodes: int = 3, workers: int = 2, base: Path = Path("/base")) -> Layout:
    return plan("cml0a1b2", base, SUBNET, 1400, nodes, workers)


@pytest.mark.parametrize(
    ("nodes", "workers", "names"),
    [
        (1, 0, "manager"),
        (1, 1, "manager*"),
        (3, 2, "manager worker1* worker2*"),
        (4, 2, "manager node2 worker1* worker2*"),
        (2, 2, "manager* worker1*"),
    ],
)
def test_the_last_nodes_are_workers_and_the_first_manages(
    nodes: int, workers: int, names: str
) -> None:
    made = layout(nodes, workers)
    assert " ".join(n.name + "*" * n.worker for n in made.nodes) == names
    assert made.manager is made.nodes[0]
    addresses = {node.address for node in made.nodes} | {made.bridge_address}
    assert len(addresses) == nodes + 1
    assert all(ipaddress.ip_address(a) in ipaddress.ip_network(SUBNET) for a in addresses)


@pytest.mark.parametrize(("nodes", "workers"), [(0, 0), (17, 1), (2, 3), (2, -1)])
def test_impossible_clusters_are_refused(nodes: int, workers: int) -> None:
    with pytest.raises(ValueError, match="nodes"):
        layout(nodes, workers)


def test_names_fit_the_kernels_limit_and_sockets_theirs() -> None:
    made = layout(16, 15)
    for node in made.nodes:
        assert len(made.host_link(node)) <= 15
        assert len(str(made.socket(node))) <= 107
        assert made.host_link(node).startswith(made.tag)
        assert made.network_namespace(node).startswith(made.tag)


@pytest.mark.parametrize("tree", [None, Path("/cache/trixie")])
def test_a_layout_survives_json(tree: Path | None) -> None:
    made = replace(layout(), tree=tree)
    assert Layout.from_json(made.to_json()) == made


def test_an_engine_is_told_the_tree_it_runs_in() -> None:
    told = {}
    for tree in (None, Path("/cache/trixie")):
        made = replace(layout(), tree=tree)
        words = command(made, made.manager)
        told[tree] = words[words.index("manager") + 1 : words.index("tini")]
    assert told == {None: [""], Path("/cache/trixie"): ["/cache/trixie"]}


@pytest.mark.parametrize("tag", ["", "docker0", "cml", "cml0a1b2/..", "cml0A1B2"])
def test_only_tags_name_what_is_removed(tag: str) -> None:
    with pytest.raises(ValueError, match="no cluster's tag"):
        runtime_of(tag)


def test_the_subnet_overlaps_no_route() -> None:
    networks = [ipaddress.IPv4Network(n) for n in ("0.0.0.0/0", "10.192.0.0/11", "10.224.0.0/12")]
    for seed in range(20):
        chosen = ipaddress.ip_network(choose_subnet(networks, random.Random(seed)))
        assert chosen.prefixlen == 24
        assert not any(chosen.overlaps(network) for network in networks[1:])


def test_without_a_free_subnet_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="free of this machine's routes"):
        choose_subnet([ipaddress.IPv4Network("10.0.0.0/8")], random.Random(1))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 10.0.0.53\n", ["10.0.0.53"]),
        ("# nameserver 9.9.9.9\n  nameserver\t127.0.0.53\noptions edns0\n", ["127.0.0.53"]),
        ("nameserver fe80::1%eth0\nnameserver 10.0.0.1\n", ["fe80::1%eth0", "10.0.0.1"]),
        ("search example.org\n", ["127.0.0.1"]),
    ],
)
def test_nameservers_are_read_as_the_resolver_does(
    tmp_path: Path, text: str, found: list[str]
) -> None:
    (tmp_path / "resolv.conf").write_text(text)
    assert nameservers(tmp_path / "resolv.conf") == found
    assert nameservers(tmp_path / "absent") == ["127.0.0.1"]


def test_every_rule_carries_the_tag() -> None:
    for _, _, rule in rules(layout()):
        assert "cumulus:cml0a1b2" in rule
        assert "cml0a1b2" in rule or SUBNET in rule


def test_engines_ignore_the_users_docker() -> None:
    made = layout()
    words = command(made, made.workers[0])
    assert "--config-file=/base/worker1/daemon.json" in words
    assert "--node-generic-resource=cumulus_gpu0=10000" in words
    assert not any("docker.sock" in word for word in words)
    assert "--node-generic-resource=cumulus_gpu0=10000" not in command(made, made.manager)
    env = environment(made, {"DOCKER_HOST": "tcp://x", "PATH": "/usr/bin", "HTTP_PROXY": "p"})
    assert "DOCKER_HOST" not in env
    assert env["HTTP_PROXY"] == "p"
    assert env["PATH"].split(":") == ["/usr/bin", "/usr/sbin", "/sbin"]


def test_the_daemon_takes_the_configuration_as_it_is(tmp_path: Path) -> None:
    import json

    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    environ = {"SSL_CERT_FILE": str(bundle), "PIP_INDEX_URL": "https://index.example/simple"}
    made = configuration(layout(), {"client": "a" * 64, "admin": "b" * 64}, environ)
    path = tmp_path / "cumulusd.yaml"
    path.write_text("# JSON is YAML\n" + json.dumps(made))
    config = load_config(path, {})
    swarm = config.platform.swarm
    assert swarm is not None
    assert swarm.enroll == ("worker1", "worker2")
    assert swarm.endpoint == "unix:///run/cumulus-engines/cml0a1b2/manager.sock"
    assert swarm.advertise_url == "ws://10.200.7.1:50051"
    assert config.listen == ("tcp:50051:interface=127.0.0.1", "tcp:50051:interface=10.200.7.1")
    assert config.jobs.ca_bundle == bundle
    assert config.jobs.index_url == "https://index.example/simple"
    assert {token.role for token in config.tokens} == {"client", "admin"}
    assert config.state_dir == tmp_path / "state"
