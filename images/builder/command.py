"""The command: which images, which way, what is still good."""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from builder.archive import write_image
from builder.engine import build_image, missing_for_engine
from builder.errors import BuildError, say
from builder.recipe import (
    CUDA,
    DEFAULT_BASE,
    ML,
    NAMES,
    REPOSITORY,
    SLIM,
    VARIANTS,
    Recipe,
    make_context,
    read_recipe,
)
from builder.rootfs import LayerCache, install_tools, make_layers, missing_for_rootfs, remove_tree
from builder.settings import Settings, gather

DEFAULT_OUTPUT = REPOSITORY / "var" / "images"
LOCK_TIMEOUT_S = 3600
_NO_CPU_TORCH = (
    "PyTorch's builds for CPUs (`+cpu`) come from an index or a folder of wheels that you name in "
    "PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS; see images/README.md, The variant `ml`"
)


@dataclass(frozen=True)
class Stamp:
    """What stands beside an archive: what it was made from, and what it is."""

    image: str
    archive: str
    tag: str
    id: str
    size_bytes: int
    content: str
    way: str  #: "debootstrap" or "registry"
    base: str

    @classmethod
    def read(cls, path: Path) -> "Stamp | None":
        """None when there is none, or one of another version."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n")
        draft.replace(path)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="images/build",
        description="Makes container images as archives for `docker load`. Prints one JSON object "
        "an image; see images/README.md.",
    )
    parser.add_argument("image", choices=[*NAMES, "all"])
    parser.add_argument(
        "--variant",
        choices=[SLIM, ML],
        default=SLIM,
        help="of the job image: without or with frameworks of machine learning",
    )
    parser.add_argument(
        "--cuda",
        action="store_true",
        help="those for CUDA, on the CUDA runtime image that --base is",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: OUTPUT's cache/")
    parser.add_argument("--rootfs", choices=["auto", "debootstrap", "registry"], default="auto")
    parser.add_argument("--base", metavar="IMAGE", help=f"for `registry`; default: {DEFAULT_BASE}")
    parser.add_argument("--ca-bundle", metavar="FILE")
    parser.add_argument("--index-url", metavar="URL")
    parser.add_argument("--apt-mirror", metavar="URL")
    parser.add_argument("--install-ca", action="store_true", help="keep the bundle in the image")
    parser.add_argument("--refresh", action="store_true", help="build anew, caches aside")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    if fault := unfit(options):
        say(fault)
        return 2
    options.base = options.base or DEFAULT_BASE
    if options.cuda:
        options.rootfs = "registry"
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    try:
        options.output = options.output.resolve()
        options.cache = (options.cache or options.output / "cache").resolve()
        with locked(options.output), locked(options.cache):
            build(options)
    except BuildError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def unfit(options: argparse.Namespace) -> str | None:
    """What of the command line can't go together. Pure."""
    if options.variant != SLIM and options.image != "job":
        return f"--variant {options.variant}: only the job image has variants"
    if not options.cuda:
        return None
    if options.variant != ML:
        return "--cuda goes with --variant ml"
    if options.base is None or options.rootfs == "debootstrap":
        return (
            "--cuda can't be made by debootstrap: give a CUDA runtime image, with Python 3.11 or "
            "newer, that a Docker engine here has or can pull: --base IMAGE"
        )
    if options.apt_mirror:
        return "--apt-mirror is for Debian; with --cuda the base's own sources are used"
    return None


def leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """One build at a time in a folder; the others wait."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        end = time.monotonic() + LOCK_TIMEOUT_S
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say(f"waiting for another build in {output}")
                    told = True
                if time.monotonic() > end:
                    raise BuildError(f"another build holds {output}/.lock") from None
                time.sleep(0.2)
        yield


def build(options: argparse.Namespace) -> None:
    """Makes what isn't there yet. Raises BuildError."""
    output: Path = options.output
    work = output / "work"
    remove_tree(work)  # of a build that was killed: the lock says that nobody uses it
    settings = gather(
        os.environ,
        ca_bundle=options.ca_bundle,
        index_url=options.index_url,
        apt_mirror=options.apt_mirror,
        install_ca=options.install_ca,
    )
    if options.cuda:
        settings = replace(settings, archives=())  # the base's own, which needn't be Debian's
    work.mkdir(mode=0o755)
    try:
        context = work / "context"
        make_context(context)
        settings.write(context / "common" / "settings")
        _Build(options, output, context, settings).run()
    finally:
        remove_tree(work)


