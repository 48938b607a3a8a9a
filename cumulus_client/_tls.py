"""TLS to the daemon: which certificates are trusted, and what to do where they aren't.

Imported when connecting.
"""

import asyncio
import ssl

from cumulus_client.exceptions import ConnectionFailed

#: How long a server may take to show which protocol it speaks.
LOOK_S = 1.5

# X509_V_ERR_..., of OpenSSL's x509_vfy.h
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_ISSUER = (18, 19, 20, 21)
_OTHER_NAMES = (62, 64)  # a host's, an address's


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the certificates in that PEM file and no others; None: those that this machine does.

    Raises ConnectionFailed.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        no_pem = isinstance(error, ssl.SSLError)
        why = "there is no certificate in it" if no_pem else error.strerror or str(error)
        raise ConnectionFailed(
            f"the CA file {ca_file} can't be used: {why}",
            hint="ca_file=... or CUMULUS_CA_FILE must name a PEM file with the CA's certificate",
        ) from error


def not_trusted(where: str, ca_file: str | None, error: ssl.SSLError) -> ConnectionFailed:
    """What is wrong with the TLS of the daemon at `where`, and what to do."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailed(
            f"no TLS connection with {where}: {error.reason or error}",
            hint="does a Cumulus daemon or an https proxy before one listen there?",
        )
    code = error.verify_code
    if code == _EXPIRED:
        return ConnectionFailed(
            f"the certificate of {where} has expired",
            hint="tell the daemon's operator; or is this machine's clock wrong?",
        )
    if code == _NOT_YET_VALID:
        return ConnectionFailed(
            f"the certificate of {where} is not valid yet", hint="is this machine's clock wrong?"
        )
    if code in _OTHER_NAMES:
        return ConnectionFailed(
            f"the certificate of {where} is another host's: {error.verify_message}",
            hint="use a name that is in the certificate, or have the daemon's operator put this "
            "one into it",
        )
    if code in _UNKNOWN_ISSUER and ca_file is None:
        return ConnectionFailed(
            f"the certificate of {where} is signed by nobody whom this machine trusts",
            hint="if the daemon has a CA of its own, get the CA's certificate from its operator "
            "and name the file: ca_file=... or CUMULUS_CA_FILE",
        )
    if code in _UNKNOWN_ISSUER:
        return ConnectionFailed(
            f"the certificate of {where} is signed by none of those in {ca_file}",
            hint="is that the daemon's CA (ca_file=... or CUMULUS_CA_FILE), and does the daemon "
            "send the whole chain (certChain)?",
        )
    return ConnectionFailed(
        f"the certificate of {where} is not accepted: {error.verify_message}",
        hint="tell the daemon's operator",
    )


async def speaks_http(host: str, port: int) -> bool:
    """Is that an HTTP server that takes requests without TLS? (One with TLS answers them with 400,
    if at all.)"""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(LOOK_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"HEAD /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status = await reader.readline()
    except (OSError, ValueError):  # TimeoutError is an OSError
        return False
    finally:
        if writer is not None:
            writer.close()
    return status.startswith(b"HTTP/") and status.split()[1:2] != [b"400"]


async def speaks_tls(host: str, port: int) -> bool:
    """Does that server speak TLS? Nothing is sent over it, and whose certificate it has is not
    looked at."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(LOOK_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except OSError:  # SSLError and TimeoutError are
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
    return True
