"""A call's code is packed once, and again as soon as anything of it is another."""

import gc
import importlib
import inspect
import io
import os
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cumulus_client import _remembered_code, _source_route
from cumulus_client._remembered_code import Code, Memory, Witness
from cumulus_client._signatures import signature_of
from cumulus_client.packaging import package_function

HELPER = "def double(n):\n    return 2 * n\n"
MAIN = """\
import remembered_helper
LIMIT = 3
NAMES = ["a"]
class Big: pass
big = Big()
def inner(n):
    return n + 1
def work(n):
    return remembered_helper.double(inner(n)) + LIMIT + len(NAMES)
def other(n):
    return big
"""


class User:
    """Two modules of a user's, and how often their code is packed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sliced = 0

    def load(self) -> ModuleType:
        importlib.invalidate_caches()
        return importlib.import_module("remembered_main")

    def work(self, number: int = 1) -> dict[str, str]:
        """The package's files for a call of `work`."""
        data = package_function(sys.modules["remembered_main"].work, [number]).data
        assert isinstance(data, bytes)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            return {
                name: archive.read(name).decode(errors="replace") for name in archive.namelist()
            }


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    found = User(tmp_path)
    real = _source_route.slice_module

    def counted(*args: Any, **kwargs: Any) -> str:
        found.sliced += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(_source_route, "slice_module", counted)
    monkeypatch.setattr(_source_route, "_memory", Memory())
    # Files are settled as soon as they are there.
    monkeypatch.setattr(_remembered_code, "UNSETTLED_S", -1e9)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "remembered_helper.py").write_text(HELPER)
    (tmp_path / "remembered_main.py").write_text(MAIN)
    found.load()
    yield found
    for name in ("remembered_main", "remembered_helper", "remembered_late"):
        sys.modules.pop(name, None)


def test_calls_of_one_function_pack_its_code_once(user: User) -> None:
    first = user.work(1)
    for number in range(2, 5):
        files = user.work(number)
        assert f'"args": [{number}]' in files.pop("call.json")
        assert files == {name: text for name, text in first.items() if name != "call.json"}
    assert user.sliced == 1
    assert user.work(1) == first


