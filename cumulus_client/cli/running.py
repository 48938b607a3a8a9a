"""`run` and `submit`: what is to run, with which options."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cumulus_client._options import make_spec
from cumulus_client.cli import values
from cumulus_client.cli.connecting import client_of
from cumulus_client.cli.displays import make_display, warn
from cumulus_client.cli.ends import show_end, show_value
from cumulus_client.cli.exits import EXIT_FAULT
from cumulus_client.cli.output import print_json
from cumulus_client.cli.parser import UsageError, Verb, add_json, add_server, meant
from cumulus_client.cli.requirements_files import read_requirements
from cumulus_client.packaging import Package, package_function, package_script
from cumulus_wire.states import JobState

_WHAT = """\
what can run:
  script.py [-- args]        a script with the local modules that it imports
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
            value_told = show_value(client._call(client._core.value(view, collector)))
    code = show_end(view, quiet=options.quiet)
    if options.json:
        end = view.get("end") or {}
        shown = {"job_id": view["job_id"], "status": view["status"], "returncode": code}
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
    more = {} if files is None else {"files": files}
    if options.function is not None:
        args, kwargs = call_arguments(words[1:] if words[:1] == ["--"] else words)
        function = find_function(options.function)
        _fits(options.function, function, args, kwargs)
        package = package_function(function, args, kwargs, **more)
        asked["name"] = options.name or options.function
    else:
        path, argv = _script(words)
        package = package_script(path, argv, **more)
        asked["name"] = options.name or path.name
    return _Asked(package, make_spec(**asked), has_value=options.function is not None)


# --- what is to run ---------------------------------------------------------------------------


def _script(words: Sequence[str]) -> tuple[Path, list[str]]:
    words = list(words[1:] if words[:1] == ["--"] else words)
    if not words:
        raise UsageError("what is to run? Write: cumulus run script.py")
    named, argv = words[0], words[1:]
    argv = argv[1:] if argv[:1] == ["--"] else argv
    path = Path(named)
    if path.is_dir():
        raise UsageError(f"{named!r} is a folder: name the script in it that is to run")
    if not path.exists():
        raise UsageError(f"there is no script {named!r}{_instead(path, named)}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"the script {named!r} may not be read: see its permissions")
    if path.suffix == ".ipynb":
        raise UsageError(
            f"{named!r} is a notebook: write it as a script (jupyter nbconvert --to script), or "
            "call client.run(...) in it"
        )
    return path, argv


def _instead(path: Path, named: str) -> str:
    module, colon, function = named.partition(":")
    if colon and module and function.isidentifier():
        return f"; for a function of a module write: cumulus run -m {named}"
    try:
        beside = [each.name for each in path.parent.iterdir() if each.suffix == ".py"]
    except OSError:
        return f"; there is no folder {str(path.parent)!r} either"
    folder = "" if path.parent == Path() else f"{path.parent}/"
    return meant(path.name, beside, before=folder)


def call_arguments(words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """A function's arguments: `name=value` by name, others by position; each is JSON, or the text
    itself where it is none. Raises UsageError."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            if name in kwargs:
                raise UsageError(f"the argument {name} is given twice")
            kwargs[name] = _json_or_text(value)
        elif kwargs:
            raise UsageError(f"{word!r} comes after arguments with a name; put it before them")
        else:
            args.append(_json_or_text(word))
    return args, kwargs


def _json_or_text(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def find_function(named: str) -> Any:
    """The function of `module:function`; the module is imported, from this folder first. Raises
    UsageError."""
    module_name, colon, name = named.partition(":")
    if not colon or not module_name or not name:
        raise UsageError(f"-m {named!r} is not of the form module:function")
    if module_name.endswith(".py") and Path(module_name).is_file():
        right = ".".join(Path(module_name).with_suffix("").parts)
        raise UsageError(f"-m wants a module, not a file: -m {right}:{name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own module raises
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        if missing:
            beside = [each.stem for each in Path().glob("*.py")]
            raise UsageError(
                f"there is no module {module_name!r} here{meant(module_name, beside)}"
            ) from None
        raise UsageError(
            f"the module {module_name!r} can't be imported here: {_where(error)}"
            f"{type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            callables = [each for each in dir(found) if not each.startswith("_")]
            raise UsageError(f"the module {module_name!r} has no {name!r}{meant(part, callables)}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{named} is no function, but {type(found).__name__}")
    return getattr(found, "func", found)  # what @remote made has its function in it


def _where(error: BaseException) -> str:
    """Where in the user's code it was raised."""
    at = error.__traceback__
    said = ""
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        if not file.startswith("<") and os.path.dirname(importlib.__file__) not in file:
            said = f"{file}, line {at.tb_lineno}: "
        at = at.tb_next
    return "" if said.startswith(__file__) else said


def _fits(named: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    from cumulus_client._options import bind

    try:
        bind("run", function, list(args), dict(kwargs))
    except TypeError as error:
        raise UsageError(f"{named}: {error}") from None


RUN = Verb(
    name="run",
    about="run a script or function and show its output",
    usage="cumulus run [options] script.py [-- args ...]\n"
    "       cumulus run [options] -m module:function [-- args ...]",
    description="Runs it on a worker. The job's stdout and stderr are this command's, its exit "
    "code too.\nCtrl-C, SIGTERM and SIGHUP cancel the job; a second Ctrl-C leaves it running.\n\n"
    f"{_WHAT}\n{_CODES}",
    arguments=_run_arguments,
    act=_run,
    words=True,
)
SUBMIT = Verb(
    name="submit",
    about="queue a script or function, print the job's id and return",
    usage="cumulus submit [options] script.py [-- args ...]\n"
    "       cumulus submit [options] -m module:function [-- args ...]",
    description="Returns once the daemon holds the job durably: this machine may go. See it with "
    f"`cumulus jobs`,\n`cumulus logs -f JOB` and `cumulus attach JOB`.\n\n{_WHAT}",
    arguments=_submit_arguments,
    act=_submit,
    words=True,
)
