"""Engines of other Debian releases: each runs in its release's own file system, kept in a cache.

A release's tree is made once, by debootstrap, and never written to again: what an engine writes
outside of its data goes to memory, in a mount namespace that ends with it.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RELEASES", "Release", "ReleaseError", "make_packages_tree", "make_tree"]

MAKE_TIMEOUT_S = 1800.0
#: tini reaps for the engine; mount has umount, which leaves this machine's file system behind.
PACKAGES = ("docker.io", "iptables", "mount", "tini")
_ROOT = Path(__file__).resolve().parents[1]
_CACHE = _ROOT / "var/cache/engines"


class ReleaseError(Exception):
    """A release's tree can't be made."""


@dataclass(frozen=True)
class Release:
    """`engine`: the version of Docker that it has at the least, as major and minor."""

    suite: str
    engine: tuple[int, int]


RELEASES = (Release("trixie", (26, 1)), Release("forky", (28, 5)))


def make_tree(release: Release, cache: Path = _CACHE) -> Path:
    """The release's file system with an engine in it; made now, in a minute, when it is absent."""
    return make_packages_tree(release.suite, release.suite, PACKAGES, cache)


def make_packages_tree(
    name: str, suite: str, packages: Sequence[str], cache: Path = _CACHE
) -> Path:
    """A release's file system with those packages, kept under that name. ReleaseError."""
    tree = cache / name
    if tree.exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(_ROOT / "images/tree"), suite, str(tree), *packages],
        stdin=subprocess.DEVNULL,  # its notes and faults go to stderr as they come
        timeout=MAKE_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise ReleaseError(f"images/tree {suite} failed ({done.returncode}); see above")
    return tree