class _Build:
    """One run: the way is chosen once, when something must be made."""

    def __init__(
        self, options: argparse.Namespace, output: Path, context: Path, settings: Settings
    ) -> None:
        self._options = options
        self._output = output
        self._context = context
        self._settings = settings
        self._way: str | None = None
        self._cache = LayerCache(options.cache)

    def run(self) -> None:
        names = NAMES if self._options.image == "all" else (self._options.image,)
        variant = CUDA if self._options.cuda else self._options.variant
        refresh = self._options.refresh
        for name in names:
            stamp, built = self._make(read_recipe(name, variant), refresh)
            print(json.dumps({**asdict(stamp), "built": built}), flush=True)
            # Shared layers that were just made anew are new enough for the other image.
            refresh = refresh and self._way == "registry"
        if self._way == "debootstrap":
            recipes = [read_recipe(name) for name in NAMES]
            recipes += [read_recipe("job", variant) for variant in VARIANTS]
            self._cache.keep_only({k for one in recipes for k in one.layer_keys(self._context)})

    def _make(self, recipe: Recipe, refresh: bool) -> tuple[Stamp, bool]:
        content = recipe.content(self._context)
        archive = self._output / f"cumulus-{recipe.name}.tar"
        stamp_path = archive.with_suffix(".json")
        stamp = Stamp.read(stamp_path)
        if stamp and not self._options.refresh and self._is_good(stamp, content, archive):
            say(f"{recipe.name}: nothing has changed since {archive} was made")
            return stamp, False
        self._way = self._way or choose_way(self._options.rootfs, self._options.base)
        draft = archive.with_suffix(".tar.new")
        began = time.monotonic()
        try:
            try:
                image_id = self._write(recipe, content, draft, refresh)
            except BuildError as error:
                raise BuildError(f"{error}{advice(recipe, str(error))}") from error
            stamp = Stamp(
                image=recipe.image,
                archive=str(archive),
                tag=recipe.tag,
                id=image_id,
                size_bytes=draft.stat().st_size,
                content=content,
                way=self._way,
                base=self._options.base if self._way == "registry" else "",
            )
            stamp_path.unlink(missing_ok=True)
            draft.replace(archive)
            stamp.write(stamp_path)
        finally:
            draft.unlink(missing_ok=True)
        seconds = time.monotonic() - began
        say(f"{recipe.name}: {archive}, {stamp.size_bytes / 1e6:.0f} MB in {seconds:.0f} s")
        return stamp, True

    def _write(self, recipe: Recipe, content: str, draft: Path, refresh: bool) -> str:
        if self._way == "registry":
            return build_image(
                recipe,
                content=content,
                base=self._options.base,
                context=self._context,
                wheels=self._settings.wheels,
                target=draft,
                refresh=refresh,
            )
        layers = make_layers(
            recipe,
            context=self._context,
            settings=self._settings,
            cache=self._cache,
            work=self._context.parent,
            refresh=refresh,
        )
        return write_image(recipe, content, layers, draft)

    def _is_good(self, stamp: Stamp, content: str, archive: Path) -> bool:
        """The archive is what would be made again."""
        wanted = self._options.rootfs
        return (
            stamp.content == content
            and archive.is_file()
            and archive.stat().st_size == stamp.size_bytes
            and stamp.archive == str(archive)
            and wanted in ("auto", stamp.way)
            and (stamp.way != "registry" or stamp.base == self._options.base)
        )


def advice(recipe: Recipe, fault: str) -> str:
    """What to do about a fault, where that is known, in a line of its own. Pure."""
    return f"\n{_NO_CPU_TORCH}" if recipe.variant == ML and "+cpu" in fault else ""


def choose_way(wanted: str, base: str) -> str:
    """ "registry" or "debootstrap". Raises BuildError, saying what each lacks."""
    no_engine = None if wanted == "debootstrap" else missing_for_engine(base)
    if wanted != "debootstrap" and no_engine is None:
        say(f"by docker build, from {base}")
        return "registry"
    if wanted == "registry":
        raise BuildError(f"--rootfs registry: {no_engine}")
    no_rootfs = missing_for_rootfs()
    if no_rootfs is not None:
        raise BuildError(f"{no_engine}; and {no_rootfs}" if no_engine else no_rootfs)
    if no_engine:
        say(f"without an engine: {no_engine}")
    install_tools()
    return "debootstrap"
