"""The authenticator: what closes it, what expires, and who is told when a token is gone."""

import pytest

from cumulusd.identity import (
    ANONYMOUS,
    Authenticator,
    Credential,
    KnownToken,
    Principal,
    Role,
    Source,
    hash_token,
)

ANN = Principal(name="ann", owner="ann", role=Role.CLIENT)
AGENT = Principal(name="agent-n1", owner="cumulusd", role=Role.AGENT, node_id="n1")
KEY = "ab" * 32


class Moment:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Doors:
    """An authenticator, and what it told."""

    def __init__(self, *tokens: tuple[str, Principal]) -> None:
        self.moment = Moment()
        self.told: list[tuple[str, str]] = []
        self.doors = Authenticator([(hash_token(token), who) for token, who in tokens], self.moment)
        self.doors.watch(lambda name, why: self.told.append((name, why)))


def made(token: str, who: Principal = ANN, expires_at: float | None = None) -> KnownToken:
    return KnownToken(
        sha256=hash_token(token),
        credential=Credential(principal=who, public_keys=(KEY,)),
        source=Source.COMMAND,
        expires_at=expires_at,
    )


def test_the_first_token_closes_and_ends_who_came_without() -> None:
    it = Doors()
    assert it.doors.open and it.doors.authenticate(None) == ANONYMOUS
    it.doors.add(hash_token("agent"), AGENT)
    assert it.doors.open and it.told == [], "the daemon's own close nothing"
    it.doors.put(made("secret"))
    assert not it.doors.open
    assert it.doors.authenticate(None) is None is it.doors.authenticate("wrong")
    assert it.doors.authenticate("secret") == ANN and it.doors.authenticate("agent") == AGENT
    assert [name for name, _ in it.told] == ["anonymous"]
    it.doors.put(made("other"))
    assert len(it.told) == 1, "it is told once"


def test_taking_the_last_token_away_opens_nothing() -> None:
    it = Doors(("secret", ANN))
    it.doors.discard(hash_token("secret"))
    assert not it.doors.open and it.doors.authenticate(None) is None
    it.doors.configure([])
    assert it.doors.authenticate("secret") is None is it.doors.authenticate(None)


def test_who_is_told_of_a_revoked_one() -> None:
    it = Doors(("secret", ANN))
    it.doors.discard(hash_token("never there"))
    assert it.told == []
    it.doors.discard(hash_token("secret"))
    ((name, why),) = it.told
    assert name == "ann" and "the token 'ann' was revoked" in why and "operator" in why
    assert it.doors.credential("ann") is None


def test_a_replaced_token_of_an_agent_ends_nothing() -> None:
    it = Doors()
    it.doors.add(hash_token("old"), AGENT)
    it.doors.add(hash_token("new"), AGENT)
    it.doors.discard(hash_token("old"))
    assert it.told == [] and it.doors.authenticate("new") == AGENT
    it.doors.discard(hash_token("new"))
    assert [name for name, _ in it.told] == ["agent-n1"]


def test_an_expired_one_opens_nothing_by_no_method() -> None:
    it = Doors()
    it.doors.put(made("secret", expires_at=1060.0))
    assert it.doors.credential("ann") is not None
    assert it.doors.credential_of_key(KEY.upper()) == it.doors.credential("ann")
    assert it.doors.expire() == 60.0
    it.moment.now = 1060.0
    assert it.doors.authenticate("secret") is None
    assert it.doors.authenticate_header("Bearer secret") is None
    assert it.doors.credential("ann") is None is it.doors.credential_of_key(KEY)
    assert [name for name, _ in it.told] == ["anonymous"], "what is open is ended by expire()"
    assert it.doors.expire() is None
    assert it.told[1][0] == "ann" and "has expired" in it.told[1][1]
    assert it.doors.expire() is None and len(it.told) == 2, "it is told once"
    assert not it.doors.open


def test_a_clock_that_is_set_back_revives_none() -> None:
    it = Doors()
    it.doors.put(made("secret", expires_at=1060.0))
    it.moment.now = 2000.0
    it.doors.expire()
    it.moment.now = 1000.0
    assert it.doors.authenticate("secret") is None


def test_the_next_expiry_is_the_soonest() -> None:
    it = Doors()
    assert it.doors.expire() is None
    it.doors.put(made("a", expires_at=1500.0))
    it.doors.put(made("b", Principal(name="b", owner="b", role=Role.VIEWER), 1100.0))
    assert it.doors.expire() == 100.0
    it.moment.now = 1200.0
    assert it.doors.expire() == 300.0 and it.told[-1][0] == "b"


@pytest.mark.parametrize(
    ("new", "ended"),
    [
        ([("secret", ANN)], []),
        ([("secret", ANN), ("more", Principal(name="x", owner="x", role=Role.ADMIN))], []),
        ([("another", ANN)], []),  # the same party, by another token
        ([], ["ann"]),
        ([("secret", Principal(name="ann", owner="ann", role=Role.VIEWER))], ["ann"]),
        ([("secret", Principal(name="bob", owner="ann", role=Role.CLIENT))], ["ann"]),
    ],
)
def test_a_configuration_that_is_read_again(
    new: list[tuple[str, Principal]], ended: list[str]
) -> None:
    it = Doors(("secret", ANN))
    it.doors.put(made("mine", Principal(name="mine", owner="m", role=Role.CLIENT)))
    it.doors.add(hash_token("agent"), AGENT)
    it.doors.configure([(hash_token(token), who) for token, who in new])
    assert [name for name, _ in it.told] == ended
    for token, who in new:
        assert it.doors.authenticate(token) == who
    if "secret" not in dict(new):
        assert it.doors.authenticate("secret") is None
    assert it.doors.authenticate("agent") == AGENT and it.doors.authenticate("mine") is not None


@pytest.mark.parametrize("text", ["", "\ud800", "\0", "x" * 100_000, "é"])
def test_whatever_is_sent_is_no_token(text: str) -> None:
    assert Doors(("secret", ANN)).doors.authenticate(text) is None
