"""`cumulusd token`: makes, lists and revokes the tokens of a running daemon."""

import argparse
import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cumulusd.admin.client import AdminClient
from cumulusd.admin.token_record import ROLES
from cumulusd.config import admin_path_in
from cumulusd.errors import InvalidArgument

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
#: The wire's key -> the option.
_OPTIONS = {
    "name": "--name",
    "owner": "--owner",
    "role": "--role",
    "expires_at": "--expires",
    "node_id": "--node",
    "public_keys": "--public-key",
}
_HEADINGS = ("NAME", "OWNER", "ROLE", "NODE", "FROM", "MADE", "EXPIRES", "LOGINS")
_SPAN = re.compile(r"(\d{1,9})([smhdw])")


def add_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`token create|list|revoke`; `arguments.ask` does the work, on an AdminClient."""
    token = commands.add_parser(
        "token",
        help="make, list and revoke the tokens of a running daemon",
        description="Asks the running daemon over its admin socket, which root and the daemon's "
        "own user may open. Run this on the daemon's machine.",
    )
    verbs = token.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="make one; stdout is the token and nothing else")
    create.add_argument("--name", required=True, help="what it is called; also for logins by SCRAM")
    create.add_argument("--owner", help="whose jobs it submits and sees (default: the name)")
    create.add_argument("--role", required=True, help=f"one of {', '.join(ROLES)}")
    create.add_argument(
        "--expires",
        metavar="WHEN",
        type=when,
        help="90d (also s, m, h, w), or a date: 2030-01-31, 2030-01-31T12:00 (UTC unless it says"
        " otherwise). Default: never",
    )
    create.add_argument("--node", metavar="NODE", help="the node that an agent stands for")
    create.add_argument(
        "--public-key",
        metavar="HEX",
        action="append",
        default=[],
        help="an Ed25519 key that may log in instead (WAMP-cryptosign); can be repeated",
    )
    create.set_defaults(ask=_create)
    listing = verbs.add_parser("list", help="show all: never a token, nor its hash")
    listing.add_argument("--json", action="store_true", help="as one JSON array")
    listing.set_defaults(ask=_list)
    revoke = verbs.add_parser("revoke", help="take one away; what it opened ends at once")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(ask=_revoke)
    for verb in (create, listing, revoke):
        which = verb.add_mutually_exclusive_group(required=True)
        which.add_argument("--config", "-c", metavar="FILE", help="the daemon's configuration")
        which.add_argument("--socket", metavar="PATH", help="its admin socket, without that file")


def run_token(arguments: argparse.Namespace) -> None:
    """Does what `add_token` parsed. Raises ConfigError, CumulusError."""
    if arguments.socket is not None:
        path = Path(arguments.socket).absolute()
    else:
        # Only that of the configuration: variables that hold tokens needn't be set here.
        path = admin_path_in(arguments.config)
    arguments.ask(AdminClient(path), arguments)


def when(text: str, now: float | None = None) -> float:
    """Unix seconds of a date, or of a span that begins now. Raises ArgumentTypeError."""
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return (time.time() if now is None else now) + int(span[1]) * _UNITS_S[span[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a span such as 90d nor a date such as 2030-01-31"
        ) from None


def _create(client: AdminClient, arguments: argparse.Namespace) -> None:
    wanted: dict[str, Any] = {"name": arguments.name, "role": arguments.role}
    if arguments.owner is not None:
        wanted["owner"] = arguments.owner
    if arguments.node is not None:
        wanted["node_id"] = arguments.node
    if arguments.expires is not None:
        wanted["expires_at"] = arguments.expires
    if arguments.public_key:
        wanted["public_keys"] = arguments.public_key
    try:
        token, shown = client.create_token(wanted)
    except InvalidArgument as error:
        raise InvalidArgument(_in_options(error)) from error
    sys.stdout.write(f"{token}\n")
    sys.stdout.flush()
    until = "never expires" if shown["expires_at"] is None else _until(shown["expires_at"])
    sys.stderr.write(
        f"token {shown['name']}: {shown['role']} of {shown['owner']}, {until};"
        " it is not shown again\n"
    )


def _in_options(error: InvalidArgument) -> str:
    """The daemon's faults, with keys called what this command calls them."""
    faults = error.details.get("faults")
    if not faults:
        return error.message
    words = (f"{_OPTIONS.get(one['key'], one['key'])} {one['message']}" for one in faults)
    return f"no token was made: {'; '.join(words)}"


def _list(client: AdminClient, arguments: argparse.Namespace) -> None:
    tokens = client.tokens()
    if arguments.json:
        sys.stdout.write(json.dumps(tokens, indent=1) + "\n")
        return
    rows: list[tuple[str, ...]] = [_HEADINGS, *(_row(token) for token in tokens)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _row(token: dict[str, Any]) -> tuple[str, ...]:
    made, expires = token["created_at"], token["expires_at"]
    ends = "never" if expires is None else _moment(expires)
    logins = ["ticket"] + ["scram"] * token["scram"] + ["key"] * bool(token["public_keys"])
    return (
        token["name"],
        token["owner"],
        token["role"],
        token["node_id"] or "-",
        token["source"],
        "-" if made is None else _moment(made),
        f"{ends} (expired)" if token["expired"] else ends,
        ",".join(logins),
    )


def _revoke(client: AdminClient, arguments: argparse.Namespace) -> None:
    shown = client.revoke_token(arguments.name)
    sys.stderr.write(
        f"token {shown['name']} ({shown['role']} of {shown['owner']}) is revoked;"
        " what it had open is ended\n"
    )


def _until(unix_s: float) -> str:
    return f"expires {_moment(unix_s)}"


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
