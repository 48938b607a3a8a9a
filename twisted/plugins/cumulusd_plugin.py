"""Makes `twistd cumulusd` known. Read by every `twistd`: it imports nothing of Cumulus."""

from twisted.application.service import ServiceMaker

cumulusd = ServiceMaker(  # type: ignore[no-untyped-call]
    "cumulusd",
    "cumulusd.daemon",
    "Cumulus: runs Python functions on a pool of GPU workers.",
    "cumulusd",
)
