"""`run` and `submit`: what is to run, with which options."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cumulus_client._options import make_spec
from cumulus_client.cli import values
from cumulus_client.cli.connecting import client_of
from cumulus_client.cli.displays import make_display, warn
from cumulus_client.cli.ends import show_end, show_value
from cumulus_client.cli.exits import EXIT_FAULT
from cumulus_client.cli.output import print_json
from cumulus_client.cli.parser import Verb, add_json, add_server
from cumulus_client.cli.requirements_files import read_requirements
from cumulus_client.cli.targets import function_package, path_package
from cumulus_client.packaging import Package
from cumulus_wire.states import JobState

_WHAT = """\
what can run:
  script.py [-- args]        a script with the local modules that it imports
  folder [-- args]           a whole folder, to run the __main__.py or main.py in it
  -m module:function [-- 3 name=Ada 'sizes=[1,2]']
                             a function of a module that is found here; its arguments are JSON, or
                             text where they are none; its value is printed as JSON
Everything after the script is the script's, as with python; `--` may stand between.
"""
_CODES = """\
exit code: the job's own; 124 it timed out, 130 it was cancelled, 128+n a signal ended it, 2 wrong
usage, 69 no daemon, no worker, or another fault that is not the job's.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", dest="function", metavar="MODULE:FUNCTION", help="run this function, not a script"
    )
    job = parser.add_argument_group("the job")
    job.add_argument(
        "--gpu-memory", type=values.share, default=0.5, metavar="F",
        help="share of one GPU's memory: 0.25 or 25%% (default 0.5)",
    )  # fmt: skip
    job.add_argument(
        "--duration", type=values.duration, default=3600.0, metavar="T",
        help="how long it may run: 90, 90s, 15m, 2h (default 1h)",
    )  # fmt: skip
    job.add_argument(
        "-r", dest="requirements_files", action="append", default=[], metavar="FILE", type=Path,
        help="a requirements.txt; may be given more than once, as may all that follow up to --file",
    )  # fmt: skip
    job.add_argument(
        "--with", "--requirement", dest="requirements", action="append", default=[], metavar="R",
        help="one requirement, as for pip",
    )  # fmt: skip
    job.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="an environment variable of the job, by default with the value it has here",
    )  # fmt: skip
    job.add_argument(
        "--env-file", action="append", default=[], metavar="FILE", type=Path,
        help="a file of such lines",
    )  # fmt: skip
    job.add_argument(
        "--secret", action="append", default=[], metavar="NAME[@FILE]",
        help="a variable that is never stored or shown: with the value it has here, or a file's "
        "content. NAME=VALUE works, but other users of this machine can read the value",
    )  # fmt: skip
    job.add_argument(
        "--file", dest="files", action="append", default=[], metavar="[NAME=]PATH",
        help="a file or folder to take along, under NAME in the job's folder",
    )  # fmt: skip
    job.add_argument("--name", metavar="N", help="what the job is called (default: the script)")
    job.add_argument(
        "--cpu", type=values.cores, metavar="N", help="processor cores (default: the daemon's)"
    )
    job.add_argument(
        "--memory", type=values.size, metavar="SIZE",
        help="main memory: 8GiB, 512M (default: the daemon's)",
    )  # fmt: skip
    job.add_argument(
        "--queue-timeout", type=values.duration, metavar="T",
        help="how long it may wait for a free share; 0 fails rather than waits (default: ever)",
    )  # fmt: skip
    job.add_argument(
        "--setup-timeout", type=values.duration, default=600.0, metavar="T",
        help="how long installing the requirements may take (default 10m)",
    )  # fmt: skip
    job.add_argument(
        "--priority", type=int, default=0, metavar="N", help="higher ones start first (default 0)"
    )
    job.add_argument(
        "--retries", type=int, default=0, metavar="N",
        help="how often to run it again when its worker fails, never for its own fault (default 0)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no [cumulus] lines")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", "--detach", action="store_true",
        help="return at once and print the job's id, as `cumulus submit` does",
    )  # fmt: skip
    _arguments(parser)
    add_json(parser, "a last line on stdout: the job's end as JSON")
    add_server(parser)


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", "--detach", action="store_true", help="what it does anyway, as with docker"
    )
    _arguments(parser)
    add_json(parser)
    add_server(parser)


