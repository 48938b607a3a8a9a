"""`jobs`, `cancel`, `pause`, `resume`, `delete`."""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

from cumulus_client._wording import COMMAND_LINE, end_told
from cumulus_client.cli import values
from cumulus_client.cli.connecting import client_of, job_id, job_view
from cumulus_client.cli.displays import warn
from cumulus_client.cli.exits import EXIT_FAULT
from cumulus_client.cli.output import (
    duration_told,
    print_json,
    print_table,
    ran_s,
    share_told,
    size_told,
    time_told,
)
from cumulus_client.cli.parser import UsageError, Verb, add_jobs, add_json, add_server
from cumulus_client.client import CumulusClient
from cumulus_client.exceptions import Conflict, NotFound
from cumulus_wire.states import ENDED

_HEADS = ("JOB", "NAME", "STATUS", "AGE", "RAN", "SHARE", "WORKER", "NOTE")


def _jobs_arguments(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser, "*")
    parser.add_argument("-a", "--active", action="store_true", help="only those not ended yet")
    parser.add_argument(
        "-n", "--limit", type=values.count, default=50, metavar="N",
        help="at most so many, the newest (default 50)",
    )  # fmt: skip
    add_json(parser, "each job's view as JSON, one a line")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the ids")
    add_server(parser)


