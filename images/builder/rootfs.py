"""An image without an engine: layer by layer, each step run in a folder by chroot.

Needs root. A step runs in namespaces of its own for mounts and processes, and dies with this
program, so that nothing stays mounted and nothing runs on however it ends. Layers are kept in a
cache as tar files; folders are thrown away.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from builder.archive import BUILD_TIME_S, Layer, sha256_of, snapshot, write_layer
from builder.errors import BuildError, say
from builder.recipe import MOUNT, SUITE, Recipe, Step, architecture
from builder.settings import KEYRING, Settings, is_root

STEP_TIMEOUT_S = 3600
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Everything is mounted in a namespace that ends with the step.
_CONFINED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_TOOLS = {
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "chroot": "coreutils",
    "tar": "tar",
}
#: How debootstrap makes each release.
_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_KEEP_XATTRS = ("--xattrs", "--xattrs-include=security.capability")
#: $1 the root, $2 the build context, $3 where it is mounted; then pairs: a folder, and its place
#: in the context; `--`; the script and its arguments.
_ENTER = r"""
set -eu
root=$1 context=$2 place=$3
shift 3
mkdir -p "$root$place"
mount --bind "$context" "$root$place"
mount -o remount,bind,ro "$root$place"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$place/$2"
    mount -o remount,bind,ro "$root$place/$2"
    shift 2
done
shift
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=0755,nosuid,noexec tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
for name in resolv.conf hosts; do
    [ -e "/etc/$name" ] || continue
    rm -f "$root/etc/$name"
    : >"$root/etc/$name"
    mount --bind "$(readlink -f "/etc/$name")" "$root/etc/$name"
    mount -o remount,bind,ro "$root/etc/$name"
done
exec chroot "$root" /bin/sh "$@"
"""


def missing_for_rootfs() -> str | None:
    """Why images can't be made this way here; None: they can."""
    if not is_root():
        return "making an image without an engine needs root (chroot); run it as root"
    return None


