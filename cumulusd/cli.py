"""The command `cumulusd`: what an operator does beside running the daemon (that is `twistd`)."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cumulusd import __version__
from cumulusd.certificates import expiry_told
from cumulusd.cli_store import add_store, run_store
from cumulusd.cli_token import add_token, run_token
from cumulusd.config import Config, ConfigError, load_config, warnings
from cumulusd.errors import CumulusError
from cumulusd.provisioning import DEFAULT_LIFETIME_S, MAX_LIFETIME_S, Provisioning
from cumulusd.tls import SCHEME, load_certificate, parse_listener

# sysexits.h
EXIT_CONFIG = 78
EXIT_UNAVAILABLE = 69


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0, 2 for wrong usage, 65 for a damaged store, 69 when it can't be done, 78 for a
    configuration with faults."""
    parser = argparse.ArgumentParser(
        prog="cumulusd",
        description="Cumulus's daemon. It is run by: twistd -n cumulusd --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"cumulusd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check-config",
        help="report every fault of a configuration",
        description="Reports every fault of a configuration file with its line. Exit code 0 when "
        "there is none, 78 otherwise. Tokens named by environment variables are looked up.",
    )
    check.add_argument("file", metavar="FILE")
    add_token(commands)
    _add_provision_token(commands)
    add_store(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "check-config":
        return check_config(arguments.file)
    if arguments.command == "store":
        return run_store(arguments)
    if arguments.command == "token":
        return _told(lambda: run_token(arguments))
    work: Callable[[Provisioning, argparse.Namespace], None] = arguments.work
    return _told(lambda: work(_provisioning(load_config(arguments.file, os.environ)), arguments))


def check_config(path: str) -> int:
    """Reports on stdout (all is well) or stderr (the faults, one a line)."""
    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    sys.stdout.write(
        f"{path}: ok\n"
        f"  listens on  {', '.join(config.listen)}\n"
        f"  state in    {config.state_dir}\n"
        f"  platform    {config.platform.type}\n"
        f"  tokens      {_tokens(config)}\n"
        f"  admin       {config.admin_path}\n"
    )
    for warning in (*warnings(config), *_expiries(config)):
        sys.stderr.write(f"{path}: warning: {warning}\n")
    return 0


def _expiries(config: Config) -> list[str]:
    """What is to be said of certificates that have expired, or soon will."""
    told = []
    for one in config.listen:
        if one.startswith(SCHEME):
            listener = parse_listener(one, Path.cwd())  # its paths are absolute by now
            told.append(expiry_told(listener, load_certificate(listener).expires_at, time.time()))
    return [one for one in told if one is not None]


def _tokens(config: Config) -> str:
    if config.tokens_made:
        return f"{len(config.tokens)} here, and those of `cumulusd token list`"
    return str(len(config.tokens) or "none: open to this machine")


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
        return EXIT_UNAVAILABLE
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
