"""One job's submit: what is sent, and how its package gets there."""

from collections.abc import Mapping
from typing import Any

from cumulus_client._upload import Uploads
from cumulus_client.exceptions import CumulusError, InvalidArgument, NotFound
from cumulus_client.packaging import Package

#: Up to this size a package that the daemon doesn't hold goes with its job, in one message.
MAX_CARRIED_BYTES = 256 << 10


class Submission:
    """A submit, which may be sent several times: its specification has an idempotency key. Used on
    the client's event loop; of one that is under way no second is begun."""

    def __init__(self, uploads: Uploads, package: Package, spec: Mapping[str, Any]) -> None:
        self._uploads = uploads
        self._package = package
        self._spec = spec
        self._is_small = package.in_memory and package.size_bytes <= MAX_CARRIED_BYTES
        self._carries = False  # the submit under way does, and isn't answered
        self._carried = False  # the last one did
        self._no_room = False  # the daemon doesn't take it beside the job now
        self._mended = 0

    async def prepare(self) -> None:
        """Brings to the daemon what doesn't go with the submit. Raises the upload's errors."""
        if not self._may_carry:
            await self._uploads.ensure(self._package, ask=False)

    async def arguments(self) -> dict[str, Any]:
        """Those of the submit, without `follow`. `answered` has to be told how it went."""
        arguments: dict[str, Any] = {"spec": self._spec}
        await self.prepare()
        if self._may_carry:
            code = await self._uploads.carry(self._package)
            self._carries = self._carried = code is not None
            if code is not None:
                arguments["code"] = code
        return arguments

    def answered(self, *, accepted: bool) -> None:
        """The submit was accepted, or refused or given up. Idempotent."""
        if self._carries:
            self._carries = False
            self._uploads.carried(self._package, taken=accepted)

    def mends(self, error: BaseException | None) -> bool:
        """Was the submit refused only because the daemon hasn't got the package? Then it may be
        sent again, and brings that."""
        refused_code = isinstance(error, InvalidArgument) and _names_code(error)
        if self._mended >= 2 or not (refused_code or isinstance(error, NotFound)):
            return False
        self._mended += 1
        if refused_code:
            self._uploads.takes_code = False  # a daemon of before
        elif self._carried:
            self._no_room = True
        self._uploads.forget(self._package)
        return True

    @property
    def _may_carry(self) -> bool:
        return self._is_small and self._uploads.takes_code and not self._no_room


def _names_code(error: CumulusError) -> bool:
    """Is `code` an argument that the daemon doesn't know?"""
    faults = error.details.get("faults")
    if not isinstance(faults, list) or "code" not in [
        fault.get("key") for fault in faults if isinstance(fault, Mapping)
    ]:
        return False
    return len(faults) == 1
