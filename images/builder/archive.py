"""Layers and images as files: what changed in a folder as a tar, layers as `docker load` takes."""

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.recipe import Recipe, architecture, version

#: The time that what a build itself wrote is said to be from.
BUILD_TIME_S = 1_704_067_200
#: Never in an image: the engine's own, or this machine's.
EMPTIED = ("dev", "proc", "run", "sys", "tmp")
LEFT_OUT = ("cumulus-build", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_CAPABILITY = "security.capability"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Layer:
    """One layer in the cache."""

    path: Path
    diff_id: str  #: SHA-256 of the tar, in hex


#: Path below a root -> what tells whether it was touched.
Snapshot = Mapping[str, tuple[int, ...]]


def snapshot(root: Path) -> dict[str, tuple[int, ...]]:
    """All that is there now. A change of anything changes the inode's change time."""
    found: dict[str, tuple[int, ...]] = {}
    for folder, folders, names in os.walk(root):
        inside = os.path.relpath(folder, root)
        if inside == ".":
            folders[:] = [name for name in folders if name not in EMPTIED]
            found |= {name: () for name in EMPTIED if os.path.isdir(os.path.join(root, name))}
        for name in [*folders, *names]:
            path = os.path.normpath(os.path.join(inside, name))
            about = os.lstat(os.path.join(folder, name))
            found[path] = (about.st_ino, about.st_mode, about.st_size, about.st_ctime_ns)
    return {path: about for path, about in found.items() if not _left_out(path)}


def _left_out(path: str) -> bool:
    return any(path == name or path.startswith(f"{name}/") for name in LEFT_OUT)


def write_layer(root: Path, before: Snapshot, began_at: float, target: Path) -> str:
    """Writes what differs from `before` as a layer. `began_at`: what is newer, the build wrote.

    Entries are in order and without names of users; returns the tar's SHA-256.
    """
    now = snapshot(root)
    gone = {path for path in before if path not in now}
    whiteouts = sorted(path for path in gone if os.path.dirname(path) not in gone)
    changed = sorted(path for path in now if now[path] != before.get(path))
    with open(target, "wb") as file:
        hashing = _Hashing(file)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for path in whiteouts:
                entry = tarfile.TarInfo(
                    os.path.join(os.path.dirname(path), f".wh.{os.path.basename(path)}")
                )
                entry.mtime = BUILD_TIME_S
                tar.addfile(entry)
            for path in changed:
                _add(tar, root, path, began_at)
        file.flush()
        os.fsync(file.fileno())
    return hashing.hexdigest()


def _add(tar: tarfile.TarFile, root: Path, path: str, began_at: float) -> None:
    full = root / path
    if stat.S_ISSOCK(os.lstat(full).st_mode):
        return
    entry = tar.gettarinfo(full, arcname=path)
    entry.uname = entry.gname = ""
    entry.mtime = BUILD_TIME_S if entry.mtime >= began_at else int(entry.mtime)
    if path in EMPTIED:
        entry.mtime = BUILD_TIME_S
        entry.mode = 0o1777 if path == "tmp" else 0o755
    if not entry.isreg():
        tar.addfile(entry)
        return
    if _CAPABILITY in os.listxattr(full, follow_symlinks=False):
        value = os.getxattr(full, _CAPABILITY, follow_symlinks=False)
        entry.pax_headers = {
            f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")
        }
    with open(full, "rb") as content:
        tar.addfile(entry, content)


class _Hashing:
    """Writes through, and knows the SHA-256 of all that was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def python_label(layers: Sequence[Layer]) -> dict[str, str]:
    """`{"cumulus.python": "3.13"}`: what the link `python3` in the layers leads to. From it the
    daemon knows which pickled code jobs can't take."""
    for layer in reversed(layers):
        with tarfile.open(layer.path) as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                version = entry.linkname.rpartition("/")[2].removeprefix("python")
                if name == "usr/bin/python3" and entry.issym() and version[:1].isdecimal():
                    return {"cumulus.python": version}
    return {}


def image_config(recipe: Recipe, content: str, layers: Sequence[Layer]) -> bytes:
    """The image's configuration; its SHA-256 is the image's id."""
    created = "2024-01-01T00:00:00Z"  # BUILD_TIME_S: the same input, the same id
    config = {
        "architecture": architecture(),
        "os": "linux",
        "created": created,
        "config": {
            "Env": list(recipe.environment),
            "User": recipe.user,
            "Cmd": list(recipe.command),
            "WorkingDir": "/",
            "Labels": {**recipe.labels(content), **python_label(layers)},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [
            {
                "created": created,
                "created_by": f"{step.script} {' '.join(step.arguments)}".strip(),
                "comment": f"cumulus {version()}",
            }
            for step in recipe.steps
        ],
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def write_image(recipe: Recipe, content: str, layers: Sequence[Layer], target: Path) -> str:
    """Writes the archive that `docker load` takes; the image's id."""
    config = image_config(recipe, content, layers)
    digest = hashlib.sha256(config).hexdigest()
    names = [f"{layer.diff_id}/layer.tar" for layer in layers]
    manifest = [{"Config": f"{digest}.json", "RepoTags": [recipe.tag], "Layers": names}]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        _add_bytes(tar, f"{digest}.json", config)
        for name, layer in zip(names, layers, strict=True):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = layer.path.stat().st_size, BUILD_TIME_S
            with open(layer.path, "rb") as content_file:
                tar.addfile(entry, content_file)
        _add_bytes(tar, "manifest.json", json.dumps(manifest).encode())
    return f"sha256:{digest}"


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), BUILD_TIME_S
    tar.addfile(entry, io.BytesIO(data))


def sha256_of(path: Path) -> str:
    """Of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def loaded_id(archive: Path) -> str:
    """The id of the only image in an archive that an engine saved."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        name = str(json.load(manifest)[0]["Config"])
        config = tar.extractfile(name)
        assert config is not None
        return f"sha256:{hashlib.sha256(config.read()).hexdigest()}"
