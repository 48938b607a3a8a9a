"""How one node's engine is started. Pure: the command, as a list of words.

The engine is in the node's network namespace, and in host name, mount and process namespaces of its
own. It has its own /run, so that nothing of it collides with another engine's; its process
namespace ends with its parent, and its containers with it: the kernel sees to that. So do all its
mounts: none is made outside of its mount namespace.
"""

import os
from collections.abc import Mapping

from engines.layout import GENERIC_RESOURCE, WORKER_ROOT, Layout, NodeLayout

__all__ = ["MARK", "command", "environment"]

#: In the environment of all of a cluster's processes: finds those that outlived their parent.
MARK = "CUMULUS_ENGINES_TAG"

#: Where each engine tells its metrics, inside its node.
METRICS_ADDRESS = "127.0.0.1:9323"

# $1 node's folder, $2 sockets' folder, $3 worker root, $4 host name, $5 the tree to run in or
# nothing; then the engine's command.
_INSIDE = r"""
set -eu
node=$1 sockets=$2 worker_root=$3 name=$4 tree=$5
shift 5
hostname "$name"
# Other clusters' network namespaces must not be kept alive by mounts copied into this namespace.
if [ -d /run/netns ]; then
    umount -R -l /run/netns 2>/dev/null || true # nothing is mounted there in most cases
fi
# An own /run, with the sockets' folder put through.
mount -t tmpfs -o mode=755,size=256m cumulus-engine "$node/run"
mkdir -p "$node/run/${sockets#/run/}"
mount --bind "$sockets" "$node/run/${sockets#/run/}"
if [ -n "$tree" ]; then
    # Another release's file system, with what the engine needs of this machine and of its node.
    mount -t tmpfs -o mode=755,size=256m cumulus-engine "$node/root"
    cd "$node/root"
    mkdir below above work all
    mount --bind "$tree" below
    mount -t overlay -o lowerdir=below,upperdir=above,workdir=work cumulus-engine all
    cd all
    mkdir -p ".$node" ".$worker_root" outside
    mount --rbind /dev dev
    mount --rbind /sys sys
    mount -t proc -o nosuid,nodev,noexec proc proc
    mount --rbind "$node/run" run
    mount --bind "$node" ".$node"
    mount --bind "$node/cumulus" ".$worker_root"
    cp "$node/resolv.conf" etc/resolv.conf
    pivot_root . outside
    exec chroot . sh -euc 'umount -l /outside; exec "$@"' engine "$@"
fi
mount --rbind "$node/run" /run
# The names of hosts come from the cluster's forwarder. The file may be a link into /run.
resolv=$(readlink -m /etc/resolv.conf)
case $resolv in
/run/*)
    mkdir -p "${resolv%/*}"
    : >"$resolv"
    ;;
esac
mount --bind "$node/resolv.conf" "$resolv"
mount --bind "$node/cumulus" "$worker_root"
exec "$@"
"""


def engine_words(layout: Layout, node: NodeLayout) -> list[str]:
    """dockerd and its options."""
    folder = layout.folder(node)
    words = [
        "dockerd",
        f"--config-file={folder / 'daemon.json'}",  # not the user's
        f"--host=unix://{layout.socket(node)}",
        f"--data-root={folder / 'data'}",
        "--exec-root=/run/docker",
        "--pidfile=/run/docker.pid",
        f"--cgroup-parent={layout.cgroup(node)}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--icc=false",
        f"--mtu={layout.mtu}",
        f"--dns={layout.bridge_address}",
        "--log-level=info",
        f"--metrics-addr={METRICS_ADDRESS}",
    ]
    if node.worker:
        words.append(f"--node-generic-resource={GENERIC_RESOURCE}")
    return words


def command(layout: Layout, node: NodeLayout) -> list[str]:
    """Ends with its parent (--pdeathsig), and all of the engine with it (--kill-child)."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("nsenter", f"--net=/run/netns/{layout.network_namespace(node)}", "--"),
        *("unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("--propagation", "private", "--"),
        *("sh", "-c", _INSIDE, "engine"),
        *(str(layout.folder(node)), str(layout.runtime), str(WORKER_ROOT), node.name),
        str(layout.tree or ""),
        *("tini", "--"),  # reaps what engine and containers leave to process 1
        *engine_words(layout, node),
    ]


def environment(layout: Layout, environ: Mapping[str, str]) -> dict[str, str]:
    """Of the engine: the caller's, without what points a Docker elsewhere."""
    kept = {name: text for name, text in environ.items() if not name.startswith("DOCKER_")}
    kept["PATH"] = os.pathsep.join(
        dict.fromkeys([*kept.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin", "/usr/bin"])
    ).lstrip(os.pathsep)
    return {**kept, MARK: layout.tag}
