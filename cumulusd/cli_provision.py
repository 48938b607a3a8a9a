"""`cumulusd provision-token`: the tokens by which machines become workers."""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cumulusd.config import Config
from cumulusd.errors import CumulusError
from cumulusd.provision_scripts import http_url, worker_command
from cumulusd.provisioning import DEFAULT_LIFETIME_S, MAX_LIFETIME_S, Provisioning
from cumulusd.tls import SCHEME, load_certificate, parse_listener


def add_provision_token(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """`provision-token create|list|revoke`; each leaves `work(configuration, arguments)`."""
    tokens = commands.add_parser(
        "provision-token",
        help="make, list and revoke the tokens that enrol workers",
        description="A provisioning token makes one machine a GPU worker, once: worker.sh takes "
        "it. Run this on the daemon's machine; the daemon may be running.",
    )
    verbs = tokens.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser(
        "create", help="make one; stdout is the token and nothing else, stderr the whole command"
    )
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


def _provisioning(config: Config) -> Provisioning:
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CumulusError(
            f"state_dir {config.state_dir} can't be used: {error}",
            hint="run this as the daemon's user",
        ) from error
    return Provisioning(config.state_dir, time.time)


def _create_token(config: Config, arguments: argparse.Namespace) -> None:
    provisioning = _provisioning(config)
    secret, token = provisioning.create(lifetime_s=arguments.hours * 3600, note=arguments.note)
    sys.stdout.write(f"{secret}\n")
    sys.stderr.write(
        f"token {token.token_id}: enrols one node until {_moment(token.expires_at)};"
        " it is not shown again\n"
    )
    swarm = config.platform.swarm
    if config.platform.type != "swarm" or swarm is None:
        sys.stderr.write(
            "the configuration's platform is local, which no worker can join: docs/swarm.md\n"
        )
        return
    url = http_url(swarm.advertise_url)
    command = worker_command(url, secret, _fingerprint(config, swarm.advertise_url))
    sys.stderr.write(f"on the new worker, as root:\n\n  {command}\n\n")


def _fingerprint(config: Config, advertise_url: str) -> str | None:
    """Of the public key that the daemon shows at that address, as far as it is its own."""
    if not advertise_url.startswith("wss:"):
        return None
    pins = {}
    for one in config.listen:
        if one.startswith(SCHEME):
            listener = parse_listener(one, Path.cwd())  # its paths are absolute by now
            pins[listener.port] = load_certificate(listener).fingerprint
    return pins.get(urlsplit(advertise_url).port or 0) or next(iter(pins.values()), None)


def _list_tokens(config: Config, arguments: argparse.Namespace) -> None:
    now = time.time()
    for token in _provisioning(config).tokens():
        parts = [token.token_id, f"{token.state(now):8}", _moment(token.created_at)]
        who = token.node_id or token.hostname or "-"
        parts += [_moment(token.expires_at), who, token.note]
        sys.stdout.write("  ".join(parts).rstrip() + "\n")


def _revoke_token(config: Config, arguments: argparse.Namespace) -> None:
    token = _provisioning(config).revoke(arguments.token_id)
    was = f"; node {token.node_id} stays enrolled" if token.node_id else ""
    sys.stderr.write(f"token {token.token_id} is revoked{was}\n")


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
