"""What belongs to one cluster and where it lies. Pure: no file is touched here."""

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["RUNTIME", "WORKER_ROOT", "Layout", "NodeLayout", "plan"]

#: Locks and sockets of all clusters. Short, since a socket's path may have 107 bytes only.
RUNTIME = Path("/run/cumulus-engines")
#: Where each node has its worker files, by a private bind of its own folder.
WORKER_ROOT = Path("/var/lib/cumulus")
#: What every tag begins with.
TAG_PREFIX = "cml"
TAG = re.compile(rf"{TAG_PREFIX}[0-9a-f]{{5}}")
#: 10,000 units are one whole device.
GENERIC_RESOURCE = "cumulus_gpu0=10000"
MAX_NODES = 16


@dataclass(frozen=True)
class NodeLayout:
    """One engine. `name` is its host name; `address` is in the cluster's subnet."""

    name: str
    number: int
    address: str
    worker: bool


@dataclass(frozen=True)
class Layout:
    """One cluster: `tag` names all of it, `base` is its folder (data, logs, worker files).

    `tree`: the file system that its engines run in; None: this machine's.
    """

    tag: str
    base: Path
    subnet: str
    mtu: int
    nodes: tuple[NodeLayout, ...]
    tree: Path | None = None

    @property
    def manager(self) -> NodeLayout:
        return self.nodes[0]

    @property
    def workers(self) -> tuple[NodeLayout, ...]:
        return tuple(node for node in self.nodes if node.worker)

    @property
    def bridge(self) -> str:
        return self.tag

    @property
    def bridge_address(self) -> str:
        """This machine's own address in the cluster's network."""
        return str(next(ipaddress.ip_network(self.subnet).hosts()))

    @property
    def prefix_length(self) -> int:
        return ipaddress.ip_network(self.subnet).prefixlen

    @property
    def runtime(self) -> Path:
        """Sockets and the lock; its being there says that the cluster isn't gone yet."""
        return runtime_of(self.tag)

    @property
    def control(self) -> Path:
        return self.runtime / "control.sock"

    def named(self, name: str) -> NodeLayout:
        """The node of that name. KeyError when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node {name!r}; there are {', '.join(n.name for n in self.nodes)}")

    def network_namespace(self, node: NodeLayout) -> str:
        return f"{self.tag}-n{node.number}"

    def host_link(self, node: NodeLayout) -> str:
        """The end of the node's cable at the bridge."""
        return f"{self.tag}-v{node.number}"

    def socket(self, node: NodeLayout) -> Path:
        """Where the node's engine listens."""
        return self.runtime / f"{node.name}.sock"

    def folder(self, node: NodeLayout) -> Path:
        return self.base / node.name

    def worker_root(self, node: NodeLayout) -> Path:
        """The node's worker files, as this machine sees them."""
        return self.folder(node) / "cumulus"

    def cgroup(self, node: NodeLayout) -> str:
        return f"/{self.tag}-n{node.number}"

    def to_json(self) -> str:
        tree = None if self.tree is None else str(self.tree)
        return json.dumps({**asdict(self), "base": str(self.base), "tree": tree})

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        data = json.loads(text)
        nodes = tuple(NodeLayout(**node) for node in data.pop("nodes"))
        base, tree = Path(data.pop("base")), data.pop("tree", None)
        return cls(**data, base=base, nodes=nodes, tree=None if tree is None else Path(tree))


def runtime_of(tag: str) -> Path:
    if not TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no cluster's tag")
    return RUNTIME / tag


def plan(
    tag: str,
    base: Path,
    subnet: str,
    mtu: int,
    nodes: int,
    workers: int,
    tree: Path | None = None,
) -> Layout:
    """A cluster of `nodes` engines, the last `workers` of them GPU workers; the first manages."""
    if not 1 <= nodes <= MAX_NODES:
        raise ValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {nodes}")
    if not 0 <= workers <= nodes:
        raise ValueError(f"of {nodes} nodes, 0 to {nodes} can be workers, not {workers}")
    runtime_of(tag)
    addresses = list(ipaddress.ip_network(subnet).hosts())
    made = []
    worker_number = 0
    for number in range(1, nodes + 1):
        worker = number > nodes - workers
        worker_number += worker and number > 1
        name = "manager" if number == 1 else f"worker{worker_number}" if worker else f"node{number}"
        made.append(NodeLayout(name, number, str(addresses[9 + number]), worker))
    return Layout(tag, base, subnet, mtu, tuple(made), tree)
