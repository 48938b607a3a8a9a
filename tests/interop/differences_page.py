"""Writes docs/interop.md: `python -m tests.interop.differences_page`."""

from collections import Counter
from pathlib import Path

from tests.interop import crossbar
from tests.interop.black_box import Outcome
from tests.interop.clients import CLIENTS
from tests.interop.suite import CASES

PAGE = Path(__file__).parents[2] / "docs/interop.md"

_HEAD = """\
# Other WAMP clients, and another router

<!-- Written by `python -m tests.interop.differences_page`; a test checks that it is current. -->

## Clients

These join the daemon as it is delivered, submit a job and follow it to its end by progressive
results, subscribe to another one's status topic, cancel it, cancel a call, and get an error with
its keyword arguments (`tests/interop/test_clients.py`):

| client | runs on | serialisations | logs in by |
|---|---|---|---|
{clients}

What they taught: an ERROR has no keyword `error` or `message` (Autobahn's and xconn's Python
clients fail over them); JavaScript's `undefined` in CBOR and MessagePack is taken as its JSON has
it (wampy sends it for options nobody gave); and autobahn for JavaScript cancels calls rightly by
`kill` alone: in the other modes it takes the ERROR that ends the call for a violation and closes.

## Messages

`tests/interop/test_vectors.py` has every message that a router takes or sends, as bytes in each
serialisation, and puts it through the router's codec both ways. It covers what wamp-proto's
single-message vectors cover; the vectors are our own, as those come with no licence that we found,
and their bytes are made by an encoder that shares no code with the codec.

## Crossbar

{count} cases ask a router from outside, over a client that makes its bytes itself
(`tests/interop/cases_*.py`): {groups}.
They are put to the daemon's router in all three serialisations, and to Crossbar {version}.
{same} are answered alike. The others, with the reason why ours is right:

| | case | cumulusd | Crossbar | why |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    differing = [case for case in CASES if case.crossbar is not None]
    groups = Counter(case.group for case in CASES)
    head = _HEAD.format(
        count=len(CASES),
        groups=", ".join(f"{name} ({number})" for name, number in sorted(groups.items())),
        version=crossbar.VERSION,
        same=len(CASES) - len(differing),
        clients="\n".join(
            f"| {each.title} | {each.runs_on} | {', '.join(each.serializers)} "
            f"| {', '.join(each.methods)} |"
            for each in CLIENTS
        ),
    )
    rows = [
        f"| {case.group} | {_plain(case.name)} | {_shown(case.expect)} "
        f"| {_shown(case.crossbar or [])} | {case.why} |"
        for case in differing
    ]
    return head + "\n".join(rows) + "\n"


def _shown(outcome: Outcome) -> str:
    counted = Counter(outcome)
    if len(outcome) > 1 and len(counted) == 1:
        return f"{len(outcome)}× `{outcome[0]}`"
    return "; ".join(f"`{text}`" if text else "nothing" for text in outcome)


def _plain(text: str) -> str:
    return text.replace("**", r"\*\*").replace("#", r"\#")


if __name__ == "__main__":
    PAGE.write_text(page())
