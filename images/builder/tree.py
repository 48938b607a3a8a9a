"""A release of Debian as a folder, with packages: what engines of other releases run in."""

import argparse
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder.command import leave, locked
from builder.errors import BuildError, say
from builder.rootfs import debootstrap, install_tools, missing_for_rootfs, remove_tree
from builder.settings import gather


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="images/tree",
        description="Makes a release of Debian as a folder, by debootstrap, unless it is there.",
    )
    parser.add_argument("suite")
    parser.add_argument("folder", type=Path)
    parser.add_argument("packages", nargs="*", metavar="package")
    parser.add_argument("--ca-bundle", metavar="FILE")
    parser.add_argument("--apt-mirror", metavar="URL", help="it must have the suite")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        _make(options)
    except BuildError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _make(options: argparse.Namespace) -> None:
    folder: Path = options.folder.resolve()
    with locked(folder.parent):
        if folder.exists():
            return
        if (lacks := missing_for_rootfs()) is not None:
            raise BuildError(lacks)
        install_tools()
        settings = gather(
            os.environ,
            ca_bundle=options.ca_bundle,
            index_url=None,
            apt_mirror=options.apt_mirror,
            install_ca=False,
        )
        draft = folder.with_name(f".{folder.name}.new")
        remove_tree(draft)  # of one that was killed: the lock says that nobody makes it
        say(f"debootstrap {options.suite} with {', '.join(options.packages)} (a minute or two)")
        try:
            with tempfile.TemporaryDirectory(prefix="cumulus-tree-") as work:
                debootstrap(
                    draft,
                    settings,
                    work=Path(work),
                    suite=options.suite,
                    packages=options.packages,
                )
            for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(draft / name)
            draft.rename(folder)  # with its name it is whole
        finally:
            remove_tree(draft)