def _jobs(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        if options.jobs:
            views = [job_view(client, named) for named in options.jobs]
        else:
            views = client.list_jobs(active=options.active, limit=options.limit)
    now = time.time()
    if options.quiet:
        for view in views:
            print(view["job_id"])
    elif options.json:
        for view in views:
            print_json(view)
    elif options.jobs:
        print("\n\n".join("\n".join(described(view, now)) for view in views))
    else:
        print_table(_HEADS, [row(view, now) for view in views], names="NAME")
    return 0


def row(view: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """One job's line in the table. `now`: unix seconds."""
    ran = ran_s(view, now)
    return (
        str(view["job_id"]),
        str(view.get("name") or ""),
        _status(view),
        duration_told(now - view["created_at"]) if view.get("created_at") else "",
        "" if ran is None else duration_told(ran),
        share_told(view),
        str((view.get("worker") or {}).get("hostname") or ""),
        _note(view).partition("\n")[0],
    )


def _status(view: Mapping[str, Any]) -> str:
    status = str(view.get("status"))
    return f"{status}, pausing" if view.get("pause_requested") and status == "running" else status


def _note(view: Mapping[str, Any]) -> str:
    """Why it waits, how far it is, or how it failed."""
    wait = view.get("wait") or {}
    if wait:
        return str(wait.get("message") or wait.get("reason") or "")
    progress = view.get("progress") or {}
    if progress and view.get("status") not in ENDED:
        fraction = progress.get("fraction")
        share = f"{fraction:.0%} " if isinstance(fraction, int | float) else ""
        return f"{share}{progress.get('message') or ''}".strip()
    if (view.get("end") or {}).get("reason"):
        return end_told(view, COMMAND_LINE)[0]
    return ""


def described(view: Mapping[str, Any], now: float) -> list[str]:
    """All that matters of one job, a line each."""
    end, partition = view.get("end") or {}, view.get("partition") or {}
    ran, worker = ran_s(view, now), view.get("worker") or {}
    message, hint = end_told(view, COMMAND_LINE) if end.get("reason") else ("", None)
    outputs, checkpoints = end.get("outputs") or [], view.get("checkpoints") or []
    lines = [
        ("job", view["job_id"]),
        ("name", view.get("name")),
        ("owner", view.get("owner")),
        ("status", _status(view)),
        ("waits", (view.get("wait") or {}).get("message")),
        ("progress", _note(view) if view.get("progress") and not end else None),
        ("submitted", time_told(view.get("created_at"))),
        ("started", time_told(view.get("started_at"))),
        ("ended", time_told(view.get("completed_at"))),
        ("ran", None if ran is None else duration_told(ran)),
        ("may run", duration_told(view["duration_s"]) if view.get("duration_s") else None),
        ("share", share_told(view)),
        ("worker", worker.get("hostname")),
        ("device", partition.get("device_name")),
        ("held by", partition.get("tier_note") or partition.get("tier")),
        ("attempt", _attempt(view)),
        ("secrets", ", ".join(view.get("secret_names") or ())),
        ("paused", time_told(view.get("paused_at"))),
        *(("checkpoint", _checkpoint(each)) for each in checkpoints),
        ("reason", end.get("reason")),
        ("message", message),
        ("hint", hint),
        ("exit code", end.get("exit_code")),
        ("result", size_told(end["result"]["size_bytes"]) if end.get("result") else None),
        *(("output", f"{each['name']} ({size_told(each['size_bytes'])})") for each in outputs),
    ]
    return [f"{key:11} {_indented(value)}" for key, value in lines if value not in (None, "", 0)]


def _checkpoint(checkpoint: Mapping[str, Any]) -> str:
    at = time_told(checkpoint.get("timestamp"))
    where = " on S3" if checkpoint.get("s3_key") else ""
    return f"{checkpoint.get('filename')} (epoch {checkpoint.get('epoch')}, {at}{where})"


def _attempt(view: Mapping[str, Any]) -> str | None:
    attempt, retries = view.get("attempt") or 1, view.get("retries")
    return f"{attempt} of {retries + 1}" if retries else None


def _indented(value: Any) -> str:
    return str(value).replace("\n", "\n" + 12 * " ")


# --- asking something of jobs -----------------------------------------------------------------


def _each(
    options: argparse.Namespace, ask: Callable[[CumulusClient, str], Mapping[str, Any]]
) -> int:
    """Asks it of every job named; the others are asked too where one can't be."""
    code = 0
    with client_of(options) as client:
        found: list[str] = []
        for named in options.jobs:
            try:
                found.append(job_id(client, named))
            except UsageError as error:
                warn(str(error))
                code = 2
        for each in dict.fromkeys(found):
            try:
                answer = ask(client, each)
            except (Conflict, NotFound) as error:
                warn(error.text(COMMAND_LINE))
                code = code or EXIT_FAULT
                continue
            if options.json:
                print_json({"job_id": each, **answer})
            else:
                print(each, flush=True)
                if answer.get("message") and not options.quiet:
                    warn(f"job {each}: {answer['message']}")
    return code


def _ask_arguments(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser, "+")
    add_json(parser, "one JSON object for each job")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the ids")
    add_server(parser)


def _cancel(options: argparse.Namespace) -> int:
    def ask(client: CumulusClient, each: str) -> Mapping[str, Any]:
        if client.cancel_job(each):
            return {"cancelled": True}
        status = client.get_job_status(each)["status"]
        return {"cancelled": False, "message": f"it had ended already: {status}"}

    return _each(options, ask)


def _pause(options: argparse.Namespace) -> int:
    return _each(options, lambda client, each: client.pause_job(each))


def _resume(options: argparse.Namespace) -> int:
    return _each(options, lambda client, each: client.resume_job(each))


def _delete(options: argparse.Namespace) -> int:
    return _each(options, lambda client, each: client.delete_job(each))


JOBS = Verb(
    name="jobs",
    about="list jobs, or tell all about some",
    usage="cumulus jobs [options] [JOB ...]",
    description="Your jobs, newest first (an administrator's: everybody's). With JOB: all about "
    "those.",
    arguments=_jobs_arguments,
    act=_jobs,
)
CANCEL = Verb(
    name="cancel",
    about="end jobs",
    usage="cumulus cancel [options] JOB ...",
    description="Ends jobs, queued or running, and prints their ids. One that has ended already "
    "is no fault.\n\nAll that have not ended: cumulus cancel $(cumulus jobs -aq)",
    arguments=_ask_arguments,
    act=_cancel,
)
PAUSE = Verb(
    name="pause",
    about="ask jobs to save a checkpoint and make room",
    usage="cumulus pause [options] JOB ...",
    description="Asks the jobs' code to save a checkpoint and end: their shares are free until "
    "`cumulus resume`.\nCode that never asks `runtime.should_pause()` runs on.",
    arguments=_ask_arguments,
    act=_pause,
)
RESUME = Verb(
    name="resume",
    about="queue paused jobs again",
    usage="cumulus resume [options] JOB ...",
    description="Queues paused jobs again under their ids; they go on from their checkpoints.",
    arguments=_ask_arguments,
    act=_resume,
)
DELETE = Verb(
    name="delete",
    about="remove ended jobs with all they left",
    usage="cumulus delete [options] JOB ...",
    description="Removes ended jobs with their output, results, files and checkpoints, before "
    "history would.",
    arguments=_ask_arguments,
    act=_delete,
)
