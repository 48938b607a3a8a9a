"""script/swarm up [--nodes N] [--workers K] | down | status [--json]

Keeps one throwaway Swarm of real Docker engines on this machine, each in namespaces of its own, and
writes var/swarm/cumulusd.yaml, on which the daemon starts as it is. Beside it client.token and
admin.token hold the tokens. `down` leaves nothing of it.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from engines.cluster import ClusterError
from engines.commands import ToolError
from engines.docker_api import DockerError
from engines.kept import PORT, Kept
from engines.layout import MAX_NODES
from engines.packages import PackageError, install_missing

_ROOT = Path(__file__).resolve().parents[1]
#: Exit code of `status` when there is no Swarm, and when something is wrong with it.
NOT_UP = 3


def say(text: str) -> None:
    print(f"swarm: {text}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/swarm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=_ROOT / "var/swarm", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=PORT, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it, or look whether all of it is there")
    up.add_argument("--nodes", type=int, default=3, help=f"engines, 1 to {MAX_NODES} (default: 3)")
    up.add_argument(
        "--workers", type=int, help="of them GPU workers (default: all but the manager)"
    )
    # For script/demo: as `up`, says `ready`, and `down` when stdin ends, with whoever held it.
    hold = commands.add_parser("hold")
    hold.set_defaults(nodes=3, workers=2)
    commands.add_parser("down", help="remove all of it")
    status = commands.add_parser("status", help="exit code 0: all well; 3: not up, or not well")
    status.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.command == "up":
        if options.workers is None:
            options.workers = max(options.nodes - 1, 0)
        if not 1 <= options.nodes <= MAX_NODES or not 0 <= options.workers <= options.nodes:
            parser.error(
                f"--nodes takes 1 to {MAX_NODES}, --workers 0 to as many as there are nodes"
            )
    return options


def run(options: argparse.Namespace) -> int:
    kept = Kept(options.folder.absolute(), say, options.port)
    if options.command == "up":
        install_missing()
        cluster = kept.up(options.nodes, options.workers)
        say(f"{len(cluster.layout.nodes)} engines are up; the manager: unix://{cluster.endpoint}")
        say(f"start the daemon: .venv/bin/twistd -n cumulusd --config {kept.folder}/cumulusd.yaml")
        say(f"a client's: http://127.0.0.1:{PORT}, the token in {kept.folder}/client.token")
        return 0
    if options.command == "hold":
        install_missing()
        try:
            with kept.up(options.nodes, options.workers, owned=True):
                print("ready", flush=True)
                sys.stdin.buffer.read()
        finally:
            kept.down()
        return 0
    if options.command == "down":
        say("nothing is left of it" if kept.down() else "there was none")
        return 0
    status = kept.status()
    if options.json:
        print(json.dumps(status, indent=2))
    elif not status["up"]:
        print("no Swarm is up; start one: script/swarm up")
    else:
        for node in status["nodes"]:
            words = (node["name"], node["address"], node["engine"], node["swarm"])
            kind = "GPU worker" if node["worker"] else ""
            print("{:10} {:15} {:10} {:8} {}".format(*words, kind))
        print(f"engine     {status['endpoint']}")
        print(
            f"daemon     {status['url']} {'listens' if status['daemon_listens'] else 'is not up'}"
        )
        if status["fault"]:
            print(f"fault      {status['fault']}")
    return 0 if status.get("well") else NOT_UP


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # what was begun is undone on the way out


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if os.geteuid() != 0:
        say("this needs root: it makes network namespaces and starts Docker engines")
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return run(options)
    except (ClusterError, DockerError, PackageError, ToolError, RuntimeError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
