"""A certificate authority of the tests' own, whose certificates can be wrong in every way."""

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, and writes them as PEM files. `issuer`: of an intermediate one."""

    def __init__(self, folder: Path, name: str, issuer: "Authority | None" = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = issuer or self
        self.certificate = signer.sign(name, self.key, 365 * DAY, (), authority=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(pem(self.certificate))

    def issue(
        self,
        name: str,
        *,
        days: float = 90,
        hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
        passphrase: bytes | None = None,
    ) -> tuple[Path, Path]:
        """(certificate, key). `days` until it expires; below 0 it has."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(name, key, days * DAY, hosts)
        paths = self.folder / f"{name}.cert.pem", self.folder / f"{name}.key.pem"
        paths[0].write_bytes(pem(certificate))
        encryption: Any = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
            )
        )
        return paths

    def sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        valid: datetime.timedelta,
        hosts: tuple[str, ...],
        authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + valid) - DAY)
            .not_valid_after(now + valid)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if authority:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    """As a file holds it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
