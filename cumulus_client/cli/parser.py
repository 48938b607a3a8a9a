"""What the verbs' command lines share: their parser, and the options that most of them take."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn


class UsageError(Exception):
    """What was typed can't be done; the message says why and what to write instead."""


class Parser(argparse.ArgumentParser):
    """argparse's, with long options only as they are written, and a word on what was meant."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        unknown = re.match(r"unrecognized arguments: (.*)", message)
        if unknown:
            message = self._unknown(unknown[1])
        self.print_usage()
        self.exit(2, f"{self.prog}: {message}\n{self.prog}: `{self.prog} --help` shows more\n")

    def print_usage(self, file: Any = None) -> None:
        """To stderr: whoever reads stdout asked for no usage."""
        super().print_usage(sys.stderr if file is None else file)

    def _unknown(self, words: str) -> str:
        word = words.split()[0]
        if not word.startswith("-"):
            return f"{word!r} is too much: {self.prog} takes no more arguments"
        name = word.partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        return f"there is no option {name}{meant(name, known)}"


def meant(word: str, known: Iterable[str], *, before: str = "") -> str:
    """`; did you mean ...?` for what comes near, else ""."""
    known = list(known)
    bare = word.lstrip("-")
    starts = [each for each in known if len(bare) > 1 and each.lstrip("-").startswith(bare)]
    near = starts[:1] or difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {before}{near[0]}?" if near else ""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb: what it is for, its arguments, and what it does (the exit code).

    `words`: what follows the options is not argparse's; `act` finds it as `options.words`.
    """

    name: str
    about: str
    usage: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None]
    act: Callable[[argparse.Namespace], int]
    words: bool = False

    def parser(self) -> Parser:
        """The parser of what follows the verb."""
        parser = Parser(prog=f"cumulus {self.name}", usage=self.usage, description=self.description)
        self.arguments(parser)
        return parser

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The options of what follows the verb. Exits for wrong ones."""
        parser = self.parser()
        if not self.words:
            return parser.parse_args(argv)
        end = _end_of_options(parser, argv)
        options = parser.parse_args(argv[:end])
        options.words = argv[end:]
        return options


def _end_of_options(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Where the first word stands that is neither an option nor an option's value: from there on
    everything is the script's, as with `python script.py`."""
    takes_value = {
        option: action.nargs != 0 for action in parser._actions for option in action.option_strings
    }
    at = 0
    while at < len(argv):
        word = argv[at]
        if word == "--" or word == "-" or not word.startswith("-"):
            return at
        equals = "=" in word
        short = not word.startswith("--") and word[:2] in takes_value
        if word in takes_value:
            at += 2 if takes_value[word] else 1
        elif short and not equals and len(word) > 2 and not takes_value[word[:2]]:
            # Several in one: the last of them may take the next word.
            last = "-" + word[-1]
            at += 2 if takes_value.get(last, False) else 1
        else:
            at += 1  # with its value in it, or unknown: argparse says so
    return at


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which daemon, as whom."""
    group = parser.add_argument_group("the daemon")
    group.add_argument(
        "--profile", metavar="NAME",
        help="one of the configuration file's (default: CUMULUS_PROFILE, else its default_profile)",
    )  # fmt: skip
    group.add_argument(
        "--server", "--server-url", dest="server", metavar="URL",
        help="its URL (default: CUMULUS_SERVER_URL, else the profile's)",
    )  # fmt: skip
    group.add_argument(
        "--api-key", metavar="K",
        help="the key (default: CUMULUS_API_KEY, else the profile's; other users of this machine "
        "see what is written here, and those not)",
    )  # fmt: skip
    add_ca_file(group)


def add_ca_file(parser: argparse._ActionsContainer) -> None:
    """By which certificates an https daemon is known."""
    parser.add_argument(
        "--ca-file", metavar="FILE",
        help="a PEM file with the CA of an https daemon (default: CUMULUS_CA_FILE, else the "
        "profile's, else what this machine trusts)",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser, what: str = "as JSON, for programs") -> None:
    """`--json`: every line that the command itself writes to stdout is one JSON object."""
    parser.add_argument("--json", action="store_true", help=what)


def add_jobs(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Which job or jobs."""
    parser.add_argument(
        "jobs" if nargs else "job", metavar="JOB", nargs=nargs,
        help="a job's id, its unique beginning, or `last`: the one submitted last",
    )  # fmt: skip
