"""With what the OpenCL layer was proven on this worker, since this agent began."""

import re
from collections import OrderedDict
from collections.abc import Callable

from cumulus_wire.grant import FINGERPRINT_DIGITS, MAX_PROVEN

#: After that it is proven anew, should anything have changed that no fingerprint shows.
LIFETIME_S = 3600.0
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}")


def valid_fingerprint(value: object) -> bool:
    """Whether a runner can have taken it."""
    return isinstance(value, str) and _FINGERPRINT.fullmatch(value) is not None


class LayerProofs:
    """The fingerprints of complete proofs, at most `MAX_PROVEN`: those unused for longest go."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """`seconds`: a clock's, which never goes back."""
        self._seconds = seconds
        self._proven_at: OrderedDict[str, float] = OrderedDict()

    def known(self) -> list[str]:
        """Those that hold, the last used first."""
        now = self._seconds()
        for fingerprint, proven_at in list(self._proven_at.items()):
            if now - proven_at >= LIFETIME_S:
                del self._proven_at[fingerprint]
        return list(reversed(self._proven_at))

    def proven(self, fingerprint: str) -> bool:
        """A job has proven it; whether that is news."""
        is_new = fingerprint not in self.known()
        self._proven_at[fingerprint] = self._seconds()
        self._proven_at.move_to_end(fingerprint)
        while len(self._proven_at) > MAX_PROVEN:
            self._proven_at.popitem(last=False)
        return is_new

    def used(self, fingerprint: str) -> None:
        """A job has gone by it. It holds no longer for that."""
        if fingerprint in self._proven_at:
            self._proven_at.move_to_end(fingerprint)

    def forget(self) -> bool:
        """All of them; whether there were any."""
        had = bool(self._proven_at)
        self._proven_at.clear()
        return had
