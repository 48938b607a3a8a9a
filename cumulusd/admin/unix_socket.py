"""The admin socket: a unix socket of mode 0600, and who is at its other end, by the kernel's word.

Linux only, as the daemon. Paths longer than a socket's address are taken by way of their folder.
"""

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import tcp, unix
from twisted.internet.error import CannotListenError

from cumulusd.errors import InternalError, Unavailable
from cumulusd.state_file import locked

BACKLOG = 16
MODE = 0o600
MAX_ADDRESS_BYTES = 100


@attrs.frozen(kw_only=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    uid: int
    pid: int

    def __str__(self) -> str:
        return f"uid {self.uid} (process {self.pid})"


class AdminPort(unix.Port):
    """Twisted's port, with a file that is ours alone while it listens."""

    def __init__(self, path: Path, factory: Any, reactor: Any) -> None:
        """Nothing listens yet."""
        self._path = path
        self._inode = 0
        self._folder = _open_folder(path)
        address = _address(path, self._folder)
        super().__init__(os.fsencode(address), factory, BACKLOG, MODE, reactor)

    def startListening(self) -> None:
        """Listens from now on; a dead daemon's file is replaced.

        Raises Unavailable when somebody listens there, InternalError when it can't be had.
        """
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            with locked(lock, f"the admin socket {self._path}"):
                _clear(self._path)
                before = os.umask(0o777 & ~MODE)  # at no moment may others connect
                try:
                    super().startListening()  # type: ignore[no-untyped-call]
                finally:
                    os.umask(before)
                self._inode = os.lstat(self._path).st_ino
        except Unavailable:
            os.close(self._folder)
            raise
        except (OSError, CannotListenError) as error:
            os.close(self._folder)
            why = error.socketError if isinstance(error, CannotListenError) else error
            raise InternalError(
                f"the admin socket {self._path} can't be made: {why}",
                hint="check the rights on its folder, or set `admin_socket` to another path",
            ) from error

    def connectionLost(self, reason: Any) -> None:
        """It listens no more. Twisted takes the file away whosever it is, and fails without."""
        try:
            ours = os.lstat(self._path).st_ino == self._inode
        except OSError:
            ours = False
        try:
            if ours:
                super().connectionLost(reason)  # type: ignore[no-untyped-call]
            else:
                tcp.Port.connectionLost(self, reason)  # type: ignore[no-untyped-call]
        finally:
            os.close(self._folder)


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A blocking socket that is connected to whoever listens at `path`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
            connection.connect(str(path))
        else:
            folder = _open_folder(path)
            try:
                connection.connect(_address(path, folder))
            finally:
                os.close(folder)
    except BaseException:
        connection.close()
        raise
    return connection


def peer_of(connection: socket.socket) -> Peer:
    """Who connected."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return Peer(uid=uid, pid=pid)


def _clear(path: Path) -> None:
    """Removes what a dead daemon left. Raises Unavailable, OSError."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "something that is no socket is there")
    try:
        connect(path, 1.0).close()
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except FileNotFoundError:
        return
    except TimeoutError:
        pass  # somebody listens, and is busy
    raise Unavailable(
        f"somebody listens on the admin socket {path} already",
        hint="is another cumulusd running on this state_dir? Stop it, or set `admin_socket`",
    )


def _open_folder(path: Path) -> int:
    return os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _address(path: Path, folder: int) -> str:
    """What bind and connect take for that path: an address holds 107 bytes. `folder`: its folder,
    open for as long as the address is used."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        return str(path)
    return f"/proc/self/fd/{folder}/{path.name}"
