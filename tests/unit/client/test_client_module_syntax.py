"""What is read off modules is read once for each content, and never out of date."""

import importlib
import io
import os
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cumulus_client import _module_syntax
from cumulus_client._module_syntax import imports_of, syntax_of
from cumulus_client._parsing import parse_module
from cumulus_client.packaging import package_function

Make = Callable[..., ModuleType]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes modules in a folder of their own, and imports the last one."""
    monkeypatch.syspath_prepend(tmp_path)
    made: set[str] = set()

    def make(**sources: str) -> ModuleType:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            made.add(name)
        importlib.invalidate_caches()
        return importlib.import_module(list(sources)[-1])

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are parsed from now on."""
    found: list[str] = []

    def counted(source: str | bytes, filename: str) -> object:
        found.append(os.path.basename(filename))
        return parse_module(source, filename)

    monkeypatch.setattr(_module_syntax, "parse_module", counted)
    return found


def files_of(data: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


USER = """\
import user_helper
LIMIT = 3
def work(n: int) -> "int":
    return user_helper.double(n) + LIMIT
"""
HELPER = "def double(n):\n    return n * 2\n"


def test_each_module_is_parsed_once(make: Make, parsed: list[str]) -> None:
    user = make(user_helper=HELPER, user_once=USER)
    first = package_function(user.work, [1])
    assert sorted(parsed) == ["<unknown>", "user_helper.py", "user_once.py"], "once, each"
    again = package_function(user.work, [1])
    other = package_function(user.work, [2])
    assert len(parsed) == 3, "no more"
    assert again.data == first.data
    assert files_of(other.data)["call.json"] != files_of(first.data)["call.json"]


def test_what_a_global_is_now_travels(make: Make) -> None:
    user = make(user_helper=HELPER, user_globals=USER)
    for limit in (3, 4, [5]):
        user.LIMIT = limit  # type: ignore[attr-defined]
        source = files_of(package_function(user.work, [1]).data)["user_globals.py"]
        assert f"LIMIT = {limit}" in source


def test_a_changed_file_is_seen_whatever_its_time_says(make: Make, tmp_path: Path) -> None:
    user = make(user_helper=HELPER, user_changed=USER)
    helper = tmp_path / "user_helper.py"
    package_function(user.work, [1])
    before = helper.stat()
    helper.write_text(HELPER.replace("2", "7"))
    os.utime(helper, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert helper.stat().st_size == before.st_size
    assert "n * 7" in files_of(package_function(user.work, [1]).data)["user_helper.py"]


def test_a_new_import_of_a_helper_brings_its_module(make: Make, tmp_path: Path) -> None:
    user = make(user_more="X = 1\n", user_helper=HELPER, user_grown=USER)
    assert "user_more.py" not in files_of(package_function(user.work, [1]).data)
    (tmp_path / "user_helper.py").write_text("import user_more\n" + HELPER)
    assert "user_more.py" in files_of(package_function(user.work, [1]).data)


def test_reading_names_changes_no_syntax() -> None:
    source = (
        "from __future__ import annotations\n"
        "class A:\n    x: B = C\n"
        "def f(a: D, *b: E, c: 'F' = G) -> H:\n    i: J = K\n    return L\n"
    )
    import ast

    syntax = syntax_of(source)
    before = [ast.dump(node) for node in syntax.statements]
    found = [syntax.reach(index, ()) for index in range(3)]
    assert [ast.dump(node) for node in syntax.statements] == before
    assert found[1].needed == {"C"} and found[1].optional == {"B"}
    assert found[2].needed == {"G", "K", "L"} and found[2].optional == {"D", "E", "F", "H", "J"}


def test_threads_share_a_module(make: Make) -> None:
    user = make(user_helper=HELPER, user_shared=USER)
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.append(package_function(user.work, [1]).data))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 8 and len(set(made)) == 1


def test_imports_anywhere_in_a_module() -> None:
    source = """\
import a, b.c
def f():
    try:
        from .d import e
    except ImportError:
        import g
    else:
        from .. import h
    finally:
        match 1:
            case 1:
                import i
    class K:
        async def l(self):
            async with x:
                while True:
                    import m
"""
    assert set(imports_of(source).names("p.q")) == {
        *("a", "b.c", "p.q.d", "p.q.d.e", "g", "p", "p.h", "i", "m"),
    }


def test_a_chain_of_branches_of_any_length() -> None:
    source = "if x:\n    import a\n" + "elif x:\n    import b\n" * 1500 + "else:\n    import c\n"
    assert list(imports_of(source).names("")) == ["a", *["b"] * 1500, "c"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    held = _module_syntax._Remembered(len, max_count=3, max_chars=100)  # type: ignore[arg-type]
    monkeypatch.setattr(_module_syntax, "parse_module", lambda source, filename: [source])
    for number in range(10):
        held.of(f"x = {number}", "f")
    assert len(held._held) == 3
    held.of("x" * 90, "f")
    assert held._chars <= 100
    held.of("x" * 900, "f")
    assert (len(held._held), held._chars) == (0, 0), "too large to keep"


def test_what_compiles_is_compiled_once_and_remembered_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []

    def counted(source: str, *args: object, **kwargs: object) -> None:
        # No lock is held meanwhile: others go on.
        assert _module_syntax._compiled_lock.acquire(blocking=False)
        _module_syntax._compiled_lock.release()
        compiled.append(source)
        compile(source, "f", "exec")

    monkeypatch.setattr(_module_syntax, "compile", counted, raising=False)
    monkeypatch.setattr(_module_syntax, "_compiled", OrderedDict())
    monkeypatch.setattr(_module_syntax, "MAX_FACTS", 3)
    for source in ("a", "b", "c", "a", "d", "d", "a"):
        _module_syntax.check_compiles(source, "f")
    assert compiled == ["a", "b", "c", "d", "a"]
    assert len(_module_syntax._compiled) == 3
    for _ in range(2):
        with pytest.raises(SyntaxError):
            _module_syntax.check_compiles("x = (", "f")
