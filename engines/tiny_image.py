"""A small image for tests: one static busybox. Its id is the same on every engine.

The archive is written as `docker save` writes it, with nothing in it that varies: no engine is
needed to make it, and no registry.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from engines.commands import run

__all__ = ["TINY_IMAGE", "find_busybox", "make_tiny_image"]

TINY_IMAGE = "cumulus-tiny:latest"
_PACKAGE = "busybox-static"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def find_busybox(cache: Path) -> Path:
    """A static busybox: the system's where it has one, else Debian's package, kept in `cache`.

    The package is only unpacked there, not installed.
    """
    kept = cache / "busybox"
    if kept.exists():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cumulus-busybox-") as folder:
        system = Path("/bin/busybox")
        source = system if system.exists() and not _is_dynamic(system) else _download(Path(folder))
        part = cache / f"busybox.{os.getpid()}"
        shutil.copy(source, part)
        part.chmod(0o755)
        part.replace(kept)
    return kept


def _download(folder: Path) -> Path:
    folder.chmod(0o755)  # apt downloads as a user of its own
    try:
        _apt_download(folder)
    except subprocess.CalledProcessError:
        run("apt-get", "update", "-qq", timeout_s=120)
        _apt_download(folder)
    (package,) = folder.glob("*.deb")
    run("dpkg-deb", "-x", str(package), str(folder / "root"))
    for name in ("bin/busybox", "usr/bin/busybox"):
        if (folder / "root" / name).is_file():
            return folder / "root" / name
    raise FileNotFoundError(f"no busybox in {package.name}")


def _apt_download(folder: Path) -> None:
    subprocess.run(
        ["apt-get", "download", "-qq", _PACKAGE],
        cwd=folder,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )


def _is_dynamic(path: Path) -> bool:
    return b"ld-linux" in path.read_bytes()


def make_tiny_image(busybox: Path, target: Path) -> str:
    """Writes the archive `target`; the image's id, `sha256:…`."""
    names = run(str(busybox), "--list").split()
    layer = _layer(busybox, sorted(set(names) - {"busybox"}))
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
        },
        sort_keys=True,
    ).encode()
    manifest = [
        {"Config": f"{_sha256(config)}.json", "RepoTags": [TINY_IMAGE], "Layers": ["layer.tar"]}
    ]
    with tarfile.open(target, "w") as archive:
        _add(archive, "manifest.json", json.dumps(manifest).encode())
        _add(archive, f"{_sha256(config)}.json", config)
        _add(archive, "layer.tar", layer)
    return f"sha256:{_sha256(config)}"


def _layer(busybox: Path, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        _add(layer, "etc/passwd", b"root:x:0:0::/root:/bin/sh\njob:x:1000:1000::/tmp:/bin/sh\n")
        _add(layer, "etc/group", b"root:x:0:\njob:x:1000:\n")
        # Without it, glibc looks for plug-ins to load, which a static program can't.
        _add(layer, "etc/nsswitch.conf", b"hosts: files dns\nservices: files\n")
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        for name in names:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
