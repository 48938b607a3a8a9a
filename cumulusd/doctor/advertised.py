"""The address that workers are told to dial: does it make sense, and does it answer from here?

Blocking, bounded. Whether workers reach it only their agents' connections show (`workers`).
"""

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from cumulusd.config import Config
from cumulusd.config_listen import is_loopback
from cumulusd.config_platform import SwarmPlatform
from cumulusd.doctor import listeners
from cumulusd.doctor.finding import Finding, fault, not_known, ok, warning

SUBJECT = "advertise_url"
DIAL_TIMEOUT_S = 5.0


def examine(config: Config, swarm: SwarmPlatform, running: bool | None) -> Iterator[Finding]:
    """`running`: is the daemon? None: that isn't known."""
    url, parts = swarm.advertise_url, urlsplit(swarm.advertise_url)
    host, port = str(parts.hostname), parts.port or 0
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield fault(
            SUBJECT, f"{host} in {url} has no address: {error.strerror or error}",
            "give an address, or a name that this machine and the workers can look up",
        )  # fmt: skip
        return
    address = str(found[0][4][0])
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        yield warning(
            SUBJECT,
            f"{url} is this machine's own address: workers on other machines don't reach it",
            "give the address at which they see this machine",
        )
    yield from _listened_on(config, url, port)
    if running is False:
        yield not_known(SUBJECT, f"whether {url} answers: the daemon doesn't run")
        return
    yield _dialled(swarm, host, port)


def _listened_on(config: Config, url: str, port: int) -> Iterator[Finding]:
    known = [(one, listeners.read(one)) for one in config.listen]
    if any(found is None or found.port == 0 for _, found in known):
        return  # systemd, or a plugin, knows the port
    same = [(one, found) for one, found in known if found is not None and found.port == port]
    open_to_others = [(one, found) for one, found in same if not is_loopback(one)]
    secure = url.startswith("wss:")
    if not same:
        yield warning(
            SUBJECT,
            f"no listener has the port of {url}",
            "see `listen`; or something must lead there: a port mapping, a proxy",
        )
    elif not open_to_others:
        yield warning(
            SUBJECT,
            f"only loopback listens on the port of {url}: a proxy on this machine must lead there",
            "see `listen`",
        )
    elif not any(found.secure == secure for _, found in open_to_others):
        yield fault(
            SUBJECT,
            f"{url} {'needs' if secure else 'has no'} TLS, and `listen` says otherwise",
            "ssl: listeners go with wss://, the others with ws://",
        )


def _dialled(swarm: SwarmPlatform, host: str, port: int) -> Finding:
    url = swarm.advertise_url
    advice = (
        "is the daemon running there, and does a firewall let this through? Behind NAT it may "
        "answer to workers only"
    )
    try:
        with socket.create_connection((host, port), timeout=DIAL_TIMEOUT_S) as connection:
            if not url.startswith("wss:"):
                return ok(SUBJECT, f"{url} answers from this machine")
            context = ssl.create_default_context(cafile=swarm.advertise_ca)
            with context.wrap_socket(connection, server_hostname=host):
                whose = "advertise_ca" if swarm.advertise_ca else "this machine's authorities"
                return ok(
                    SUBJECT,
                    f"{url} answers from this machine, with a certificate that {whose} vouch for",
                )
    except ssl.SSLCertVerificationError as error:
        return fault(
            SUBJECT,
            f"{url} answers with a certificate that agents refuse: {error.verify_message}",
            "advertise_ca must hold who signed it, and the certificate must name that host",
        )
    except ssl.SSLError as error:
        return fault(SUBJECT, f"{url} answers, and speaks no TLS that fits: {error.reason}", advice)
    except TimeoutError:
        return warning(
            SUBJECT, f"{url} doesn't answer from this machine within {DIAL_TIMEOUT_S:g} s", advice
        )
    except OSError as error:
        why = error.strerror or str(error)
        return warning(SUBJECT, f"{url} doesn't answer from this machine: {why}", advice)