def _run(options: argparse.Namespace) -> int:
    if options.detach:
        return _submit(options)
    asked = _asked(options)
    display = make_display(quiet=options.quiet, fresh=True)
    with client_of(options) as client:
        view, collector = client._follow(asked.package, asked.spec, None, display)
        value_told = True
        if asked.has_value and view.get("status") == JobState.COMPLETED:
            display.end_stdout_line()
            value_told = show_value(client._call(client._core.value(view, collector)))
    code = show_end(view, quiet=options.quiet)
    if options.json:
        end = view.get("end") or {}
        shown = {"job_id": view["job_id"], "status": view["status"], "returncode": code}
        display.end_stdout_line()
        shown |= {key: end.get(key) for key in ("reason", "message", "hint", "exit_code", "signal")}
        print_json(shown)
    return code if value_told else code or EXIT_FAULT


def _submit(options: argparse.Namespace) -> int:
    asked = _asked(options)
    with client_of(options) as client:
        job_id = client._submit_package(asked.package, asked.spec, None).job_id
    if options.json:
        print_json({"job_id": job_id})
    else:
        print(job_id, flush=True)
    if not options.quiet and sys.stderr.isatty():
        warn(f"its output: cumulus logs -f {job_id}")
    return 0


class _Asked:
    """What is to run."""

    def __init__(self, package: Package, spec: dict[str, Any], *, has_value: bool) -> None:
        self.package = package
        self.spec = spec
        self.has_value = has_value


def _asked(options: argparse.Namespace) -> _Asked:
    words: list[str] = options.words
    requirements = list(options.requirements)
    for path in options.requirements_files:
        requirements += read_requirements(path, _named="-r")
    secrets, visible = values.secrets(options.secret)
    if visible:
        warn(
            f"--secret {visible[0]}=...: other users of this machine can read its value in the "
            f"list of processes; `--secret {visible[0]}` takes it from the environment, "
            f"{visible[0]}@FILE from a file"
        )
    asked: dict[str, Any] = {
        "gpu_memory": options.gpu_memory,
        "duration": options.duration,
        "requirements": requirements,
        "name": options.name,
        "env": values.environment(options.env, options.env_file),
        "queue_timeout": options.queue_timeout,
        "setup_timeout": options.setup_timeout,
        "priority": options.priority,
        "retries": options.retries,
        "secrets": secrets,
        "cpu": options.cpu,
        "memory": options.memory,
    }
    files = values.files(options.files)
    if options.function is not None:
        package = function_package(options.function, words, files)
        asked["name"] = options.name or options.function
    else:
        package = path_package(words, files)
        asked["name"] = options.name or package.name
    return _Asked(package, make_spec(**asked), has_value=options.function is not None)


RUN = Verb(
    name="run",
    about="run a script or function and show its output",
    usage="cumulus run [options] script.py|folder [-- args ...]\n"
    "       cumulus run [options] -m module:function [-- args ...]",
    description="Runs it on a worker. The job's stdout and stderr are this command's, its exit "
    "code too.\nCtrl-C, SIGTERM and SIGHUP cancel the job; after a second Ctrl-C nobody waits "
    "for its end.\n\n"
    f"{_WHAT}\n{_CODES}",
    arguments=_run_arguments,
    act=_run,
    words=True,
)
SUBMIT = Verb(
    name="submit",
    about="queue a script or function, print the job's id and return",
    usage="cumulus submit [options] script.py|folder [-- args ...]\n"
    "       cumulus submit [options] -m module:function [-- args ...]",
    description="Returns once the daemon holds the job durably: this machine may go. See it with "
    f"`cumulus jobs`,\n`cumulus logs -f JOB` and `cumulus attach JOB`.\n\n{_WHAT}",
    arguments=_submit_arguments,
    act=_submit,
    words=True,
)
