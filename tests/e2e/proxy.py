"""A TCP proxy before a daemon: it counts connections, cuts them, or lets them go silent."""

import socket
import threading
from typing import Self

_CHUNK_BYTES = 65536


class Proxy:
    """Listens on a loopback port of its own. Threads, so that it works while a test waits."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self.carried_bytes = 0  #: both ways
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def cut(self) -> None:
        """Every connection ends, for both sides."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in (one for pair in pairs for one in pair):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was quicker

    def silence(self) -> None:
        """Those that are open carry nothing any more, and nobody is told; new ones work."""
        with self._lock:
            self._silent.update(one for pair in self._pairs for one in pair)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port), 5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._pairs.append((near, far))
            left = threading.Semaphore(1)
            self._start(self._pump, near, far, left)
            self._start(self._pump, far, near, left)

    def _pump(
        self, source: socket.socket, target: socket.socket, left: threading.Semaphore
    ) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                if source not in self._silent:
                    target.sendall(data)
                    with self._lock:
                        self.carried_bytes += len(data)
        except OSError:
            pass  # cut
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if not left.acquire(blocking=False):  # the other pump has ended, too
            source.close()
            target.close()
