"""The command `cumulus`: finds the verb, and turns what goes wrong into words and exit codes."""

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from cumulus_client._blocking import Interrupted
from cumulus_client._wording import COMMAND_LINE
from cumulus_client.cli import jobs, login, logs, pool, results, running
from cumulus_client.cli.completion import completion_verb
from cumulus_client.cli.exits import (
    EXIT_CANCELLED,
    EXIT_FAULT,
    EXIT_UNREAD,
    EXIT_USAGE,
    error_code,
)
from cumulus_client.cli.parser import UsageError, Verb, meant
from cumulus_client.doctor import client_version
from cumulus_client.exceptions import CumulusError

#: `timeout` signals its command and then the group that it is in: the same signal again within
#: this time is no second one.
ONE_SIGNAL_S = 0.3
VERBS: dict[str, Verb] = {}
_GROUPS = {
    "run": (running.RUN, running.SUBMIT),
    "follow": (jobs.JOBS, logs.LOGS, logs.ATTACH, results.RESULT, results.DOWNLOAD),
    "steer": (jobs.CANCEL, jobs.PAUSE, jobs.RESUME, jobs.DELETE),
    "the pool": (pool.WORKERS, pool.INFO, pool.DOCTOR),
    "this machine": (login.LOGIN, completion_verb(VERBS)),
}
VERBS.update({verb.name: verb for group in _GROUPS.values() for verb in group})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    try:
        with _ending_signals_interrupt():
            return _act(words)
    except Interrupted as error:
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_CANCELLED
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EIO:
            where = f"{error.filename}: " if error.filename else ""
            print(f"cumulus: {where}{error.strerror or error}", file=sys.stderr)
            _leave_unwritten()
            return EXIT_FAULT
        _leave_unwritten()
        # A run is cancelled when nobody reads it; everything else merely ends.
        return EXIT_CANCELLED if words[:1] == ["run"] else EXIT_UNREAD


def _open_closed_streams() -> None:
    """Python has None for a standard stream that its parent closed (`>&-`)."""
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _leave_unwritten() -> None:
    """What stdout still holds goes nowhere: the interpreter's last flush must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _act(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[1] in VERBS:
            VERBS[words[1]].parser().print_help()
            return 0
        print(_help(), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else EXIT_USAGE
    if words[0] == "--version":
        print(f"cumulus {client_version() or '(not installed)'}")
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        return _wrong(words[0], words)
    options = verb.parse(words[1:])
    try:
        code = verb.act(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"cumulus {verb.name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except CumulusError as error:
        print(f"cumulus {verb.name}: {error.text(COMMAND_LINE)}", file=sys.stderr)
        return error_code(error)


def _wrong(word: str, words: Sequence[str]) -> int:
    if word.startswith("-"):
        known = next((each for each in words if each in VERBS), None)
        said = f"options stand after the verb: cumulus {known or 'VERB'} {word} ..."
    else:
        is_file = os.path.isfile(word)
        suggestion = "; did you mean: cumulus run " + word if is_file else meant(word, VERBS)
        said = f"there is no verb {word!r}{suggestion or '; `cumulus --help` lists them'}"
    print(f"cumulus: {said}", file=sys.stderr)
    return EXIT_USAGE


def _help() -> str:
    lines = ["usage: cumulus VERB [options] ...", "", "Runs Python on a pool of GPU workers."]
    for title, group in _GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {verb.name:10}  {verb.about}" for verb in group]
    lines += [
        "",
        "`cumulus VERB --help` tells a verb's options. Daemon and key are named by options, by",
        "CUMULUS_SERVER_URL, CUMULUS_API_KEY and CUMULUS_PROFILE, or by what `cumulus login` kept.",
    ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _ending_signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP do what Ctrl-C does. Those that are ignored (nohup) stay so."""

    last: dict[int, float] = {}

    def interrupt(number: int, frame: object) -> None:
        now = time.monotonic()
        if now - last.get(number, float("-inf")) < ONE_SIGNAL_S:
            return
        last[number] = now
        raise Interrupted(signal.Signals(number).name, 128 + number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
