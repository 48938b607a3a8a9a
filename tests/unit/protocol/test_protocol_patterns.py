"""What a URI matches, against the definition applied to every pattern in turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulusd.protocol.match import is_valid_uri
from cumulusd.protocol.patterns import EXACT, POLICIES, PREFIX, WILDCARD, Patterns


def matches(pattern: str, policy: str, uri: str) -> bool:
    """WAMP's definition."""
    if policy == EXACT:
        return pattern == uri
    if policy == PREFIX:
        return uri.startswith(pattern)
    wanted, given = pattern.split("."), uri.split(".")
    return len(wanted) == len(given) and all(w in ("", g) for w, g in zip(wanted, given))  # noqa: B905


def literal_runs(wildcard: str) -> list[int]:
    """How many components stand before the first wildcard, between it and the second, ..."""
    runs = [0]
    for component in wildcard.split("."):
        if component:
            runs[-1] += 1
        else:
            runs.append(0)
    return runs


def best(patterns: set[tuple[str, str]], uri: str) -> tuple[str, str] | None:
    """WAMP's order of precedence."""
    found = [each for each in patterns if matches(*each, uri)]
    for policy, worth in ((EXACT, len), (PREFIX, len), (WILDCARD, literal_runs)):
        of_policy = [each for each in found if each[1] == policy]
        if of_policy:
            return max(of_policy, key=lambda each: worth(each[0]))
    return None


WORDS = st.sampled_from(["a", "b", "ab", "42", "421"])
URIS = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
PREFIXES = st.builds(lambda uri, cut: uri[:cut], URIS, st.integers(0, 12))
WILDCARDS = st.lists(st.one_of(WORDS, st.just("")), min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(
    URIS.map(lambda uri: (uri, EXACT)),
    PREFIXES.map(lambda prefix: (prefix, PREFIX)),
    WILDCARDS.map(lambda wildcard: (wildcard, WILDCARD)),
)


@settings(max_examples=400, deadline=None)
@given(st.sets(PATTERNS, max_size=12), st.sets(PATTERNS, max_size=6), st.lists(URIS, max_size=6))
def test_what_matches_is_what_the_definition_says(
    kept: set[tuple[str, str]], removed: set[tuple[str, str]], uris: list[str]
) -> None:
    patterns: Patterns[tuple[str, str]] = Patterns()
    for each in sorted(kept | removed):
        patterns.put(*each, each)
    for each in sorted(removed - kept):
        patterns.remove(*each)
    assert len(patterns) == len(kept)
    assert patterns.patterned == any(policy != EXACT for _, policy in kept)
    for policy in POLICIES:
        assert set(patterns.of(policy)) == {p for p, its in kept if its == policy}
    for uri in uris:
        found = patterns.matching(uri)
        assert patterns.any_matches(uri) is bool(found)
        assert sorted(found) == sorted(each for each in kept if matches(*each, uri))
        assert patterns.best(uri) == best(kept, uri)


@settings(max_examples=100, deadline=None)
@given(st.sets(PATTERNS, max_size=12))
def test_nothing_is_left_of_what_is_removed(kept: set[tuple[str, str]]) -> None:
    patterns: Patterns[tuple[str, str]] = Patterns()
    for each in kept:
        patterns.put(*each, each)
    for each in kept:
        patterns.remove(*each)
    assert len(patterns) == 0 and not patterns.patterned
    assert not patterns._tree.children and patterns._tree.value is None
    assert not patterns._lengths and not patterns._ascending


@pytest.mark.parametrize(
    ("uri", "number"),
    [
        ("a1.b2.c3.d4.e55", 1),
        ("a1.b2.c3.d98.e74", 2),
        ("a1.b2.c3.d4.e325", 3),
        ("a1.b2.c55.d4.e5", 4),
        # It says 5 here, but `a1.b2.c3` is a prefix of this text, as in its own definition.
        ("a1.b2.c33.d4.e5", 2),
        ("a1.b2.d33.d4.e5", 4),
        ("a1.b2.c88.d4.e5.f6.g7", 6),
        ("a2.b2.c2.d2.e2", None),
    ],
)
def test_the_examples_of_the_specification(uri: str, number: int | None) -> None:
    patterns: Patterns[int] = Patterns()
    for value, (pattern, policy) in enumerate(
        [
            ("a1.b2.c3.d4.e55", EXACT),
            ("a1.b2.c3", PREFIX),
            ("a1.b2.c3.d4", PREFIX),
            ("a1.b2..d4.e5", WILDCARD),
            ("a1.b2.c33..e5", WILDCARD),
            ("a1.b2..d4.e5..g7", WILDCARD),
            ("a1.b2..d4..f6.g7", WILDCARD),
        ],
        start=1,
    ):
        patterns.put(pattern, policy, value)
    assert patterns.best(uri) == number


def test_a_prefix_is_one_of_the_text() -> None:
    patterns: Patterns[str] = Patterns()
    patterns.put("cumulus.job.42", PREFIX, "short")
    patterns.put("cumulus.job.42.", PREFIX, "whole")
    assert patterns.matching("cumulus.job.421.status") == ["short"]
    assert patterns.matching("cumulus.job.42.status") == ["short", "whole"]
    assert patterns.best("cumulus.job.42.status") == "whole"


@pytest.mark.parametrize(
    ("pattern", "policies"),
    [
        ("a.b", {EXACT, PREFIX, WILDCARD}),
        ("a.", {PREFIX, WILDCARD}),
        ("", {PREFIX, WILDCARD}),
        (".", {WILDCARD}),
        ("a..b", {WILDCARD}),
        (".a", {WILDCARD}),
        ("a b", set()),
        ("a#", set()),
        ("a\n", set()),
        ("x" * 21, set()),
    ],
)
def test_the_form_of_patterns(pattern: str, policies: set[str]) -> None:
    assert {policy for policy in POLICIES if is_valid_uri(pattern, 20, policy)} == policies