def install_tools() -> None:
    """What a bare Debian lacks. Raises BuildError."""
    packages = {package for tool, package in _TOOLS.items() if shutil.which(tool) is None}
    if not KEYRING.is_file():
        packages.add("debian-archive-keyring")
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise BuildError(f"missing on this machine, install them: {', '.join(sorted(packages))}")
    say(f"installing on this machine: {', '.join(sorted(packages))}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "-qq", "update"], "apt-get update", environment)
    _run(
        ["apt-get", "-qq", "-y", "--no-install-recommends", "install", *sorted(packages)],
        "apt-get install",
        environment,
    )


class LayerCache:
    """Layers by key, in a folder. Only one program at a time may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Layer | None:
        """The layer, if it is whole."""
        path = self._folder / f"{key}.tar"
        digest = self._folder / f"{key}.sha256"
        # The digest is written last: with it the layer is whole.
        return Layer(path, digest.read_text().strip()) if digest.is_file() else None

    def draft(self, key: str) -> Path:
        """Where to write the layer, before `put`."""
        return self._folder / f".{key}.tar"

    def put(self, key: str, diff_id: str) -> Layer:
        """Takes over the draft."""
        path = self._folder / f"{key}.tar"
        self.draft(key).replace(path)
        note = self._folder / f".{key}.sha256"
        note.write_text(f"{diff_id}\n")
        note.replace(self._folder / f"{key}.sha256")
        return Layer(path, diff_id)

    def keep_only(self, keys: set[str]) -> None:
        """Deletes all other layers, and drafts that were left behind."""
        for path in sorted(self._folder.iterdir(), key=lambda path: path.suffix != ".sha256"):
            if path.name == ".lock":
                continue
            if path.name.startswith(".") or path.stem not in keys:
                path.unlink()


def make_layers(
    recipe: Recipe,
    *,
    context: Path,
    settings: Settings,
    cache: LayerCache,
    work: Path,
    refresh: bool,
) -> list[Layer]:
    """The image's layers, from the cache as far as they are there. `work`: an empty folder."""
    layers: list[Layer] = []
    root: Path | None = None
    for key, step in zip(recipe.layer_keys(context), recipe.steps, strict=True):
        cached = None if refresh or root is not None else cache.get(key)
        if cached is not None:
            layers.append(cached)
            continue
        if root is None:
            root = work / f"root-{recipe.name}"
            _unpack(layers, root)
        layers.append(_make(step, key, root, bool(layers), context, settings, cache, recipe.name))
    if root is not None:
        remove_tree(root)
    return layers


def _make(
    step: Step,
    key: str,
    root: Path,
    has_lower: bool,
    context: Path,
    settings: Settings,
    cache: LayerCache,
    image: str,
) -> Layer:
    name = " ".join([step.script, *step.arguments])
    began = time.monotonic()
    began_at = time.time()
    before = snapshot(root)
    if not has_lower:
        before = {}
        say(f"{image}: debootstrap {SUITE} (a minute or two)")
        debootstrap(root, settings, work=context.parent)
    say(f"{image}: {name}")
    mounts: list[str | Path] = []
    for folder, place in settings.wheels.mount_points(context):
        mounts += [folder, place.relative_to(context)]
    command = ["--", f"{MOUNT}/common/{step.script}", *step.arguments]
    _run(
        [*_CONFINED, "sh", "-c", _ENTER, "enter", root, context, MOUNT, *mounts, *command],
        f"{image}: {name}",
        {"PATH": _PATH, "SOURCE_DATE_EPOCH": str(BUILD_TIME_S), "HOME": "/root"},
    )
    draft = cache.draft(key)
    layer = cache.put(key, write_layer(root, before, began_at, draft))
    size_mb = layer.path.stat().st_size / 1e6
    say(f"{image}: {name}: {size_mb:.0f} MB in {time.monotonic() - began:.0f} s")
    return layer


def debootstrap(
    root: Path,
    settings: Settings,
    *,
    work: Path,
    suite: str = SUITE,
    packages: Sequence[str] = (),
) -> None:
    """A Debian in the folder `root`, with those packages. `work`: for files of its own.

    Raises BuildError.
    """
    environment = {**os.environ, **settings.proxies, "SOURCE_DATE_EPOCH": str(BUILD_TIME_S)}
    if settings.ca_bundle is not None:
        wgetrc = work / "wgetrc"
        wgetrc.write_text(f"ca_certificate = {settings.ca_bundle}\n")
        environment["WGETRC"] = str(wgetrc)
    command: list[str | Path] = [
        *_CONFINED,
        "debootstrap",
        "--variant=minbase",
        f"--arch={architecture()}",
        f"--keyring={KEYRING}",
    ]
    if packages:
        command.append(f"--include={','.join(packages)}")
    command += [suite, root, settings.mirror]
    if not (_SCRIPTS / suite).exists():
        command.append("sid")  # a release newer than this debootstrap is made as `sid` is
    _run(command, f"debootstrap {suite}", environment)


def _unpack(layers: Sequence[Layer], root: Path) -> None:
    root.mkdir()
    root.chmod(0o755)
    for layer in layers:
        # A layer that was damaged on disk would only be noticed by `docker load` on a worker.
        if sha256_of(layer.path) != layer.diff_id:
            raise BuildError(f"{layer.path} is damaged; delete it and its .sha256, and repeat")
        _run(
            ["tar", "--numeric-owner", *_KEEP_XATTRS, "-xpf", layer.path, "-C", root],
            "unpacking a layer",
            dict(os.environ),
        )
        _apply_whiteouts(root)


def _apply_whiteouts(root: Path) -> None:
    """Deletes what the last layer's marks name, and the marks."""
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.startswith(".wh."):
                continue
            os.unlink(os.path.join(folder, name))
            hidden = Path(folder, name.removeprefix(".wh."))
            if hidden.is_dir() and not hidden.is_symlink():
                shutil.rmtree(hidden)
            else:
                hidden.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Deletes a work folder, unless something is mounted in it. Raises BuildError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounted = [line.split()[4] for line in file]
    inside = [place for place in mounted if place.startswith(f"{folder}/")]
    if inside:
        raise BuildError(f"still mounted, unmount by hand: {', '.join(inside)}")
    if folder.exists():
        shutil.rmtree(folder)


def _run(command: Sequence[str | Path], what: str, environment: dict[str, str]) -> None:
    """Runs a program that dies with this one; its output is shown when it fails."""
    argv = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
    if shutil.which("setpriv") is None:  # not yet installed
        argv = [str(word) for word in command]
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{what} took over {STEP_TIMEOUT_S} s and was ended") from error
    if done.returncode:
        tail = done.stdout.decode(errors="replace").strip().splitlines()[-25:]
        raise BuildError(f"{what} failed (exit code {done.returncode}):\n" + "\n".join(tail))
