"""The command `cumulusd`: what an operator does beside running the daemon (that is `twistd`)."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from cumulusd import __version__
from cumulusd.cli_config import add_config
from cumulusd.cli_doctor import add_doctor
from cumulusd.cli_provision import add_provision_token
from cumulusd.cli_store import add_store, run_store
from cumulusd.cli_token import add_token, run_token
from cumulusd.config import Config, ConfigError, load_config
from cumulusd.errors import CumulusError, InvalidArgument
from cumulusd.exits import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE


def make_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = argparse.ArgumentParser(
        prog="cumulusd",
        description="Cumulus's daemon. It is run by: twistd -n cumulusd --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"cumulusd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    add_config(commands)
    add_doctor(commands)
    add_token(commands)
    add_provision_token(commands)
    add_store(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or one of `cumulusd.exits`."""
    arguments = make_parser().parse_args(argv)
    if "looks" in arguments:
        code: int = arguments.looks(arguments)
        return code
    if arguments.command == "store":
        return run_store(arguments)
    if arguments.command == "token":
        return _told(lambda: run_token(arguments))
    work: Callable[[Config, argparse.Namespace], None] = arguments.work
    return _told(lambda: work(load_config(arguments.file, os.environ), arguments))


def _told(work: Callable[[], None]) -> int:
    """Does that; an error is told on stderr. The exit code."""
    try:
        work()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except CumulusError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"cumulusd: {error.message}{hint}\n")
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_UNAVAILABLE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
