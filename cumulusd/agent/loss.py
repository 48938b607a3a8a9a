"""Why a connection to the daemon was lost, in words that say what to do."""

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.python.failure import Failure

_CA = "CUMULUS_AGENT_CA_FILE (which is platform.swarm.advertise_ca at the daemon)"
#: What OpenSSL calls an answer that is no TLS.
_NO_TLS = ("wrong version number", "packet length too long", "unexpected message", "http request")


def why_lost(reason: Failure, said: str | None) -> str:
    """`said`: what the WebSocket's own machinery makes of it."""
    if reason.check(VerificationError):  # type: ignore[no-untyped-call]
        return (
            "the daemon's certificate is another host's: use a name that is in it "
            "(platform.swarm.advertise_url), or have this one put into it"
        )
    if reason.check(SSL.Error):  # type: ignore[no-untyped-call]
        told = repr(reason.value)
        if "certificate verify failed" in told:
            return (
                "the daemon's certificate is not trusted: it has expired, or is signed by none of "
                f"those in {_CA}, or the daemon doesn't send the whole chain (certChain)"
            )
        if any(words in told for words in _NO_TLS):
            return "no TLS is spoken there: use ws://, or an ssl: listener of the daemon"
    return said or reason.getErrorMessage()
