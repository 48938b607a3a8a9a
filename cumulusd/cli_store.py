"""`cumulusd store backup|check|salvage`: a copy of what the daemon keeps, and the way out when it
refuses its checkpoint."""

import argparse
import os
import sys
import time
import uuid
from pathlib import Path

from cumulusd.backup import back_up
from cumulusd.config import ConfigError, load_config
from cumulusd.errors import CumulusError
from cumulusd.exits import EXIT_CONFIG, EXIT_DAMAGED, EXIT_UNAVAILABLE
from cumulusd.jobs.salvage import StoreReport, examine, salvage
from cumulusd.jobs.store_file import store_path

#: Jobs and journals named on the terminal; more are counted.
_MAX_NAMED = 50


def add_store(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `store` and its verbs."""
    store = commands.add_parser(
        "store",
        help="back up what the daemon keeps; check its checkpoint, and save what a damaged one has",
        description="The checkpoint is `jobs.sqlite3` in the configuration's state_dir. The daemon "
        "must be stopped, except for a backup.",
    )
    verbs = store.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser(
        "check",
        help="say what it holds and what is wrong with it; changes nothing",
        description="Exit code 0 when the daemon starts on it, 65 when it is damaged, 69 when it "
        "can't be looked at.",
    )
    check.set_defaults(run=_check)
    save = verbs.add_parser(
        "salvage",
        help="put a sound store with all that can be read in the place of a damaged one",
        description="The damaged files are moved aside, never deleted. Says what was lost. Exit "
        "code 0 when the daemon starts on what is there now, 69 when it can't be done.",
    )
    save.add_argument(
        "--instance-id",
        metavar="UUID",
        type=_instance_id,
        help="when the file has lost it: the daemon's instance id, or `new`",
    )
    save.set_defaults(run=_salvage)
    backup = verbs.add_parser(
        "backup",
        help="copy all that the daemon keeps into a new folder; it may be running",
        description="The copy can take the state_dir's place as it is. Left out: what is of this "
        "machine and moment, as the folders of running jobs. It holds secrets: keep it so.",
    )
    backup.add_argument("folder", metavar="FOLDER", type=Path, help="is made; must not be there")
    backup.set_defaults(run=_backup)
    for verb in (check, save, backup):
        verb.add_argument("--config", "-c", required=True, metavar="FILE", dest="file")


def run_store(arguments: argparse.Namespace) -> int:
    """The exit code."""
    try:
        config = load_config(arguments.file, os.environ)
        code: int = arguments.run(config.state_dir, arguments)
        return code
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except CumulusError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"cumulusd: {error.message}{hint}\n")
    except OSError as error:
        sys.stderr.write(f"cumulusd: {error}; the store was not changed\n")
    return EXIT_UNAVAILABLE


def _instance_id(text: str) -> str:
    return str(uuid.uuid4() if text == "new" else uuid.UUID(text))


def _backup(state_dir: Path, arguments: argparse.Namespace) -> int:
    made = back_up(state_dir, arguments.folder.absolute())
    sys.stdout.write(
        f"{arguments.folder}: {made.jobs} job(s) and {made.files} file(s), "
        f"{made.size_bytes / 1e6:.1f} MB\n"
    )
    return 0


def _check(state_dir: Path, arguments: argparse.Namespace) -> int:
    path = store_path(state_dir)
    report = examine(path)
    _tell(path, report)
    if report.sound:
        sys.stdout.write("It is sound.\n")
        return 0
    _tell_losses(state_dir, report)
    sys.stdout.write(
        "It is damaged: `cumulusd store salvage --config FILE` moves it aside and keeps what can "
        "be read.\n"
    )
    return EXIT_DAMAGED


def _salvage(state_dir: Path, arguments: argparse.Namespace) -> int:
    path = store_path(state_dir)
    done = salvage(path, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), arguments.instance_id)
    _tell(path, done.report)
    if not done.aside:
        sys.stdout.write("It is sound: nothing was changed.\n")
        return 0
    _tell_losses(state_dir, done.report)
    sys.stdout.write(f"{path} now holds the {len(done.report.records)} job(s) that can be read.\n")
    for kept in done.aside:
        sys.stdout.write(f"What was there is kept as {kept}\n")
    return 0


def _tell(path: Path, report: StoreReport) -> None:
    live = sum(record.end is None for record in report.records)
    sys.stdout.write(
        f"{path}: {len(report.records)} job(s) can be read, {live} of them not ended\n"
        f"  instance id {report.instance_id or 'lost'}\n"
    )
    for fault in report.faults:
        sys.stdout.write(f"  fault: {fault}\n")


def _tell_losses(state_dir: Path, report: StoreReport) -> None:
    """What is lost, by the names that the index and the journals' folders still give."""
    known = {record.job_id for record in report.records}
    journals = state_dir / "journals"
    names = sorted(os.listdir(journals)) if journals.is_dir() else []
    orphans = [name for name in names if name not in known and not name.startswith(".")]
    for job_id, why in sorted(report.lost.items())[:_MAX_NAMED]:
        sys.stdout.write(f"  lost: job {job_id}: {why}\n")
    for job_id in [name for name in orphans if name not in report.lost][:_MAX_NAMED]:
        sys.stdout.write(
            f"  lost: job {job_id}: it has a journal in {journals / job_id}, but no record\n"
        )
    lost = len(report.lost.keys() | set(orphans))
    if lost:
        sys.stdout.write(
            f"  {lost} lost job(s) known by name. A lost job that still runs is ended when the "
            "daemon starts, as nobody's.\n"
        )
