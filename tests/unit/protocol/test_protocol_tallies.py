"""Every reason for a refusal is one that the daemon has, and none is counted without a name."""

import ast
from pathlib import Path

from test_protocol_flow_router import LIMITS, OPEN, Wire
from twisted.internet.task import Clock
from wamp_peers import CLIENT

from cumulusd.identity import Authenticator, hash_token
from cumulusd.protocol.router import Router
from cumulusd.protocol.tallies import REFUSALS, Tallies

PACKAGE = Path(__file__).parents[3] / "cumulusd"


def texts(path: Path) -> set[str]:
    """The string constants of a module."""
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_each_reason_is_given_somewhere() -> None:
    sources = [path for path in PACKAGE.rglob("*.py") if path.name != "tallies.py"]
    given = set().union(*map(texts, sources))
    assert set(REFUSALS) - {"other"} <= given


def test_a_reason_without_a_name_makes_no_series_of_its_own() -> None:
    tallies = Tallies()
    tallies.refused("whatever a peer may have said")
    tallies.refused("uri")
    assert set(tallies.refusals) == set(REFUSALS)
    assert (tallies.refusals["other"], tallies.refusals["uri"]) == (1, 1)


def test_each_deadline_has_its_own_reason() -> None:
    clock = Clock()
    router = Router(
        clock=clock,
        authenticator=Authenticator([(hash_token("a-token"), CLIENT)]),
        limits=LIMITS,
        allowed=OPEN,
    )
    silent, halfway = Wire(router), Wire(router)
    assert (
        halfway.give(
            b'[1,"cumulus",{"authid":"ann","authmethods":["ticket"],"roles":{"caller":{}}}]'
        )[0][0]
        == 4
    )
    clock.advance(LIMITS.hello_timeout_s + 0.1)
    assert "send HELLO sooner" in silent.sent[-1][1]["message"]
    assert "send AUTHENTICATE sooner" in halfway.sent[-1][1]["message"]
    clock.advance(LIMITS.close_timeout_s + 0.1)  # and they don't close
    assert silent.aborted and halfway.aborted
    counted = {name: count for name, count in router.stats().refusals.items() if count}
    assert counted == {"hello_timeout": 1, "authentication_timeout": 1, "close_timeout": 2}
    assert not clock.getDelayedCalls()
