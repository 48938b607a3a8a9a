"""The command `cumulusd`: what an operator does beside running the daemon (that is `twistd`)."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cumulusd import __version__
from cumulusd.cli_config import add_config
from cumulusd.cli_store import add_store, run_store
from cumulusd.cli_token import add_token, run_token
from cumulusd.config import Config, ConfigError, load_config
from cumulusd.errors import CumulusError, InvalidArgument
from cumulusd.exits import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE
from cumulusd.provisioning import DEFAULT_LIFETIME_S, MAX_LIFETIME_S, Provisioning


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or one of `cumulusd.exits`."""
    parser = argparse.ArgumentParser(
        prog="cumulusd",
        description="Cumulus's daemon. It is run by: twistd -n cumulusd --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"cumulusd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    add_config(commands)
    add_token(commands)
    _add_provision_token(commands)
    add_store(commands)
    arguments = parser.parse_args(argv)
    if "looks" in arguments:
        code: int = arguments.looks(arguments)
        return code
    if arguments.command == "store":
        return run_store(arguments)
    if arguments.command == "token":
        return _told(lambda: run_token(arguments))
    work: Callable[[Provisioning, argparse.Namespace], None] = arguments.work
    return _told(lambda: work(_provisioning(load_config(arguments.file, os.environ)), arguments))


def _add_provision_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`provision-token create|list|revoke`."""
    tokens = commands.add_parser(
        "provision-token",
        help="make, list and revoke the tokens that enrol workers",
        description="A provisioning token enrols one node of the Swarm as a GPU worker: the node "
        "posts it to /provision/enroll, once. Run this on the daemon's machine; the daemon may "
        "be running.",
    )
    verbs = tokens.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="make one; stdout is the token and nothing else")
    hours = DEFAULT_LIFETIME_S / 3600
    create.add_argument(
        "--hours",
        type=_hours,
        default=hours,
        metavar="N",
        help=f"how long it can be redeemed (default {hours:g})",
    )
    create.add_argument("--note", default="", metavar="TEXT", help="what it is for")
    create.set_defaults(work=_create_token)
    listing = verbs.add_parser("list", help="show all: id, state, times, node, note")
    listing.set_defaults(work=_list_tokens)
    revoke = verbs.add_parser("revoke", help="take one away; a node it enrolled stays enrolled")
    revoke.add_argument("token_id", metavar="ID")
    revoke.set_defaults(work=_revoke_token)
    for verb in (create, listing, revoke):
        verb.add_argument("--config", "-c", required=True, metavar="FILE", dest="file")


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours * 3600 <= MAX_LIFETIME_S:
        raise argparse.ArgumentTypeError(f"over 0 and at most {MAX_LIFETIME_S / 3600:g}")
    return hours


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


def _provisioning(config: Config) -> Provisioning:
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CumulusError(
            f"state_dir {config.state_dir} can't be used: {error}",
            hint="run this as the daemon's user",
        ) from error
    return Provisioning(config.state_dir, time.time)


def _create_token(provisioning: Provisioning, arguments: argparse.Namespace) -> None:
    secret, token = provisioning.create(lifetime_s=arguments.hours * 3600, note=arguments.note)
    sys.stdout.write(f"{secret}\n")
    sys.stderr.write(
        f"token {token.token_id}: enrols one node until {_moment(token.expires_at)};"
        " it is not shown again\n"
    )


def _list_tokens(provisioning: Provisioning, arguments: argparse.Namespace) -> None:
    now = time.time()
    for token in provisioning.tokens():
        parts = [token.token_id, f"{token.state(now):8}", _moment(token.created_at)]
        parts += [_moment(token.expires_at), token.node_id or "-", token.note]
        sys.stdout.write("  ".join(parts).rstrip() + "\n")


def _revoke_token(provisioning: Provisioning, arguments: argparse.Namespace) -> None:
    token = provisioning.revoke(arguments.token_id)
    was = f"; node {token.node_id} stays enrolled" if token.node_id else ""
    sys.stderr.write(f"token {token.token_id} is revoked{was}\n")


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    raise SystemExit(main())
