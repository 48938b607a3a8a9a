"""The runner's light enumerations beside those of `enum`."""

import enum
import json
import subprocess
import sys

import pytest

from cumulus_wire import codes, journal, light_enums, states
from tests.unit.runner.runner_kit import REPOSITORY


class Number(light_enums.IntEnum):
    ONE = 1
    TWO = 2


class Word(light_enums.StrEnum):
    A = "a"
    B = "b"

    @property
    def is_last(self) -> bool:
        return self is Word.B


def test_members() -> None:
    assert [(one.name, one.value) for one in Number] == [("ONE", 1), ("TWO", 2)]
    assert Number(2) is Number.TWO and Number.TWO == 2 and f"{Number.TWO}" == "2"
    assert Word("b") is Word.B and Word.B.is_last and not Word.A.is_last
    assert f"{Word.A}" == str(Word.A) == "a" and json.dumps([Word.A, Number.ONE]) == '["a", 1]'
    assert {Word.A: 1}["a"] == 1 and isinstance(Word.A, Word)


@pytest.mark.parametrize("value", ["c", None, ["a"]], ids=["other", "none", "list"])
def test_no_member(value: object) -> None:
    with pytest.raises(ValueError, match="is not a valid Word"):
        Word(value)


def test_a_runner_has_the_same_ones() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import cumulus_wire\n"
        "cumulus_wire.is_light = True\n"
        "from cumulus_wire import codes, journal, states\n"
        "kinds = [codes.EndReason, codes.WaitReason, codes.ErrorCode]\n"
        "kinds += [states.JobState, journal.Kind]\n"
        "found = [[[one.name, one.value] for one in kind] for kind in kinds]\n"
        "assert 'enum' not in sys.modules and states.JobState.FAILED.ended\n"
        "import json; print(json.dumps(found))"
    )
    told = subprocess.check_output([sys.executable, "-I", "-S", "-c", code, str(REPOSITORY)])
    kinds: list[type[enum.Enum]] = [
        codes.EndReason,
        codes.WaitReason,
        codes.ErrorCode,
        states.JobState,
        journal.Kind,
    ]
    assert json.loads(told) == [[[one.name, one.value] for one in kind] for kind in kinds]
