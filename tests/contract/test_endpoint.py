"""Where an engine can be: read, refused in words, and reached over unix socket, TCP and TLS."""

import datetime
import ipaddress
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.web.server import Site

from cumulusd.errors import InvalidArgument, Unavailable
from cumulusd.swarm.endpoint import Endpoint, EndpointFactory, TlsFiles, parse_endpoint
from cumulusd.swarm.engine import Engine
from tests.contract.fake_engine import FakeEngine

#: Twisted hands pyOpenSSL what that would rather have of `cryptography`.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
_NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs certificates, and writes them as PEM files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key, authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(_pem(self.certificate))

    def issue(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        paths = self.folder / f"{name}.cert.pem", self.folder / f"{name}.key.pem"
        paths[0].write_bytes(_pem(self._sign(name, key)))
        paths[1].write_bytes(_key_pem(key, serialization.NoEncryption()))
        return paths

    def _sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, authority: bool = False
    ) -> x509.Certificate:
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW - datetime.timedelta(hours=1))
            .not_valid_after(_NOW + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(
    key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.mark.parametrize(
    ("text", "socket_path", "host", "port"),
    [
        ("unix:///var/run/docker.sock", "/var/run/docker.sock", None, None),
        ("tcp://manager.example:2375", None, "manager.example", 2375),
        ("tcp://10.0.0.1:2376/", None, "10.0.0.1", 2376),
        ("tcp://[fd00::1]:2375", None, "fd00::1", 2375),
    ],
)
def test_an_address_is_read(
    text: str, socket_path: str | None, host: str | None, port: int | None
) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.socket_path, endpoint.host, endpoint.port) == (socket_path, host, port)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/var/run/docker.sock",
        "unix://var/run/docker.sock",
        "unix:///",
        "tcp://host",
        "tcp://host:0",
        "tcp://host:99999",
        "tcp://:2375",
        "tcp://user:secret@host:2375",
        "tcp://host:2375/v1.41",
        "tcp://host:2375?x=1",
        "https://host:2376",
        "tcp://[::1:2375",
    ],
)
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no address of a Docker Engine") as caught:
        parse_endpoint(text)
    assert caught.value.hint and "unix:///" in caught.value.hint


def test_tls_files_are_for_tcp(tmp_path: Path) -> None:
    files = TlsFiles(ca_cert=tmp_path, client_cert=tmp_path, client_key=tmp_path)
    with pytest.raises(InvalidArgument, match="tcp"):
        parse_endpoint("unix:///a", files)


async def _names(engine: Engine) -> set[str]:
    try:
        return {node.hostname for node in await engine.nodes()}
    finally:
        await engine.close()


@pytest_twisted.ensureDeferred
async def test_over_tcp(fake: FakeEngine) -> None:
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Site(fake))
    try:
        engine = Engine(reactor, parse_endpoint(f"tcp://127.0.0.1:{port.getHost().port}"))
        assert await _names(engine) == {"manager", "worker1"}
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_over_tls_with_a_certificate_of_our_own(fake: FakeEngine, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    server_cert, server_key = ours.issue("engine")
    server = PrivateCertificate.loadPEM(server_key.read_bytes() + server_cert.read_bytes())
    authority = Certificate.loadPEM(ours.path.read_bytes())
    options = server.options(authority)
    port = await SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1").listen(Site(fake))
    address = f"tcp://127.0.0.1:{port.getHost().port}"

    def engine(ca: Path, pair: tuple[Path, Path]) -> Engine:
        files = TlsFiles(ca_cert=ca, client_cert=pair[0], client_key=pair[1])
        return Engine(reactor, parse_endpoint(address, files), deadline_s=5.0)

    both = tmp_path / "both.pem"
    both.write_bytes(others.path.read_bytes() + ours.path.read_bytes())
    try:
        mine = ours.issue("daemon")
        assert await _names(engine(ours.path, mine)) == {"manager", "worker1"}
        assert await _names(engine(both, mine)) == {"manager", "worker1"}
        with pytest.raises(Unavailable) as unknown:
            await _names(engine(others.path, mine))
        assert "certificate verify failed" in unknown.value.details["platform"]
        asked = len(fake.asked)
        with pytest.raises(Unavailable) as refused:
            await _names(engine(ours.path, others.issue("stranger")))
        assert "unknown ca" in refused.value.details["platform"]
        plain = Engine(reactor, parse_endpoint(address), deadline_s=5.0)
        with pytest.raises(Unavailable):
            await _names(plain)
        assert len(fake.asked) == asked
    finally:
        await port.stopListening()


@pytest.mark.parametrize("broken", ["ca_cert", "client_cert", "client_key"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nx"])
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, broken: str, content: bytes | None
) -> None:
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("daemon")
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    files = TlsFiles(ca_cert=ours.path, client_cert=cert, client_key=key)
    endpoint = Endpoint(host="127.0.0.1", port=1, tls=attrs.evolve(files, **{broken: bad}))
    with pytest.raises(InvalidArgument, match=str(bad)):
        EndpointFactory(reactor, endpoint)


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("daemon")
    secret = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(_key_pem(secret, serialization.BestAvailableEncryption(b"hidden")))
    files = TlsFiles(ca_cert=ours.path, client_cert=cert, client_key=key)
    with pytest.raises(InvalidArgument, match="passphrase"):
        EndpointFactory(reactor, Endpoint(host="127.0.0.1", port=1, tls=files))
