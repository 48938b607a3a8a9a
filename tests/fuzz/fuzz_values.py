"""Odd values, as hypothesis draws them, and their JSON."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_EDGES = (0, -1, 255, 1 << 31, 1 << 53, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30, 10**400)
_ODD_TEXT = ("", "\0", "\0QUJD", "\ud800", "🙂", "\u202e", "a" * 300, "../..", "\r\n", "%s{}")

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_EDGES),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.sampled_from(_ODD_TEXT),
    st.text(max_size=8),
)


def values(words: Sequence[str]) -> st.SearchStrategy[Any]:
    """Anything JSON may hold, in which these words are likely."""
    word = st.sampled_from(words)
    return st.recursive(
        SCALARS | word,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(word | st.text(max_size=4), inner, max_size=5)
        ),
        max_leaves=10,
    )


def objects(words: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these words as keys."""
    return st.dictionaries(st.sampled_from(words), values(words), max_size=6)


def json_text(words: Sequence[str]) -> st.SearchStrategy[bytes]:
    """JSON (Python's, so NaN too) of such an object; now and then one that nests very deep."""
    deep = st.integers(60, 1200).flatmap(
        lambda depth: st.sampled_from(words).map(
            lambda word: f'{{"{word}":{"[" * depth}{"]" * depth}}}'.encode()
        )
    )
    plain = objects(words).map(lambda value: json.dumps(value).encode())
    return st.integers(0, 19).flatmap(lambda dice: deep if dice == 0 else plain)
