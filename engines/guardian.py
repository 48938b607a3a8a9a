"""The process that owns a cluster: it makes network and engines, and when it ends, all goes.

    python3 -m engines.guardian LAYOUT_JSON [--owned]

comes back once the engines are started; the guardian stays, with its parent, the *warden*. Whoever
of the two is killed, the other removes the cluster; the engines end with the guardian by the
kernel's doing. Should both be killed at once, the next maker of a cluster, or `script/swarm down`,
removes what they left (`sweep.sweep_dead`).

With --owned the cluster ends with the connection that said `own`: with the tests' process, say,
even when that is killed.

The control socket takes one JSON object a line and answers each with one line.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from engines import host, network, sweep
from engines.dns import Forwarder
from engines.engine import command, environment
from engines.layout import Layout, NodeLayout

__all__ = ["Guardian", "main"]

#: How long an owned cluster waits for its owner.
OWNER_TIMEOUT_S = 60.0
ENGINE_END_TIMEOUT_S = 15.0
_PR_SET_PDEATHSIG = 1


class Guardian:
    """Makes the cluster, answers on the control socket, until it is told to end."""

    def __init__(self, layout: Layout, owned: bool) -> None:
        self._layout = layout
        self._owned = owned
        self._has_owner = False
        self._engines: dict[str, subprocess.Popen[bytes]] = {}
        self._end: asyncio.Event = asyncio.Event()
        self._dns = Forwarder(layout.bridge_address)
        self._clients: set[asyncio.StreamWriter] = set()

    async def run(self, ready: int) -> None:
        """Tells `ready` (a pipe) once the engines are started; comes back when all shall end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end.set)
        with host.alone():
            host.prepare()
            network.make(self._layout)
        await self._dns.start()
        for node in self._layout.nodes:
            self._prepare_folder(node)
            self._start(node)
        server = await asyncio.start_unix_server(self._serve, str(self._layout.control))
        os.write(ready, b"ready\n")
        os.close(ready)
        if self._owned:
            loop.call_later(OWNER_TIMEOUT_S, self._check_owner)
        await self._end.wait()
        server.close()
        for node in self._layout.nodes:
            self._kill(node)
        await self._dns.close()
        for client in self._clients:
            client.close()

    def _check_owner(self) -> None:
        if not self._has_owner:
            print(f"nobody owned the cluster within {OWNER_TIMEOUT_S:g} s: it ends", flush=True)
            self._end.set()

    def _prepare_folder(self, node: NodeLayout) -> None:
        folder = self._layout.folder(node)
        for name in ("data", "run", "cumulus", "root"):
            (folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(f"nameserver {self._layout.bridge_address}\n")
        (folder / "daemon.json").write_text("{}\n")

    def _start(self, node: NodeLayout) -> None:
        running = self._engines.get(node.name)
        if running is not None and running.poll() is None:
            return
        self._layout.socket(node).unlink(missing_ok=True)
        with open(self._layout.folder(node) / "engine.log", "ab") as log:
            self._engines[node.name] = subprocess.Popen(
                command(self._layout, node),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(self._layout, os.environ),
                start_new_session=True,
            )

    def _kill(self, node: NodeLayout) -> None:
        """All of the node's processes at once, as when its power fails; back when none is left."""
        engine = self._engines[node.name]
        firsts = _children(engine.pid)
        try:
            engine.kill()
            engine.wait(ENGINE_END_TIMEOUT_S)
            # The kernel ends the first of a process namespace after all others in it.
            for first in firsts:
                if not select.select([first], [], [], ENGINE_END_TIMEOUT_S)[0]:
                    raise RuntimeError(f"processes of {node.name} live on after SIGKILL")
        finally:
            for first in firsts:
                os.close(first)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        owner = False
        try:
            while line := await reader.readline():
                try:
                    request = json.loads(line)
                    owner = owner or request.get("do") == "own"
                    answer = {"ok": self._obey(request)}
                except Exception as error:
                    traceback.print_exc()
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except OSError as error:
            print(f"control: {error!r}", flush=True)
        finally:
            self._clients.discard(writer)
            writer.close()
            if owner:
                print("the cluster's owner is gone: it ends", flush=True)
                self._end.set()

    def _obey(self, request: dict[str, Any]) -> Any:
        do = request["do"]
        if do == "own":
            self._has_owner = True
            return None
        if do == "down":
            self._end.set()
            return None
        if do == "status":
            return {name: engine.poll() for name, engine in self._engines.items()}
        node = self._layout.named(request["node"])
        if do == "start":
            self._start(node)
        elif do == "kill":
            self._kill(node)
        elif do in ("cut", "mend"):
            network.set_link(self._layout, node, up=do == "mend")
        else:
            raise ValueError(f"unknown request {do!r}")
        return None


def _children(pid: int) -> list[int]:
    """Descriptors of a process's children, each readable once its process has ended."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended, and they too
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found.append(os.pidfd_open(int(child)))
    return found


def end_with_parent(number: int) -> None:
    """The kernel sends this process the signal when its parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _guard(layout: Layout, owned: bool, ready: int, warden: int) -> int:
    """The guardian's life. Its exit code."""
    end_with_parent(signal.SIGTERM)
    if os.getppid() != warden:
        os.write(ready, b"the warden was killed\n")
        return 1
    try:
        asyncio.run(_run(layout, owned, ready))
    except Exception as error:
        traceback.print_exc()
        try:
            os.write(ready, f"{type(error).__name__}: {error}\n".encode())
        except OSError:
            pass  # it was told that all is ready; the log has the rest
        return 1
    return 0


async def _run(layout: Layout, owned: bool, ready: int) -> None:
    await Guardian(layout, owned).run(ready)


def _remove(layout: Layout) -> None:
    with host.alone():
        sweep.sweep(layout.tag, layout.base)
        sweep.forget(layout.tag)
        host.give_back()


def _watch(layout: Layout, owned: bool, ready: int) -> int:
    """The warden's life: waits for the guardian's end, then removes what is left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # it ends after the guardian, never before
    warden = os.getpid()
    guardian = os.fork()
    if guardian == 0:
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            code = _guard(layout, owned, ready, warden)
            if os.getppid() != warden:  # nobody is left to remove the rest
                _remove(layout)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(ready)
    os.waitpid(guardian, 0)
    _remove(layout)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m engines.guardian", description=__doc__)
    parser.add_argument("layout", help="a Layout as JSON")
    parser.add_argument("--owned", action="store_true")
    options = parser.parse_args(arguments)
    layout = Layout.from_json(options.layout)

    with host.alone():
        lock = host.claim(layout.tag)
        try:
            layout.base.mkdir(parents=True)
        except OSError as error:
            sweep.forget(layout.tag)
            print(f"{layout.base}: {error.strerror}", file=sys.stderr)
            return 1
        (layout.runtime / "base").write_text(str(layout.base))
    (layout.base / sweep.MARKER).write_text(layout.tag)
    (layout.base / "cluster.json").write_text(layout.to_json())

    told, ready = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.close(told)
        log = os.open(layout.base / "guardian.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir("/")
        code = 1
        try:
            code = _watch(layout, options.owned, ready)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(ready)
    os.close(lock)
    with os.fdopen(told, "r") as pipe:
        words = pipe.read().strip()
    if words != "ready":
        print(words or f"the guardian ended; see {layout.base}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
