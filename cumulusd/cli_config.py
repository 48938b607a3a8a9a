"""`cumulusd check-config` and `show-config`: what is in a configuration file, and what is wrong."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from cumulusd.certificates import expiry_told
from cumulusd.config import Config, ConfigError, load_config, load_with_lines, warnings
from cumulusd.config_shown import as_json, as_text, shown
from cumulusd.exits import EXIT_CONFIG
from cumulusd.tls import SCHEME, load_certificate, parse_listener


def add_config(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands; `arguments.looks` gives the exit code."""
    check = commands.add_parser(
        "check-config",
        help="report every fault of a configuration",
        description="Reports every fault of a configuration file with its line. Exit code 0 when "
        "there is none, 78 otherwise. Tokens named by environment variables are looked up.",
    )
    check.add_argument("file", metavar="FILE")
    check.set_defaults(looks=lambda arguments: check_config(arguments.file))
    show = commands.add_parser(
        "show-config",
        help="show every value that counts, and where it comes from",
        description="Shows every value of a configuration, defaults included, and where it comes "
        "from: the line of the file, an environment variable, the default. What is secret, or may "
        "hold a secret, is not shown. Exit code 0, or 78 when the configuration has faults.",
    )
    show.add_argument("file", metavar="FILE")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    show.set_defaults(looks=lambda arguments: show_config(arguments.file, arguments.json))


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
    for warning in (*warnings(config), *expiries(config, time.time())):
        sys.stderr.write(f"{path}: warning: {warning}\n")
    return 0


def show_config(path: str, json_wanted: bool) -> int:
    """Reports on stdout, or the faults on stderr."""
    try:
        values = shown(load_with_lines(path, os.environ), os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    if json_wanted:
        sys.stdout.write(json.dumps(as_json(path, values), indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(as_text(values)) + "\n")
    return 0


def expiries(config: Config, now: float) -> list[str]:
    """What is to be said of certificates that have expired, or soon will. `now`: unix seconds."""
    told = []
    for one in config.listen:
        if one.startswith(SCHEME):
            listener = parse_listener(one, Path.cwd())  # its paths are absolute by now
            told.append(expiry_told(listener, load_certificate(listener).expires_at, now))
    return [one for one in told if one is not None]


def _tokens(config: Config) -> str:
    if config.tokens_made:
        return f"{len(config.tokens)} here, and those of `cumulusd token list`"
    return str(len(config.tokens) or "none: open to this machine")
