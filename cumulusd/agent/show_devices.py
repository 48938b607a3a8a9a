"""The devices of this worker as its agent numbers them: `python3 -m cumulusd.agent.show_devices`.

What sets a worker up runs it in the agent's image, so that the resources that the engine advertises
are those that jobs will ask for. One line of JSON on stdout: `{"devices": [{"index", "device_id",
"name", "kind", "memory_bytes"}], "reason": why there are none, or null}`. Exit code 1 when the
drivers gave no answer; stderr says why.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from cumulusd.agent.settings import SettingsError, read_options
from cumulusd.chronos.devices import Discovered
from cumulusd.chronos.discovery import Discovery, DiscoveryFailed

# sysexits.h
EXIT_CONFIG = 78


def as_json(found: Discovered) -> str:
    """What is printed."""
    devices = [
        {
            "index": device.index,
            "device_id": device.device_id,
            "name": device.name,
            "kind": device.kind,
            "memory_bytes": device.memory_bytes,
        }
        for device in sorted(found.devices.values(), key=lambda one: one.index)
    ]
    return json.dumps({"devices": devices, "reason": found.reason or found.failed})


def main(environ: Mapping[str, str] | None = None) -> None:
    """Looks once; always ends in SystemExit."""
    try:
        options = read_options(os.environ if environ is None else environ)
    except SettingsError as error:
        sys.stderr.write(f"cumulus agent: {error}\n")
        raise SystemExit(EXIT_CONFIG) from None

    def run(reactor: Any) -> Deferred[None]:
        discovery = Discovery(
            reactor,
            selection=options.selection,
            timeout_s=options.discovery_timeout_s,
            python=options.discovery_python,
        )
        return Deferred.fromCoroutine(_look(discovery))

    react(run)


async def _look(discovery: Discovery) -> None:
    try:
        found = await discovery.look()
    except DiscoveryFailed as error:
        sys.stderr.write(f"cumulus agent: {error}\n")
        raise SystemExit(1) from None
    sys.stdout.write(as_json(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