def edited_helper(user: User) -> None:
    path = user.folder / "remembered_helper.py"
    before = path.stat()
    path.write_text(HELPER.replace("2", "7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def new_helper(user: User) -> None:
    """Another file in the same place, as editors leave it."""
    aside = user.folder / "aside"
    aside.write_text(HELPER.replace("2", "7"))
    os.replace(aside, user.folder / "remembered_helper.py")


def changed_limit(user: User) -> None:
    sys.modules["remembered_main"].LIMIT = 7  # type: ignore[attr-defined]


def changed_type(user: User) -> None:
    sys.modules["remembered_main"].LIMIT = 3.7  # type: ignore[attr-defined]


def appended_name(user: User) -> None:
    sys.modules["remembered_main"].NAMES.append("7")


@pytest.mark.parametrize("change", [edited_helper, new_helper, changed_limit, changed_type])
def test_what_is_another_travels_so(user: User, change: Callable[[User], None]) -> None:
    before = user.work()
    change(user)
    after = user.work()
    assert user.sliced == 2 and "7" in "".join(after.values())
    assert after != before


def test_a_list_that_grew_travels_so(user: User) -> None:
    user.work()
    appended_name(user)
    assert "NAMES = ['a', '7']" in user.work()["remembered_main.py"]


def test_a_list_that_grew_while_its_code_was_packed_is_another(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread: after its value was written down, and before that was remembered."""
    real = _source_route.collect

    def collect(*args: Any, **kwargs: Any) -> Any:
        appended_name(user)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_source_route, "collect", collect)
        assert "NAMES = ['a']" in user.work()["remembered_main.py"]
    assert "NAMES = ['a', '7']" in user.work()["remembered_main.py"]


def test_a_value_that_can_not_be_written_down_any_more_is_seen(user: User) -> None:
    user.work()
    sys.modules["remembered_main"].LIMIT = Path("seven")  # type: ignore[attr-defined]
    assert "call.pickle" in user.work(), "by value, instead of by its source"


def test_a_module_that_turns_up_travels(user: User) -> None:
    late = "def work(n):\n    try:\n        import remembered_late\n    except ImportError: pass\n"
    (user.folder / "remembered_main.py").write_text(late)
    del sys.modules["remembered_main"]
    user.load()
    assert "remembered_late.py" not in user.work()
    user.work()
    assert user.sliced == 1
    (user.folder / "remembered_late.py").write_text("X = 1\n")
    importlib.invalidate_caches()
    assert "remembered_late.py" in user.work()


def test_a_source_that_was_edited_is_not_taken_for_the_function_s(user: User) -> None:
    user.work()
    (user.folder / "remembered_main.py").write_text("\n\n" + MAIN)
    assert "call.pickle" in user.work(), "by value, instead of by its source"


def test_a_function_whose_code_was_replaced_is_looked_at_again(user: User) -> None:
    """As IPython's autoreload does."""
    user.work()
    text = MAIN.replace("+ LIMIT", "+ 7 + LIMIT")
    (user.folder / "remembered_main.py").write_text(text)
    module = sys.modules["remembered_main"]
    fresh: dict[str, Any] = {"__name__": "remembered_main"}
    exec(compile(text, str(user.folder / "remembered_main.py"), "exec"), fresh)
    module.work.__code__ = fresh["work"].__code__
    assert "+ 7 + LIMIT" in user.work()["remembered_main.py"]


def test_a_reloaded_module_is_another(user: User) -> None:
    user.work()
    (user.folder / "remembered_main.py").write_text(MAIN.replace("LIMIT = 3", "LIMIT = 77"))
    importlib.reload(sys.modules["remembered_main"])
    assert "LIMIT = 77" in user.work()["remembered_main.py"]


def test_a_file_that_was_written_just_now_is_read_each_time(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next change may have the same time."""
    monkeypatch.setattr(_remembered_code, "UNSETTLED_S", 3600.0)
    user.work()
    user.work()
    assert user.sliced == 2


def test_nothing_of_the_user_s_is_kept_alive(user: User) -> None:
    module = sys.modules["remembered_main"]
    package_function(module.other, [1])
    package_function(module.other, [1])
    assert user.sliced == 1, "remembered"
    big = weakref.ref(module.big)
    function = weakref.ref(module.other)
    del module.big, module.other
    gc.collect()
    assert big() is None and function() is None


def test_threads_share_what_is_remembered(user: User) -> None:
    made: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: made.append(user.work())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 8 and all(each == made[0] for each in made)


def code(size_bytes: int) -> Code:
    return Code(files={"a": bytes(size_bytes)}, origins={}, aliases={}, module=None)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    for number in range(_remembered_code.MAX_REMEMBERED + 5):
        memory.keep(number, code(1), Witness(None))
    assert len(memory._held) == _remembered_code.MAX_REMEMBERED
    assert memory.recall(0, None) is None
    memory.keep("large", code(_remembered_code.MAX_CODE_BYTES + 1), Witness(None))
    assert "large" not in memory._held


def test_a_signature_is_that_of_the_function_as_it_is() -> None:
    def plain(a: int, b: int = 2) -> int:
        return a + b

    assert signature_of(plain) == inspect.signature(plain)
    assert signature_of(plain) is signature_of(plain)
    plain.__defaults__ = (1, 2)
    assert signature_of(plain) == inspect.signature(plain)
    plain.__code__ = (lambda x, y: 0).__code__
    assert list(signature_of(plain).parameters) == ["x", "y"]
    plain.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    assert not signature_of(plain).parameters
    with pytest.raises(TypeError):
        signature_of(3)  # type: ignore[arg-type]
