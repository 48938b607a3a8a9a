"""TLS listeners of a real daemon: what they speak, and how certificates are renewed."""

import shutil
import socket
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.authority import Authority
from tests.security.daemons import TOKENS, GuardedDaemon, bearer, hang_up, raw, request

MakeGuarded = Callable[..., GuardedDaemon]
DAY_S = 86_400.0


def listener(folder: Path, files: tuple[Path, Path]) -> str:
    """A description, on files of its own that can be replaced."""
    folder.mkdir(exist_ok=True)
    install(folder, files)
    return f"ssl:{{port}}:interface=127.0.0.1:privateKey={folder}/k.pem:certKey={folder}/c.pem"


def install(folder: Path, files: tuple[Path, Path]) -> None:
    for source, name in zip(files, ("c.pem", "k.pem"), strict=True):
        shutil.copy(source, folder / name)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.path))


def serial(port: int, context: ssl.SSLContext) -> str:
    """Of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as there,
    ):
        certificate = there.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def until(done: Callable[[], bool], daemon: GuardedDaemon) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, daemon.log_text()[-3000:]
        time.sleep(0.05)


def test_it_speaks_tls_1_2_and_newer_with_forward_secrecy(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    daemon = make_guarded(listener(tmp_path / "tls", authority.issue("daemon"))).start()
    port = daemon.second_port
    ask = request("GET", "/api/info", host=f"127.0.0.1:{port}", authorization=bearer("client"))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(authority)
        context.minimum_version = context.maximum_version = version
        status, _, body = raw("127.0.0.1", port, ask, context)
        assert status == 200, body
    old = trusting(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what is tried
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    weak = trusting(authority)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")  # CBC
    for context in (old, weak):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            serial(port, context)
    assert serial(port, trusting(authority)), "it goes on"
    # Plain HTTP spoken to it gets no answer, and no part of the log is a traceback.
    assert raw("127.0.0.1", port, request("GET", "/health", host="x"))[0] == 0
    assert daemon.get("/health")[0] == 200
    assert "Traceback" not in daemon.log_text()


def test_a_renewed_certificate_counts_for_new_connections_and_a_broken_one_never(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "tls"
    daemon = make_guarded(listener(folder, authority.issue("first", days=90))).start()
    port, context = daemon.second_port, trusting(authority)
    first = serial(port, context)
    (expiry,) = daemon.metric("cumulus_tls_certificate_expires_timestamp_seconds")
    assert abs(expiry - time.time() - 90 * DAY_S) < DAY_S
    assert "expires in" not in daemon.log_text()
    ask = request("GET", "/api/info", host=f"127.0.0.1:{port}", authorization=bearer("client"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as open_one,
    ):
        install(folder, authority.issue("second", days=7))
        hang_up(daemon)
        until(lambda: serial(port, context) != first, daemon)
        second = serial(port, context)
        until(lambda: "expires in 7.0 days: renew it" in daemon.log_text(), daemon)
        (expiry,) = daemon.metric("cumulus_tls_certificate_expires_timestamp_seconds")
        assert abs(expiry - time.time() - 7 * DAY_S) < DAY_S
        # A key that isn't the certificate's: nothing changes, and that is told.
        shutil.copy(authority.issue("third")[1], folder / "k.pem")
        hang_up(daemon)
        until(lambda: daemon.metric("cumulus_reload_ok") == [0.0], daemon)
        assert serial(port, context) == second
        assert "is not that of the certificate" in daemon.log_text()
        assert daemon.get("/health")[0] == 200, "it works on"
        # Whole again.
        install(folder, authority.issue("fourth"))
        hang_up(daemon)
        until(lambda: daemon.metric("cumulus_reload_ok") == [1.0], daemon)
        assert serial(port, context) not in (first, second)
        # The connection that was there all the time.
        open_one.sendall(ask)
        assert open_one.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert "Traceback" not in daemon.log_text()


def test_a_start_without_usable_files_says_which_and_why(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    daemon = make_guarded(listener(tmp_path / "tls", authority.issue("daemon")))
    (tmp_path / "tls/k.pem").unlink()
    daemon.start(wait=False)
    assert daemon.process is not None and daemon.process.wait(30) == 78
    assert f"{tmp_path}/tls/k.pem can't be read: No such file" in daemon.log_text()
    daemon.process = None


def test_what_else_of_a_configuration_changes_waits_for_a_start(
    make_guarded: MakeGuarded,
) -> None:
    daemon = make_guarded().start()
    daemon.settings["agent_grace_s"] = 7
    daemon.write()
    hang_up(daemon)
    until(lambda: "changes of agent_grace_s count from" in daemon.log_text(), daemon)
    daemon.settings["agent_grace_s"] = "soon"
    daemon.write()
    hang_up(daemon)
    until(lambda: daemon.metric("cumulus_reload_ok") == [0.0], daemon)
    assert "agent_grace_s" in daemon.log_text().rpartition("nothing is changed")[2]
    assert daemon.get("/api/info", TOKENS["client"])[0] == 200
