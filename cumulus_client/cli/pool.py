"""`workers`, `info`, `doctor`: the daemon and what it has."""

import argparse
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cumulus_client import doctor
from cumulus_client._wording import COMMAND_LINE
from cumulus_client.cli.connecting import client_of
from cumulus_client.cli.exits import EXIT_FAULT
from cumulus_client.cli.output import print_json, print_table, size_told
from cumulus_client.cli.parser import Verb, add_json, add_server
from cumulus_client.client import CumulusClient
from cumulus_client.exceptions import CumulusError
from cumulus_client.gpu_check import check_shares

_HEADS = ("WORKER", "STATE", "DEVICE", "MEMORY", "FREE", "TIER", "NOTE")


def _server_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_server(parser)


def _workers_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "each worker as JSON, one a line")
    add_server(parser)


def _workers(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        workers = client.list_workers()
    if options.json:
        for worker in workers:
            print_json(worker)
        return 0
    print_table(_HEADS, itertools.chain.from_iterable(map(rows, workers)), names="DEVICE")
    return 0


def rows(worker: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A worker's lines in the table: one for each of its devices."""
    name = str(worker.get("hostname") or worker.get("node_id"))
    usable = bool(worker.get("usable"))
    state = "ready" if usable else str(worker.get("state"))
    if not usable and worker.get("state") == "ready":
        state = "away" if worker.get("agent") != "present" else str(worker.get("availability"))
        state = "faulty" if state == "active" else state
    fault = str(worker.get("fault") or worker.get("discovery_error") or "")
    devices = worker.get("devices") or []
    if not devices:
        return [(name, state, "none", "", "", "", fault)]
    return [
        (
            name,
            state,
            str(device.get("name")),
            size_told(device["memory_bytes"]),
            f"{100 * device['units_free'] / device['units_total']:g}%",
            str(device.get("tier")),
            fault or str(device.get("tier_note") or ""),
        )
        for device in devices
    ]


def _info(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        info = client.get_server_info()
    if options.json:
        print_json(info)
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


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu", action="store_true",
        help="also run a job on each device that takes memory until it is refused: is a job held "
        "to its share? It needs 60 %% of each device to be free",
    )  # fmt: skip
    _server_arguments(parser)


def _doctor(options: argparse.Namespace) -> int:
    findings = []
    with client_of(options) as client:
        looks = doctor.examine(client, doctor.client_version())
        for found in itertools.chain(looks, _gpu_findings(client, options.gpu)):
            finding = _in_options(found)
            findings.append(finding)
            if not options.json:
                print("\n".join(doctor.told(finding)), flush=True)
    if options.json:
        print_json(doctor.as_json(findings))
    return 0 if all(finding.ok for finding in findings) else EXIT_FAULT


def _in_options(finding: doctor.Finding) -> doctor.Finding:
    """What is told to Python's users, in the command line's names."""
    advice = finding.advice
    return replace(
        finding,
        said=COMMAND_LINE.phrased(finding.said),
        advice=None if advice is None else COMMAND_LINE.phrased(advice),
    )


def _gpu_findings(client: CumulusClient, wanted: bool) -> Iterator[doctor.Finding]:
    """Nothing where the daemon doesn't answer: that was found before."""
    if not wanted:
        return
    try:
        workers = client.list_workers()
    except CumulusError:
        return
    yield from check_shares(client, workers)


WORKERS = Verb(
    name="workers",
    about="list workers and their devices",
    usage="cumulus workers [options]",
    description="The pool's workers, one line for each device: how much of it is free, and what "
    "holds jobs to their shares.",
    arguments=_workers_arguments,
    act=_workers,
)
INFO = Verb(
    name="info",
    about="show the daemon, who you are to it, and its devices",
    usage="cumulus info [options]",
    description="The daemon, who you are to it, and its devices.",
    arguments=_server_arguments,
    act=_info,
)
DOCTOR = Verb(
    name="doctor",
    about="check connection, token, version and workers",
    usage="cumulus doctor [options]",
    description="Checks connection, token, version and workers: one line each, with what to do "
    "about a fault.\nExit code 0: all is well, 1: there is a fault.",
    arguments=_doctor_arguments,
    act=_doctor,
)
