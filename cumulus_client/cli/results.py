"""`result` and `download`: what a job made."""

import argparse
import errno
from pathlib import Path, PurePosixPath

from cumulus_client.cli import values
from cumulus_client.cli.connecting import client_of, job_id, job_view
from cumulus_client.cli.displays import warn
from cumulus_client.cli.ends import show_end, show_value
from cumulus_client.cli.exits import EXIT_FAULT
from cumulus_client.cli.output import print_json, size_told
from cumulus_client.cli.parser import UsageError, Verb, add_jobs, add_json, add_server, meant
from cumulus_client.exceptions import ClientTimeout
from cumulus_wire.states import JobState


def _result_arguments(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser)
    parser.add_argument(
        "--timeout", type=values.duration, metavar="T",
        help="how long to wait for the job's end (default: as long as it takes); exit code 69",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no [cumulus] lines")
    add_server(parser)


def _result(options: argparse.Namespace) -> int:
    if options.timeout == 0:
        raise UsageError("--timeout must be over 0 s; leave it out to wait as long as it takes")
    with client_of(options) as client:
        found = job_id(client, options.job)
        job = client.attach(found)
        try:
            status = job.wait(options.timeout)
        except ClientTimeout as error:
            error.hint = f"wait longer, or end it with: cumulus cancel {found}"
            raise
        if status != JobState.COMPLETED:
            return show_end(job.view(), quiet=options.quiet)
        if (job.view().get("end") or {}).get("result") is None:
            if not options.quiet:
                warn(f"job {found} has no value: it ran a script (see `cumulus logs {found}`)")
            return 0
        value = job.result()
    return 0 if show_value(value) else EXIT_FAULT


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="which of its outputs (default: all)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(), metavar="DIR",
        help="where to put them; it is made (default: this folder)",
    )  # fmt: skip
    parser.add_argument(
        "-l", "--list", action="store_true", help="only tell which there are, with their sizes"
    )
    add_json(parser, "each output as JSON, one a line: name, size_bytes, sha256, and its path here")
    parser.add_argument("-q", "--quiet", action="store_true", help="no [cumulus] lines")
    add_server(parser)


def _download(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        view = job_view(client, options.job)
        job = client.attach(str(view["job_id"]))
        outputs = {str(each["name"]): each for each in job.outputs()}
        for name in options.names:
            if name not in outputs:
                some = meant(name, outputs) or (
                    "; there are: " + ", ".join(outputs) if outputs else "; it has none"
                )
                raise UsageError(f"job {job.job_id} has no output {name!r}{some}")
        if not outputs and not options.quiet:
            warn(_why_none(view))
        for name in options.names or outputs:
            shown = dict(outputs[name])
            if not options.list:
                path = placed(options.output, name)
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    job.download(name, path)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no wrong usage
                        raise OSError(error.errno, error.strerror, str(path)) from error
                    raise UsageError(
                        f"{path} can't be written: {error.strerror or error}"
                    ) from error
                shown["path"] = str(path)
            if options.json:
                print_json(shown)
            elif options.list:
                print(f"{size_told(shown['size_bytes']):>10}  {name}")
            else:
                print(shown["path"], flush=True)
    return 0


def placed(folder: Path, name: str) -> Path:
    """Where the output `name` goes, in `folder` whatever the job called it. Raises UsageError."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise UsageError(f"the output {name!r} would not be in {folder}")
    return folder.joinpath(*parts)


def _why_none(view: dict[str, object]) -> str:
    status = str(view["status"])
    if not JobState(status).ended:
        return f"job {view['job_id']} is {status}: its outputs are there when it has ended"
    end = view.get("end")
    note = end.get("outputs_note") if isinstance(end, dict) else None
    said = f": {note}" if note else "; a job leaves them in the folder CUMULUS_OUTPUT_DIR"
    return f"job {view['job_id']} left no outputs{said}"


RESULT = Verb(
    name="result",
    about="wait for a function's value and print it as JSON",
    usage="cumulus result [options] JOB",
    description="Waits for the job's end and prints its function's value as one line of JSON. "
    "A failed job's exit code is as of `cumulus run`.\nCtrl-C ends the waiting, never the job.",
    arguments=_result_arguments,
    act=_result,
)
DOWNLOAD = Verb(
    name="download",
    about="fetch the files that a job left",
    usage="cumulus download [options] JOB [NAME ...]",
    description="Fetches what an ended job left in its CUMULUS_OUTPUT_DIR, verified, and prints "
    "where it is.",
    arguments=_download_arguments,
    act=_download,
)
