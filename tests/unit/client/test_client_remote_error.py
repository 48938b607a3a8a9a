"""The exception that a job raised, told there and made again here."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cumulus_client._remote_error import NOTE, original
from cumulus_runner import job_errors, job_values
from cumulus_runner.report import bounded_error
from cumulus_wire import light_json


class Own(ValueError):
    """Runs nothing of its own when it is made again."""

    made = 0

    def __init__(self, code: int) -> None:
        type(self).made += 1
        super().__init__(f"code {code}")
        self.code = code


class Picky(Exception):
    def __init__(self, *, needed: int) -> None:
        super().__init__("picky")
        self.needed = needed
        self.odd = object()


def told(error: BaseException) -> dict[str, str]:
    try:
        raise error
    except BaseException as caught:
        record = job_errors.describe(caught, "/work", {}, job_values.is_plain, light_json)
    return bounded_error(json.loads(json.dumps(record)))


def again(error: BaseException, **options: Any) -> BaseException:
    return original(told(error), options.pop("aliases", {}), may_import=False, **options)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 1, None, [2.5]),
        KeyError("k"),
        FileNotFoundError(2, "No such file or directory", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ModuleNotFoundError("No module named 'x'", name="x"),
        SyntaxError("bad", ("f.py", 1, 2, "x y", 1, 3)),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(5),
        ZeroDivisionError("division by zero"),
        asyncio.CancelledError(),
        subprocess.CalledProcessError(3, ["x"]),
        AssertionError(),
        Own(7),
        Picky(needed=3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_type_arguments_and_text_are_the_same(error: BaseException) -> None:
    Own.made = 0
    made = again(error)
    assert type(made) is type(error)
    assert made.args == error.args and str(made) == str(error)
    assert made.__notes__ == [NOTE]
    for name in ("errno", "filename", "name", "object", "lineno", "code", "needed", "returncode"):
        assert getattr(made, name, None) == getattr(error, name, None), name
    assert Own.made == 0


def test_groups_come_with_their_members() -> None:
    group = ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [Own(2)])])
    made = again(group)
    assert isinstance(made, ExceptionGroup) and made.message == "several"
    assert type(made.exceptions[0]) is ValueError and made.exceptions[0].args == (1,)
    inner = made.exceptions[1]
    assert isinstance(inner, ExceptionGroup) and type(inner.exceptions[0]) is Own
    wide = again(BaseExceptionGroup("wide", [KeyboardInterrupt() for _ in range(200)]))
    assert isinstance(wide, BaseExceptionGroup)
    assert len(wide.exceptions) == job_errors.MAX_MEMBERS


class Exhausted(Exception):
    """No group, though it calls what it has so."""

    def __init__(self, said: str, *exceptions: Exception) -> None:
        super().__init__(said)
        self.exceptions = exceptions


def test_what_only_holds_exceptions_is_no_group() -> None:
    made = again(Exhausted("all failed", ValueError(1), OSError(2, "no")))
    assert type(made) is Exhausted and str(made) == "all failed"


def test_types_that_are_not_here_are_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    record = told(Own(5)) | {"module": "not_here_at_all", "type": "outer.<locals>.Own"}
    made = original(record, {}, may_import=True)
    assert isinstance(made, ValueError) and type(made) is not ValueError
    assert (type(made).__name__, type(made).__module__) == ("Own", "not_here_at_all")
    assert str(made) == "code 5"
    known = original(
        told(Own(5)) | {"module": "job_name"}, {"job_name": __name__}, may_import=False
    )
    assert type(known) is Own
    # A script that comes back to a job of an earlier run of it.
    monkeypatch.setattr(sys.modules["__main__"], "Own", Own, raising=False)
    record = told(Own(5)) | {"module": "app.cumulus_main_train"}
    assert type(original(record, {}, may_import=False)) is Own
    # Modules that aren't imported are left alone unless pickles may be opened, too.
    record = told(ValueError("x")) | {"module": "this", "type": "C"}
    assert str(original(record, {}, may_import=False)) == "x"
    assert "this" not in sys.modules


def test_what_names_no_exception_is_never_called() -> None:
    for module, name in (("os", "system"), ("builtins", "print"), ("builtins", "int"), ("os", "")):
        made = original({"module": module, "type": name, "message": "m"}, {}, may_import=True)
        assert str(made) == "m" and isinstance(made, Exception)


@given(
    st.dictionaries(
        st.sampled_from(["type", "module", "message", "traceback", "value"]),
        st.text() | st.sampled_from(["builtins", "ValueError", "UnicodeDecodeError", "OSError"]),
    ),
    st.dictionaries(
        st.sampled_from(["bases", "args", "state", "members", "text"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5) | st.just("builtins"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
        ),
    ),
)
@example(record={}, value={"bases": 1})
@example(record={"message": "m"}, value={"args": [["bytes", "no hex"]]})
@example(record={"type": "ValueError"}, value={"args": [], "state": {"__notes__": 5}})
def test_any_record_gives_an_exception(record: dict[str, str], value: dict[str, Any]) -> None:
    for one in (record, {**record, "value": json.dumps(value)}):
        assert isinstance(original(one, {}, may_import=False), BaseException)


def test_a_module_that_leaves_when_it_is_imported_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script_that_leaves.py").write_text("import sys\nsys.exit('run me in a job')\n")
    monkeypatch.syspath_prepend(tmp_path)
    record = told(Own(5)) | {"module": "script_that_leaves"}
    made = original(record, {}, may_import=True)
    assert isinstance(made, ValueError) and str(made) == "code 5"


def test_errors_are_bounded_and_survive_themselves() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        def __reduce__(self) -> Any:
            raise RuntimeError("no")

    record = told(Hostile())
    assert "RuntimeError" in record["message"]
    assert type(original(record, {}, may_import=False)).__name__ == "Hostile"
    large = told(ValueError("x" * 100_000, list(range(100_000))))
    assert len(large["value"]) < 1000 and len(large["message"]) < 20_000
    assert type(original(large, {}, may_import=False)) is ValueError


def test_tracebacks_name_the_users_files(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "link").symlink_to(work)
    for name in ("cumulus_main_train.py", "helper.py", "other.py"):
        (work / name).write_text(
            "class Bad(Exception): pass\ndef f():\n    raise Bad('x')  # here\n"
        )

    def text(name: str, origins: dict[str, str]) -> str:
        code = compile((work / name).read_text(), str(work / name), "exec")
        names: dict[str, Any] = {"__name__": name.removesuffix(".py")}
        exec(code, names)
        try:
            names["f"]()
        except Exception as error:
            return job_errors.describe(
                error, str(tmp_path / "link"), origins, job_values.is_plain, light_json
            )["traceback"]
        raise AssertionError

    shown = text("cumulus_main_train.py", {"cumulus_main_train.py": "/home/u/train.py"})
    assert "File \"/home/u/train.py\", line 3, in f\n    raise Bad('x')  # here" in shown
    assert shown.endswith("\nBad: x\n")
    assert 'File "/p/helper.py", line 3' in text("helper.py", {"": "/p"})
    assert f'File "{work}/other.py"' in text("other.py", {"helper.py": "/p/helper.py"})
