"""Whether a disk has room, in words that name it."""

import errno
from pathlib import Path
from typing import Any

import attrs
import pytest

from cumulusd.disk import Disk, is_full
from cumulusd.errors import InternalError


@attrs.define
class Said:
    f_bavail: int = 1000
    f_frsize: int = 4096
    f_files: int = 0
    f_favail: int = 0


def disk(said: Any, min_free_bytes: int = 1 << 20) -> Disk:
    def statvfs(folder: Path) -> Any:
        if isinstance(said, OSError):
            raise said
        return said

    return Disk(Path("/data"), min_free_bytes, statvfs)


def test_room_is_what_is_left_over_the_mark() -> None:
    assert disk(Said()).fault() is None
    assert disk(Said(), 1000 * 4096).fault() is None
    why = disk(Said(), 1000 * 4096 + 1).fault()
    assert why is not None
    assert "/data" in why and "4096000 bytes free" in why and "4096001" in why
    assert disk(Said(), 4_000_000).fault(96_000) is None
    why = disk(Said(), 4_000_000).fault(96_001)
    assert why is not None and "96001 are wanted" in why


def test_inodes_run_out_too() -> None:
    assert disk(Said(f_files=100, f_favail=1)).fault() is None
    why = disk(Said(f_files=100)).fault()
    assert why is not None and "inodes" in why


def test_a_disk_that_cant_be_asked_has_no_room() -> None:
    why = disk(OSError(errno.EIO, "Input/output error")).fault()
    assert why is not None and "Input/output error" in why


def test_a_refusal_names_disk_bytes_and_what_failed() -> None:
    assert disk(Said()).refusal({"job store": None, "journals": None}) is None
    low = disk(Said(f_bavail=3)).refusal({"job store": None})
    assert low is not None
    assert (low.code.value, low.status) == ("unavailable", 503)
    assert low.details == {"path": "/data", "free_bytes": 12288, "min_free_bytes": 1 << 20}
    assert "12288 bytes free" in low.message and low.hint is not None
    failing = disk(Said()).refusal({"job store": "database or disk is full", "journals": None})
    assert failing is not None
    assert "job store can't be written (database or disk is full)" in failing.message
    assert "4096000 bytes free" in failing.message and "journals" not in failing.message


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_is_told_from_other_trouble(code: int) -> None:
    full = OSError(code, "full")
    assert is_full(full)
    try:
        raise InternalError("it can't be written") from full
    except InternalError as error:
        assert is_full(error)
    assert not is_full(OSError(errno.EIO, "no"))
    assert not is_full(InternalError("no"))
    assert not is_full(None)
