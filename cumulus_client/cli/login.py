"""`login`: asks for daemon and key, tries them, and keeps them."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cumulus_client._profiles import DEFAULT_PROFILE, Profile, config_path, load, save
from cumulus_client.cli.displays import warn
from cumulus_client.cli.exits import EXIT_UNAVAILABLE
from cumulus_client.cli.output import print_json
from cumulus_client.cli.parser import UsageError, Verb, add_ca_file, add_json
from cumulus_client.client import CumulusClient
from cumulus_client.connection import normalise_url
from cumulus_client.exceptions import NotAuthenticated

_MAX_KEY = 4096
#: How often a person may try.
_ATTEMPTS = 3


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", default=DEFAULT_PROFILE, metavar="NAME",
        help=f"what it is called in the file (default: {DEFAULT_PROFILE})",
    )  # fmt: skip
    parser.add_argument(
        "--server-url", "--server", dest="server", metavar="URL",
        help="the daemon; else it is asked for",
    )  # fmt: skip
    parser.add_argument(
        "--api-key-stdin", action="store_true",
        help="read the key from stdin: pass show cumulus | cumulus login --api-key-stdin ...",
    )  # fmt: skip
    parser.add_argument(
        "--name", metavar="NAME",
        help="what the daemon calls the key; with it, the key is not sent over connections that "
        "others can read",
    )  # fmt: skip
    parser.add_argument(
        "--make-default", action="store_true",
        help="what commands use that name no other; the first one is it anyway",
    )  # fmt: skip
    add_ca_file(parser)
    add_json(parser)


def _login(options: argparse.Namespace) -> int:
    path = config_path()
    try:
        held = load(path)
    except ValueError as error:
        raise UsageError(str(error)) from None
    before = held.profiles.get(options.profile)
    url = _url(options, None if before is None else before.server_url)
    ca_file = _ca_file(options, url, before)
    attempts = 1 if options.api_key_stdin or not sys.stdin.isatty() else _ATTEMPTS
    while True:
        attempts -= 1
        key = _key(options, url)
        try:
            with CumulusClient(url, key, api_key_name=options.name, ca_file=ca_file) as client:
                info = client.get_server_info()
            break
        except ValueError as error:
            raise UsageError(str(error)) from None
        except NotAuthenticated as error:
            if not attempts:
                raise
            warn(error.message)
    held = held.with_profile(
        Profile(
            name=options.profile,
            server_url=url,
            api_key=key,
            api_key_name=options.name,
            ca_file=ca_file,
        ),
        make_default=options.make_default,
    )
    try:
        save(path, held)
    except ValueError as error:
        print(f"cumulus login: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    if options.json:
        shown = {key: info.get(key) for key in ("owner", "role", "server_version")}
        print_json({"profile": options.profile, "server_url": url, "path": str(path), **shown})
        return 0
    print(f"you are {info.get('owner')} ({info.get('role')}) at {url}")
    print(f"profile {options.profile!r} is in {path}")
    if held.default != options.profile:
        print(f"the default is {held.default!r}; use this one with --profile {options.profile}")
    return 0


def _url(options: argparse.Namespace, before: str | None) -> str:
    url = options.server
    if not url:
        if not sys.stdin.isatty() or options.api_key_stdin:
            raise UsageError("which daemon? Write: cumulus login --server-url http://HOST:50051")
        shown = f" [{before}]" if before else " (http://HOST:50051 or https://HOST)"
        url = _asked(lambda: input_on_stderr(f"The daemon's URL{shown}: ")) or before or ""
    try:
        return normalise_url(url)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _ca_file(options: argparse.Namespace, url: str, before: Profile | None) -> str | None:
    """By its whole path, so that it is found from everywhere."""
    given = options.ca_file or os.environ.get("CUMULUS_CA_FILE")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    if before is None or before.ca_file is None or before.server_url != url:
        return None
    return str(config_path().parent / Path(before.ca_file).expanduser())


def _key(options: argparse.Namespace, url: str) -> str | None:
    if options.api_key_stdin:
        key = sys.stdin.readline(_MAX_KEY).strip()
        if not key:
            raise UsageError("--api-key-stdin: nothing came on stdin")
        return key
    if not sys.stdin.isatty():
        # Nobody to ask; a daemon without tokens needs none.
        return None
    return _asked(lambda: getpass.getpass("Your API key (empty: none): ", sys.stderr)) or None


def input_on_stderr(prompt: str) -> str:
    """As `input`, with the prompt on stderr: stdout is for what programs read."""
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline(_MAX_KEY)
    if not line:
        raise EOFError
    return line


def _asked(ask: Callable[[], str]) -> str:
    try:
        return ask().strip()
    except EOFError:
        raise UsageError("nothing was answered; nothing is written") from None
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the prompt's line has no end
        raise


LOGIN = Verb(
    name="login",
    about="keep a daemon's URL and key in the configuration file",
    usage="cumulus login [--profile NAME] [--server-url URL] [--ca-file FILE] [--name NAME] "
    "[--api-key-stdin]",
    description="Asks for the daemon's URL and your key, tries them, and writes them as a profile "
    "into\n$XDG_CONFIG_HOME/cumulus/config.toml (~/.config without that), readable by you alone.",
    arguments=_arguments,
    act=_login,
)
