"""All cases, and their run by hand: `python -m tests.interop.suite [ours|crossbar] [WORD]` shows
which outcomes aren't as expected."""

import sys
import tempfile
import time
import zlib
from pathlib import Path

from tests.interop import (
    cases_calls,
    cases_cancelling,
    cases_events,
    cases_meta,
    cases_patterns,
    cases_sessions,
    cases_websocket,
    cases_wrong,
)
from tests.interop.black_box import CASES, CROSSBAR, Case, Target
from tests.interop.raw_bytes import SERIALIZERS

__all__ = [
    "CASES",
    "cases_calls",
    "cases_cancelling",
    "cases_events",
    "cases_meta",
    "cases_patterns",
    "cases_sessions",
    "cases_websocket",
    "cases_wrong",
]


def serializers(case: Case, target: Target) -> list[str]:
    """In which it is run: ours in all; Crossbar, to save time, in one, which its name chooses."""
    names = list(SERIALIZERS)
    chosen = zlib.crc32(f"{case.group}: {case.name}".encode()) % len(names)
    return [names[chosen]] if target.name == CROSSBAR else names


def main() -> None:
    from tests.interop import routers

    which, word = [*sys.argv[1:], "", ""][:2]
    for name, router in (("ours", routers.ours), ("crossbar", routers.crossbar)):
        if which and name != which:
            continue
        with tempfile.TemporaryDirectory() as folder, router(Path(folder)) as target:
            chosen = [each for each in CASES if word in f"{each.group} {each.name}"]
            for each in chosen:
                for serializer in serializers(each, target):
                    expected, began = each.expected(target), time.monotonic()
                    try:
                        found = each.outcome(target, serializer)
                    except Exception as error:
                        found = [f"{type(error).__name__}: {error}"]
                    if found != expected:
                        took = f"{time.monotonic() - began:.1f} s"
                        print(f"{name} {serializer} {each.group}: {each.name} ({took})")
                        print(f"    {found}\nnot {expected}", flush=True)
            print(f"{name}: {len(chosen)} cases")


if __name__ == "__main__":
    main()
