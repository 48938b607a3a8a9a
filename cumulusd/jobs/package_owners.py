"""Which owner has brought which package: an empty file for each pair.

The bytes of a package are kept once, whoever brings them. But to have it used, an owner must have
brought it: a hash alone, found in a log or guessed, opens nobody else's package, and nobody can
ask whether another one has it.
"""

import hashlib
from collections.abc import Set
from pathlib import Path


def name_for(owner: str, sha256: str) -> str:
    """A file's name for the pair. Owners' names may hold anything, also what no file name may."""
    return f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}-{sha256}"


class PackageOwners:
    """The files in one folder. Blocks, as briefly as the file system does."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder."""
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def has(self, owner: str, sha256: str) -> bool:
        """Has that owner brought it?"""
        return (self._folder / name_for(owner, sha256)).exists()

    def add(self, owner: str, sha256: str) -> None:
        """It has. Raises OSError."""
        (self._folder / name_for(owner, sha256)).touch(mode=0o600)

    def keep_only(self, hashes: Set[str]) -> None:
        """Forgets who brought any other package. Raises OSError."""
        for path in self._folder.iterdir():
            if path.name.rpartition("-")[2] not in hashes:
                path.unlink(missing_ok=True)
