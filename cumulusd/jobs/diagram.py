"""Writes the job machine's diagram into a document: `python -m cumulusd.jobs.diagram FILE`."""

import sys
from pathlib import Path

from cumulusd.jobs import machine

_BEGIN, _END = "<!-- jobs-diagram:begin -->", "<!-- jobs-diagram:end -->"


def main(arguments: list[str]) -> int:
    """Replaces what stands between the two markers in the file."""
    if len(arguments) != 1:
        print("usage: python -m cumulusd.jobs.diagram FILE", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    text = path.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        print(f"{path}: no {_BEGIN} … {_END} in it", file=sys.stderr)
        return 1
    diagram = f"\n```mermaid\n{machine.diagram()}\n```\n"
    path.write_text(before + _BEGIN + diagram + _END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
