"""How many files the process may have open. Sockets are files too: however many connections come,
some must stay free, or journals and the job store can't be opened any more."""

import os
import resource

#: What the daemon asks for where its hard limit allows it.
WANTED = 65_536
#: Kept free of connections; a quarter where there are few.
RESERVED = 256
#: What journals may have open: so many in any case, which `RESERVED` has room for, and at most.
MIN_JOURNALS = 64
MAX_JOURNALS = 4096


def raise_limit() -> int:
    """Takes as many as it may, up to `WANTED`; how many there are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return allowed if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


class OpenFiles:
    """Tells whether one more connection leaves enough."""

    def __init__(self, limit: int) -> None:
        """`limit`: as `raise_limit` gave it."""
        self.limit = limit
        #: Journals whose file stays open: of more jobs that print, each line opens it anew.
        self.for_journals = max(MIN_JOURNALS, min(MAX_JOURNALS, limit // 16))
        reserved = min(RESERVED, limit // 4) + self.for_journals - MIN_JOURNALS
        self.for_connections = limit - reserved

    def has_room(self) -> bool:
        """May another connection be kept? Asked often: it costs two system calls."""
        try:
            # The kernel gives the lowest number that is free: all below it are taken.
            number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        os.close(number)
        return number < self.for_connections
