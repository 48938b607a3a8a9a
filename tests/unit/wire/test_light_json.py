"""`light_json` beside `json`: the same values, texts and errors."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus_wire.light_json import dumps, loads
from tests.unit.runner.runner_kit import REPOSITORY

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def outcome(of: Any, *arguments: Any, **options: Any) -> str:
    try:
        return repr(of(*arguments, **options))
    except (ValueError, TypeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


@given(VALUES, st.booleans(), st.booleans(), st.booleans())
def test_texts(value: Any, ascii_only: bool, compact: bool, finite: bool) -> None:
    ours = outcome(dumps, value, ascii_only=ascii_only, compact=compact, finite=finite)
    separators = (",", ":") if compact else None
    assert ours == outcome(
        json.dumps, value, ensure_ascii=ascii_only, separators=separators, allow_nan=not finite
    )


@given(VALUES, st.sampled_from(["", " ", "\n\t"]), st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_values(value: Any, space: str, encoding: str) -> None:
    text = f"{space}{json.dumps(value)}{space}"
    assert outcome(loads, text) == outcome(json.loads, text)
    data = text.encode(encoding)
    assert outcome(loads, data) == outcome(json.loads, data)


@given(VALUES, st.integers(0, 200), st.text(max_size=2))
def test_faults(value: Any, at: int, put: str) -> None:
    text = json.dumps(value)
    for spoilt in (text[:at] + put + text[at + 1 :], text[:at]):
        assert outcome(loads, spoilt) == outcome(json.loads, spoilt)


@pytest.mark.parametrize(
    "value",
    [object(), {object(): 1}, {1: 2, None: 3}, b"", {"a": {1}}, (1, 2)],
    ids=["object", "key", "keys", "bytes", "set", "tuple"],
)
def test_what_is_no_json(value: Any) -> None:
    assert outcome(dumps, value) == outcome(json.dumps, value)


def test_circles() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert outcome(dumps, circle) == outcome(json.dumps, circle)


@pytest.mark.parametrize("text", ["", "{", '"a', '["a', '{"a":"\\u12', "[1,", "nul", '"\n"'])
def test_faults_where_json_was_never_imported(text: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from cumulus_wire.light_json import *\n"
        "assert loads('[1, \"a\"]') == [1, 'a'] and dumps({'a': 1.5}) == '{\"a\": 1.5}'\n"
        "assert 'json' not in sys.modules and 're' not in sys.modules\n"
        "try: loads(sys.argv[2])\n"
        "except ValueError as error: print(error)"
    )
    arguments = [sys.executable, "-I", "-S", "-c", code, str(REPOSITORY), text]
    told = subprocess.run(arguments, capture_output=True, text=True)
    assert told.stdout.strip() == outcome(json.loads, text).partition(": ")[2], told.stderr
