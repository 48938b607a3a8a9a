"""The limit for bulk data: the same messages in the same frames from one process to another, hashed
on both sides and written to a file, and nothing else.

Run as `python -m bench.parts.framing FILE [sync]`: listens, says its port, takes one stream of
WebSocket frames with CBOR messages `[type, id, {}, [], {"offset", "data"}]` until an empty one, and
answers with the SHA-256 of what came.
"""

import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import cbor2

from bench.parts.errors import BenchError

ROOT = Path(__file__).parents[2]
CHUNK_BYTES = 512 << 10
WAIT_S = 120.0
_HEAD = struct.Struct("!BBQI")
#: One frame, binary, masked by a key of zeros, as clients may.
_BINARY, _MASKED_64 = 0x82, 0x80 | 127
COMMAND = (
    f"WebSocket frames with CBOR messages of {CHUNK_BYTES >> 10} KiB over loopback, one process to "
    "another, SHA-256 on both sides, written to a file (bench/parts/framing.py)"
)


def framed_mb_s(source: Path, target: Path, *, sync: bool) -> float:
    """Sends a file and has it taken: MB/s, from the first byte read to the hash answered. `sync`:
    it is on disk then."""
    receiver = subprocess.Popen(
        [sys.executable, "-m", "bench.parts.framing", str(target), *["sync"] * sync],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert receiver.stdout is not None
    try:
        with receiver.stdout as said:
            port = int(said.readline())
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
                begun = time.perf_counter()
                digest = _send(source, connection)
                answer = connection.recv(1024).decode()
                took_s = time.perf_counter() - begun
        if answer != digest:
            raise BenchError(f"the bare loop's file is another one: {answer!r}, not {digest!r}")
        return source.stat().st_size / 1e6 / took_s
    finally:
        try:
            receiver.wait(10)
        except subprocess.TimeoutExpired:
            receiver.kill()
            receiver.wait()
        target.unlink(missing_ok=True)


def _send(source: Path, connection: socket.socket) -> str:
    digest, offset = hashlib.sha256(), 0
    with open(source, "rb", buffering=0) as file:
        while True:
            data = file.read(CHUNK_BYTES)
            digest.update(data)
            payload = cbor2.dumps([48, 1, {}, [], {"offset": offset, "data": data}])
            connection.sendall(_HEAD.pack(_BINARY, _MASKED_64, len(payload), 0))
            connection.sendall(payload)
            if not data:
                return digest.hexdigest()
            offset += len(data)


def receive(target: Path, sync: bool) -> None:
    """The other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    digest = hashlib.sha256()
    with connection, open(target, "wb", buffering=0) as file, connection.makefile("rb") as frames:
        connection.settimeout(WAIT_S)
        while True:
            _, _, size, _ = _HEAD.unpack(frames.read(_HEAD.size))
            data = cbor2.loads(frames.read(size))[4]["data"]
            if not data:
                break
            digest.update(data)
            file.write(data)
        if sync:
            os.fsync(file.fileno())
        connection.sendall(digest.hexdigest().encode())


if __name__ == "__main__":
    receive(Path(sys.argv[1]), sync="sync" in sys.argv[2:])
