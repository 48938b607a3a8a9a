"""How a client logs in: what it offers, what it answers, and why it was not let in."""

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cumulus_client.exceptions import ConnectionFailed, CumulusError, NotAuthenticated
from cumulus_wire import uris

if TYPE_CHECKING:
    from cumulus_client._scram import ScramLogin

#: None of the methods that were offered is one for this connection.
_METHOD_ERRORS = {"wamp.error.no_auth_method", "wamp.error.no_matching_auth_method"}
#: Why a session is refused to who asks for it, or taken from him.
AUTH_ERRORS = {
    "wamp.error.not_authenticated",
    "wamp.error.authentication_failed",
    "wamp.error.authentication_denied",
    "wamp.error.authentication_required",
    "wamp.error.no_auth_method",
    "wamp.error.no_matching_auth_method",
    "wamp.error.not_authorized",
    "wamp.error.authorization_failed",
    uris.ERROR_PREFIX + "not_authenticated",
    uris.ERROR_PREFIX + "not_authorized",
}


class Distrust(Exception):
    """The other side is not known to be the daemon. The message says why."""


class UnknownLogin(Exception):
    """The other side asks for a login that was not offered. The message is its name."""


class Login:
    """The login of one session. No I/O but what `answer` computes on another thread."""

    def __init__(self, url: str, api_key: str | None, api_key_name: str | None, realm: str) -> None:
        """With `api_key_name` the key isn't sent where others on the network could read it."""
        self._url = url
        self._api_key = api_key
        self._api_key_name = api_key_name
        self._realm = realm
        self._scram: ScramLogin | None = None  #: offered
        self._must_prove = False  #: nothing else is
        self._proving = False

    def offer(self, transport: Any) -> dict[str, Any]:
        """Of HELLO: `authmethods`, `authid`, `authextra`. Raises Distrust."""
        # An open daemon takes a key for nothing and is welcome to choose anonymous.
        methods = ["anonymous"] if self._api_key is None else ["ticket", "anonymous"]
        authid, authextra = None if self._api_key is None else "client", None
        if self._api_key is not None and self._api_key_name:
            from cumulus_client import _scram

            self._must_prove = _others_can_read(transport)
            try:
                self._scram = _scram.ScramLogin(self._api_key_name, self._api_key)
            except _scram.ScramFault as error:
                if self._must_prove:
                    raise Distrust(str(error)) from error
            else:
                # Over TLS too: a proxy may take it off, and then the daemon takes no ticket.
                methods = [_scram.METHOD] if self._must_prove else ["ticket", _scram.METHOD]
                authid, authextra = self._api_key_name, self._scram.authextra
                if not self._must_prove:
                    methods.append("anonymous")
        return {"authmethods": methods, "authid": authid, "authextra": authextra}

    def ticket(self, method: str) -> str | None:
        """The key, where the challenge asks for it; None: it is to be proven (`answer`). Raises
        UnknownLogin."""
        if self._scram is not None and (self._must_prove or method != "ticket"):
            self._proving = True
            return None  # whatever else it asks for, the key isn't sent
        if method != "ticket" or self._api_key is None:
            raise UnknownLogin(method)
        return self._api_key

    async def answer(self, extra: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Of AUTHENTICATE: signature and extra. Raises Distrust."""
        from cumulus_client._scram import ScramFault

        assert self._scram is not None
        try:
            return await self._scram.answer(extra)
        except ScramFault as error:
            raise Distrust(str(error)) from error

    def check(self, welcome_extra: Any) -> None:
        """The daemon has proven that it knows the key, where it had to. Raises Distrust."""
        if self._scram is None or not (self._must_prove or self._proving):
            return
        from cumulus_client._scram import ScramFault

        try:
            self._scram.check(welcome_extra)
        except ScramFault as error:
            raise Distrust(str(error)) from error

    def distrusted(self, why: Distrust) -> CumulusError:
        """What the caller is told."""
        return NotAuthenticated(
            f"the login at {self._url} as {self._api_key_name!r} failed here: {why}",
            hint="it may be no daemon of yours, or somebody between you and it; use https://",
        )

    def refused(self, reason: str, text: str | None) -> CumulusError:
        """What the caller is told of ABORT."""
        said = f": {text}" if text else f" ({reason})"
        if reason in AUTH_ERRORS:
            if self._api_key is None:
                return NotAuthenticated(
                    f"{self._url} wants an API key and none was given",
                    hint="pass api_key=... or set CUMULUS_API_KEY",
                )
            if reason in _METHOD_ERRORS:
                return NotAuthenticated(
                    f"{self._url} takes no API key over this connection{said}",
                    hint="use https://, or name the key (api_key_name=... or CUMULUS_API_KEY_NAME):"
                    " then it needn't be sent",
                )
            if self._scram is not None:
                return NotAuthenticated(
                    f"{self._url} does not accept this API key as {self._api_key_name!r}{said}",
                    hint="check the key and its name (api_key_name=... or CUMULUS_API_KEY_NAME) "
                    "with the daemon's operator",
                )
            return NotAuthenticated(
                f"{self._url} does not accept this API key{said}",
                hint="check the key (api_key=... or CUMULUS_API_KEY) with the daemon's operator",
            )
        if reason == "wamp.error.no_such_realm":
            return ConnectionFailed(
                f"{self._url} is a WAMP router but no Cumulus daemon: "
                f"it has no realm {self._realm!r}",
                hint="check the server URL",
            )
        return ConnectionFailed(f"{self._url} refused the session{said}")


def _others_can_read(transport: Any) -> bool:
    """Does what is sent over that connection leave this machine unencrypted?"""
    tcp = transport.transport
    if tcp.get_extra_info("sslcontext") is not None:
        return False
    peer, own = tcp.get_extra_info("peername"), tcp.get_extra_info("sockname")
    if not isinstance(peer, tuple):
        return False  # a unix socket
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None) or address
    return not (mapped.is_loopback or (isinstance(own, tuple) and own[0] == peer[0]))
