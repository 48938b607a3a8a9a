"""`cumulusd doctor`: checks a configuration against this machine and the running engine."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from cumulusd.config import Config, ConfigError, load_config
from cumulusd.config_file import Fault
from cumulusd.doctor.finding import Finding, as_json, fault, is_well, told
from cumulusd.exits import EXIT_FAULT

Told = Callable[[Finding], None]


def add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command; `arguments.looks` gives the exit code."""
    doctor = commands.add_parser(
        "doctor",
        help="check a configuration against this machine and the running engine",
        description="Checks a configuration against this machine, the running engine and the "
        "daemon, which may run or be stopped: one line each (ok, warning, fault, not known), with "
        "what to do. Changes nothing (but for --probe). Run it on the daemon's machine, as root or "
        "as the daemon's user. Exit code 0: there is no fault, 1: there is one.",
    )
    doctor.add_argument("--config", "-c", required=True, metavar="FILE", dest="file")
    doctor.add_argument("--json", action="store_true", help="as one JSON object")
    doctor.add_argument(
        "--probe",
        action="store_true",
        help="also run a container of the job image on each worker of the Swarm, which does "
        "nothing and is removed: the Swarm's API doesn't tell what images workers have",
    )
    doctor.set_defaults(
        looks=lambda given: run_doctor(given.file, json_wanted=given.json, probe=given.probe)
    )


def run_doctor(path: str, *, json_wanted: bool = False, probe: bool = False) -> int:
    """Reports on stdout."""

    def tell(finding: Finding) -> None:
        if not json_wanted:
            sys.stdout.write("\n".join(told(finding)) + "\n")
            sys.stdout.flush()

    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        findings = [_config_fault(path, each) for each in error.faults]
        for finding in findings:
            tell(finding)
    else:
        findings = _examined(config, tell, probe)
    if json_wanted:
        sys.stdout.write(json.dumps(as_json(findings), indent=1) + "\n")
    return 0 if is_well(findings) else EXIT_FAULT


def _examined(config: Config, tell: Told, probe: bool) -> list[Finding]:
    """Runs a reactor for it: once in a process."""
    # Only here: the other commands go without a reactor.
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from cumulusd.doctor.examination import examine

    findings: list[Finding] = []

    def heard(finding: Finding) -> None:
        findings.append(finding)
        tell(finding)

    def run(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(examine(config, reactor, heard, probe=probe))

    try:
        react(run)
    except SystemExit as ended:  # how `react` returns
        if ended.code:
            raise
    return findings


def _config_fault(path: str, each: Fault) -> Finding:
    where = path if each.line is None else f"{path}:{each.line}"
    key = f"{each.key}: " if each.key else ""
    return fault("configuration", f"{where}: {key}{each.message}", "mend it first")
