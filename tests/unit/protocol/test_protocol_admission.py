"""How many connections are taken, and what counts as one address."""

import pytest

from cumulusd.protocol.admission import TURNED_AWAY_AT_ONCE, Admission, source_of
from cumulusd.protocol.limits import Limits

LIMITS = Limits(max_connections=100, max_connections_per_address=2)


@pytest.mark.parametrize(
    ("host", "source"),
    [
        (None, None),  # a unix socket
        ("", None),
        ("127.0.0.1", None),
        ("127.8.9.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("memory", "memory"),
    ],
)
def test_what_counts_as_one_address(host: str | None, source: str | None) -> None:
    assert source_of(host) == source


def test_one_address_has_so_many_and_others_still_come() -> None:
    admission = Admission(LIMITS)
    assert admission.enter(1, "a") is None and admission.enter(2, "a") is None
    denial = admission.enter(3, "a")
    assert denial is not None and denial.reason == "connections_per_address"
    assert "a has 2 connections" in denial.text
    assert "router.max_connections_per_address" in denial.text
    assert admission.enter(4, "b") is None
    admission.leave(1)
    admission.leave(1)
    assert admission.enter(5, "a") is None
    assert admission.enter(6, "a") is not None  # 1 was given back once


def test_this_machine_has_only_the_bound_of_all() -> None:
    admission = Admission(LIMITS)
    for number in range(100):
        assert admission.enter(number, None) is None
    denial = admission.enter(100, None)
    assert denial is not None and denial.reason == "connections"
    assert "the most it takes" in denial.text


def test_those_that_are_turned_away_are_few_and_take_no_place() -> None:
    admission = Admission(Limits(max_connections=1))
    admission.enter(0, None)
    for number in range(1, TURNED_AWAY_AT_ONCE + 1):
        assert admission.refusal(None) is None  # it will be told by ABORT
        assert admission.enter(number, None) is not None
    denial = admission.refusal(None)
    assert denial is not None and denial.reason == "connections"
    admission.leave(1)
    assert admission.refusal(None) is None
    admission.leave(0)
    assert admission.enter(999, None) is None
