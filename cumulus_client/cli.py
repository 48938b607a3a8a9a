"""The command `cumulus`.

Exit codes of `cumulus run`: the job's own; 124 the job timed out, 130 cancelled or Ctrl-C, 143
SIGTERM, 129 SIGHUP, 2 wrong usage, 69 no daemon, no worker, or a fault that is not the job's. Of
`cumulus doctor`: 0 all is well, 1 it found a fault.
"""

import argparse
import contextlib
import errno
import itertools
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cumulus_client import doctor
from cumulus_client._blocking import Interrupted
from cumulus_client._wording import COMMAND_LINE, end_told
from cumulus_client.client import CumulusClient
from cumulus_client.display import PREFIX, Display
from cumulus_client.exceptions import CumulusError, InvalidArgument, PackagingError
from cumulus_client.gpu_check import check_shares
from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState

DEFAULT_SERVER_URL = "http://127.0.0.1:50051"

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_TIMEOUT = 124
EXIT_CANCELLED = 130

#: Ends that are the job's own doing; every other failure is the infrastructure's.
_OWN_REASONS = frozenset(
    {
        EndReason.USER_ERROR,
        EndReason.EXIT_CODE,
        EndReason.SIGNALLED,
        EndReason.OUT_OF_MEMORY,
        EndReason.DISK_FULL,
        EndReason.PROCESS_LIMIT,
        EndReason.RESULT_INVALID,
        EndReason.REQUIREMENTS_FAILED,
        EndReason.ENTRY_POINT_MISSING,
    }
)
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class UsageError(Exception):
    """What was typed can't be done; the message says why."""


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1h30m`. Raises ArgumentTypeError."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90, 90s, 15m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_share(text: str) -> float:
    """A number; which ones are allowed is for the daemon to say. Raises ArgumentTypeError."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not math.isfinite(share):
        raise argparse.ArgumentTypeError(f"{text!r} is no share of a GPU's memory such as 0.5")
    return share


def parse_environment(pairs: Sequence[str]) -> dict[str, str]:
    """`K=V` pairs. Raises UsageError."""
    environment = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--env {pair!r} is not of the form NAME=VALUE")
        environment[key] = value
    return environment


def read_requirements(path: Path, _from: tuple[Path, ...] = ()) -> list[str]:
    """The requirements of a requirements.txt; `-r` lines are followed. Raises UsageError."""
    # Made absolute, not resolved: `-r <(command)` is a link that leads to no path.
    path = Path(os.path.abspath(path))
    if path in _from:
        raise UsageError(f"{path} includes itself")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the requirements file {path} can't be read: {error}") from error
    found: list[str] = []
    joined = re.sub(r"\\\r?\n", lambda match: " " + "\x00", text)
    number = 0
    for joined_line in joined.split("\n"):
        number += 1
        start, number = number, number + joined_line.count("\x00")
        line = re.sub(r"(^|\s)#.*$", "", joined_line.replace("\x00", "")).strip()
        if not line:
            continue
        included = re.fullmatch(r"(?:-r|--requirement)[\s=]*(.+)", line)
        if included:
            inner = path.parent / included.group(1).strip()
            found += read_requirements(inner, (*_from, path))
        elif line.startswith("-"):
            raise UsageError(
                f"{path}, line {start}: the option {line.split()[0]!r} is not supported; "
                "only requirements and -r are"
            )
        else:
            found.append(line)
    return found


def exit_code(view: Mapping[str, Any]) -> int:
    """What `cumulus run` exits with for an ended job."""
    status = view.get("status")
    end = view.get("end") or {}
    if status == JobState.COMPLETED:
        return 0
    if status == JobState.TIMEOUT:
        return EXIT_TIMEOUT
    if status == JobState.CANCELLED:
        return EXIT_CANCELLED
    if end.get("reason") not in _OWN_REASONS:
        return EXIT_UNAVAILABLE
    if end.get("exit_code"):
        return int(end["exit_code"]) & 0xFF or 1
    if end.get("signal"):
        return 128 + int(end["signal"])
    return 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="cumulus", description="Run Python on a pool of GPU workers."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    run = verbs.add_parser(
        "run",
        help="run a script and show its output",
        usage="cumulus run [options] script.py [-- args ...]",
        description="Runs a script on a worker, with the local modules that it imports. The "
        "job's stdout and stderr are this command's; its exit code too (124: the job timed "
        "out, 130: cancelled, 2: wrong usage, 69: no daemon, no worker, or another fault that "
        "is not the job's). Ctrl-C, SIGTERM and SIGHUP cancel the job.",
    )
    run.add_argument(
        "--gpu-memory", type=parse_share, default=0.5, metavar="F",
        help="share of one GPU's memory, 0 < F <= 1 (default 0.5)",
    )  # fmt: skip
    run.add_argument(
        "--duration", type=parse_duration, default=3600.0, metavar="T",
        help="how long it may run: 90, 90s, 15m, 2h (default 1h)",
    )  # fmt: skip
    run.add_argument(
        "-r", dest="requirements_files", action="append", default=[], metavar="FILE", type=Path,
        help="a requirements.txt; may be given more than once",
    )  # fmt: skip
    run.add_argument(
        "--requirement", dest="requirements", action="append", default=[], metavar="R",
        help="one requirement, as for pip; may be given more than once",
    )  # fmt: skip
    run.add_argument("--name", metavar="N", help="what the job is called (default: the script)")
    run.add_argument(
        "--env", action="append", default=[], metavar="K=V",
        help="an environment variable of the job; may be given more than once",
    )  # fmt: skip
    run.add_argument(
        "--queue-timeout", type=parse_duration, metavar="T",
        help="how long it may wait for a free share; 0 fails rather than waits (default: ever)",
    )  # fmt: skip
    run.add_argument(
        "--setup-timeout", type=parse_duration, default=600.0, metavar="T",
        help="how long installing the requirements may take (default 10m)",
    )  # fmt: skip
    run.add_argument(
        "--priority", type=int, default=0, metavar="N", help="higher ones start first (default 0)"
    )
    run.add_argument(
        "--retries", type=int, default=0, metavar="N",
        help="how often to run it again when its worker fails, never for its own fault (default 0)",
    )  # fmt: skip
    run.add_argument("-q", "--quiet", action="store_true", help="no [cumulus] lines")
    run.add_argument(
        "--json", action="store_true", help="a last line on stdout: the job's end as JSON"
    )
    _add_server(run)
    run.add_argument("script", type=Path, metavar="script.py")
    rest = run.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- args", help="the script's arguments"
    )
    rest.required = False  # Python 3.11 demands it
    info = verbs.add_parser("info", help="show the daemon and its devices")
    info.add_argument("--json", action="store_true", help="as JSON")
    _add_server(info)
    check = verbs.add_parser(
        "doctor",
        help="check connection, token, version and workers",
        description="Checks connection, token, version and workers: one line each, with what to do "
        "about a fault. Exit code 0: all is well, 1: there is a fault.",
    )
    check.add_argument("--json", action="store_true", help="as JSON")
    check.add_argument(
        "--gpu", action="store_true",
        help="also run a job on each device that takes memory until it is refused: is a job held "
        "to its share? It needs 60 %% of each device to be free",
    )  # fmt: skip
    _add_server(check)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", metavar="URL",
        help=f"the daemon (default: CUMULUS_SERVER_URL, else {DEFAULT_SERVER_URL})",
    )  # fmt: skip
    parser.add_argument(
        "--api-key", metavar="K",
        help="the token (default: CUMULUS_API_KEY, which other users of this machine don't see)",
    )  # fmt: skip


def _client(options: argparse.Namespace) -> CumulusClient:
    url = options.server or os.environ.get("CUMULUS_SERVER_URL") or DEFAULT_SERVER_URL
    key = options.api_key or os.environ.get("CUMULUS_API_KEY") or None
    try:
        return CumulusClient(url, key)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _run(options: argparse.Namespace) -> int:
    script: Path = options.script
    if script.is_dir():
        raise UsageError(f"{str(script)!r} is a folder: name the script in it that is to run")
    if not script.is_file():
        raise UsageError(f"there is no script {str(script)!r}")
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    requirements = list(options.requirements)
    for path in options.requirements_files:
        requirements += read_requirements(path)
    environment = parse_environment(options.env)
    display = Display(quiet=options.quiet, raw=True)
    with _client(options) as client:
        view = client.run_script(
            script,
            argv,
            display=display,
            gpu_memory=options.gpu_memory,
            duration=options.duration,
            requirements=requirements,
            name=options.name or script.name,
            env=environment,
            queue_timeout=options.queue_timeout,
            setup_timeout=options.setup_timeout,
            priority=options.priority,
            retries=options.retries,
        )
    code = exit_code(view)
    end = view.get("end") or {}
    error = end.get("error")
    if error:
        # What Python itself would have written, had the script run here.
        print(str(error["traceback"]).rstrip(), file=sys.stderr)
    own = end.get("reason") in (EndReason.USER_ERROR, EndReason.EXIT_CODE)
    if code and view.get("status") != JobState.CANCELLED and not (own and options.quiet):
        said, hint = end_told(view, COMMAND_LINE)
        also = f" ({hint})" if hint else ""
        print(f"{PREFIX}job {view['job_id']} {view['status']}: {said}{also}", file=sys.stderr)
    if options.json:
        shown = {"job_id": view["job_id"], "status": view["status"], "returncode": code}
        shown |= {key: end.get(key) for key in ("reason", "message", "hint", "exit_code", "signal")}
        print(json.dumps(shown), flush=True)
    return code


def _info(options: argparse.Namespace) -> int:
    with _client(options) as client:
        info = client.get_server_info()
    if options.json:
        print(json.dumps(info, indent=2))
        return 0
    print(f"server     {client.server_url}, version {info.get('server_version')}")
    print(f"platform   {info.get('platform')}")
    print(f"you are    {info.get('owner')} ({info.get('role')})")
    most = info.get("max_concurrent_jobs")
    print(f"jobs       {info.get('active_jobs')} active{'' if most is None else f' of {most}'}")
    devices = info.get("gpu_devices") or []
    for device in devices:
        print(f"device     {device.get('id')}: {device.get('name')} ({device.get('type')})")
    if not devices:
        print("device     none")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    findings = []
    with _client(options) as client:
        looks = doctor.examine(client, doctor.client_version())
        for finding in itertools.chain(looks, _gpu_findings(client, options.gpu)):
            findings.append(finding)
            if not options.json:
                print("\n".join(doctor.told(finding)), flush=True)
    if options.json:
        print(json.dumps(doctor.as_json(findings), indent=2))
    return 0 if all(finding.ok for finding in findings) else EXIT_FAULT


def _gpu_findings(client: CumulusClient, wanted: bool) -> Iterator[doctor.Finding]:
    """Nothing where the daemon doesn't answer: that was found before."""
    if not wanted:
        return
    try:
        workers = client.list_workers()
    except CumulusError:
        return
    yield from check_shares(client, workers)


_VERBS = {"run": _run, "info": _info, "doctor": _doctor}


@contextlib.contextmanager
def ending_signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP do what Ctrl-C does. Those that are ignored (nohup) stay so."""

    def interrupt(number: int, frame: object) -> None:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    options = build_parser().parse_args(argv)
    try:
        with ending_signals_interrupt():
            return _VERBS[options.verb](options)
    except UsageError as error:
        print(f"cumulus {options.verb}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except CumulusError as error:
        print(f"cumulus {options.verb}: {error.text(COMMAND_LINE)}", file=sys.stderr)
        usage = isinstance(error, PackagingError | InvalidArgument)
        return EXIT_USAGE if usage else EXIT_UNAVAILABLE
    except Interrupted as error:
        return error.exit_code
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, OSError):
            if not isinstance(error, BrokenPipeError) and error.errno != errno.EIO:
                raise
            # Whoever read stdout is gone; the interpreter's last flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_CANCELLED


if __name__ == "__main__":
    sys.exit(main())
