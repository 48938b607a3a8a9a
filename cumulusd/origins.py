"""Which pages of browsers may use the daemon, and by which names it may be asked. Pure.

A browser sends `Origin` with what a page does, and a page can't make it leave that out; programs
send none and are not meant here. What may be used is the daemon's own page and the origins of the
configuration. Sandboxed and local pages send `null`, which is nobody's.

A daemon without tokens is everybody's on its machine, also a page's whose own name was made to
point there (DNS rebinding): it answers to names of this machine, and those of the configuration.
"""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: What changes nothing. Whether a page may read the answer is the browser's to judge.
_READING = frozenset({"GET", "HEAD"})

#: What the preflight of a browser is told, beside the origin.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}


def parse_origin(text: str) -> tuple[str, str, int]:
    """(scheme, host, port). Raises ValueError for what is no web page's."""
    parts = urlsplit(text)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{text[:200]!r} is no http:// or https:// origin")
    if parts.path or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text[:200]!r} has more than scheme, host and port")
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]


class Origins:
    """The rule, for one daemon."""

    def __init__(
        self,
        *,
        is_open: Callable[[], bool],
        allowed: Iterable[str] = (),
        host_names: Iterable[str] = (),
    ) -> None:
        """`is_open`: does the daemon ask for no tokens? `allowed`: origins beside its own;
        `host_names`: names of an open daemon beside localhost. Raises ValueError."""
        self._is_open = is_open
        self._allowed = frozenset(map(parse_origin, allowed))
        self._names = _LOOPBACK_HOSTS | {name.lower() for name in host_names}

    def refuses(
        self, method: str, origin: str | None, hosts: Iterable[str]
    ) -> tuple[str, str] | None:
        """Why that request isn't answered, and what to do; None: it is. `hosts`: its `Host`."""
        hosts = list(hosts)
        for host in hosts:
            if not self.answers_to(host):
                return (
                    f"this daemon has no tokens and doesn't answer as {host[:200]!r}, only as "
                    "localhost",
                    "use http://localhost or http://127.0.0.1, or name it in web.host_names of "
                    "the daemon's configuration",
                )
        if origin is None or method in _READING:
            return None
        if self.may_use(origin, hosts[-1] if hosts else None):
            return None
        return (
            f"pages of {origin[:200]!r} may not use this daemon",
            "if they are meant to, name that origin in web.allowed_origins of the daemon's "
            "configuration",
        )

    def answers_to(self, host: str) -> bool:
        """May the daemon be asked under that `Host`?"""
        if not self._is_open():
            return True
        try:
            return urlsplit(f"//{host}").hostname in self._names
        except ValueError:
            return False

    def is_allowed(self, origin: str | None) -> bool:
        """Is it one of the configuration's?"""
        try:
            return origin is not None and parse_origin(origin) in self._allowed
        except ValueError:
            return False

    def may_use(self, origin: str, host: str | None) -> bool:
        """May a page of this origin use what this `Host` names?"""
        if not self.answers_to(host or ""):
            return False
        return self.is_allowed(origin) or _is_same(origin, host)


def _is_same(origin: str, host: str | None) -> bool:
    try:
        scheme, name, port = parse_origin(origin)
        here = urlsplit(f"//{host or ''}")
        return (name, port) == (here.hostname, here.port or _DEFAULT_PORTS[scheme])
    except ValueError:
        return False
