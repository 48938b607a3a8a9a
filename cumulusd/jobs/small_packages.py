"""The bytes of small packages that were brought or read last."""

from collections import OrderedDict

#: Larger ones are read from their file each time.
MAX_PACKAGE_BYTES = 64 << 10
#: All of them together.
MAX_TOTAL_BYTES = 1 << 20


class SmallPackages:
    """A worker asks for a job's package within milliseconds of its submit: what is still here needs
    no thread to read its file. By SHA-256; the one that was used longest ago goes first."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, sha256: str, data: bytes) -> None:
        """Keeps it for a while, if it is small. It is on disk, too."""
        self.forget(sha256)
        if len(data) > MAX_PACKAGE_BYTES:
            return
        self._held[sha256] = bytes(data)
        self._bytes += len(data)
        while self._bytes > MAX_TOTAL_BYTES:
            _, gone = self._held.popitem(last=False)
            self._bytes -= len(gone)

    def get(self, sha256: str) -> bytes | None:
        """All of it; None: it isn't here."""
        data = self._held.get(sha256)
        if data is not None:
            self._held.move_to_end(sha256)
        return data

    def forget(self, sha256: str) -> None:
        """It is deleted."""
        self._bytes -= len(self._held.pop(sha256, b""))
