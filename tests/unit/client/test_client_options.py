"""What run() and submit() take, and what they refuse before anything is sent."""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cumulus_client import AsyncCumulusClient, CumulusClient, async_remote, gpu, remote
from cumulus_client._options import NOT_GIVEN, OPTIONS, Call, Options, make_call
from cumulus_client._quantities import parse_bytes, parse_seconds


def plain(x: int, y: int = 2) -> int:
    return x + y


def named(name: str, timeout: float = 1.0) -> str:
    return name


def wants_timeout(timeout: float) -> float:
    return timeout


def loose(**values: Any) -> Any:
    return values


def takes_options(options: dict[str, int]) -> int:
    return len(options)


def call(func: Callable[..., Any], *, options: Any = NOT_GIVEN, **given: Any) -> Call:
    kwargs = given.pop("kwargs", {})
    return make_call("run()", func, given, options, kwargs)


def test_options_and_arguments_are_told_apart() -> None:
    made = call(plain, duration=5, args=[1], name="job", env={"A": "1"}, kwargs={"y": 3})
    assert (made.args, made.kwargs, made.timeout) == ([1], {"y": 3}, None)
    assert made.spec == {
        "gpu_memory": 0.5, "duration_s": 5.0, "name": "job", "environment": {"A": "1"},
    }  # fmt: skip
    assert call(loose, name="job").spec["name"] == "job"


def test_a_keyword_of_the_functions_own_goes_to_it_and_options_says_the_option() -> None:
    assert call(named, name="for it").kwargs == {"name": "for it"}
    both = call(named, name="for it", options={"name": "job", "priority": 3, "retries": 2})
    assert (both.kwargs, both.spec["name"], both.spec["priority"]) == ({"name": "for it"}, "job", 3)
    assert both.spec["retries"] == 2
    # The old SDK's options stay options, unless `options` has them.
    assert call(wants_timeout, timeout=5, args=[1]).timeout == 5
    swapped = call(wants_timeout, timeout=5, options={"timeout": None})
    assert (swapped.kwargs, swapped.timeout) == ({"timeout": 5}, None)
    assert call(takes_options, options={"a": 1}).kwargs == {"options": {"a": 1}}


@pytest.mark.parametrize(
    ("func", "given", "words"),
    [
        (plain, {}, r"plain\(\): missing a required argument: 'x'; it is plain\(x: int"),
        (plain, {}, r"own arguments are given as keywords or args=\[...\]: what stands after"),
        (plain, {"args": [1, 2, 3]}, "too many positional"),
        (plain, {"args": [1], "kwargs": {"gpu_mem": 1}}, r"mean the option `gpu_memory`\?"),
        (plain, {"args": [1], "options": {"retry": 1}}, r"mean the option `retries`\?"),
        (plain, {"args": [1], "kwargs": {"z": 1}}, "unexpected keyword argument 'z'"),
        (wants_timeout, {"timeout": 5}, r"`timeout` is an option of run\(\); .*args=\[...\] or"),
        (plain, {"args": [1], "options": {"x": 1}}, "'x', which is no option of run.*gpu_memory"),
        (plain, {"args": [1], "options": 3}, "options must be a dict"),
        (plain, {"args": "ab"}, r"args must be a list .* write args=\[...\]"),
        (plain, {"args": [1], "timeout": [5]}, "timeout must be a number of seconds or None"),
        (plain, {"args": [1], "timeout": True}, "timeout must be"),
        (plain, {"args": [1], "gpu_memory": None}, "gpu_memory must be a number, not NoneType"),
        (plain, {"args": [1], "setup_timeout": [1]}, "setup_timeout must be a number"),
        (plain, {"args": [1], "memory": 1.5}, "memory must be an int of bytes, text such as"),
        (plain, {"args": [1], "memory": True}, "memory must be"),
        (plain, {"args": [1], "cpu": "2"}, "cpu must be a number of cores or None, not str"),
        (plain, {"args": [1], "secrets": ["A"]}, "secrets must be a dict of str to str"),
        (
            plain,
            {"args": [1], "secrets": {"A": b"hush"}},
            r"\['A'\] must be a str, not bytes$",
        ),
        (plain, {"args": [1], "files": "a.csv"}, r"files must be a list .* write files=\[...\]"),
        (plain, {"args": [1], "files": 3}, "files must be a list of paths, or a dict"),
    ],
)
def test_calls_that_can_not_be_right(func: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call(func, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"timeout": 0}, "timeout must be over 0 s, or None"),
        ({"timeout": -1}, "timeout must be over 0"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds or None, not nan"),
        ({"duration": float("inf")}, "duration must be a number of seconds, not inf"),
        ({"gpu_memory": float("nan")}, "gpu_memory must be a number, not nan"),
        ({"queue_timeout": float("inf")}, "queue_timeout must be"),
        ({"queue_timeout": "soon"}, "queue_timeout: 'soon' is no duration such as 90, 90s"),
        ({"timeout": "0s"}, "timeout must be over 0 s"),
        ({"memory": "a lot"}, "memory: 'a lot' is no size such as 8GiB"),
    ],
)
def test_numbers_that_are_none(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(plain, args=[1], **given)


def test_a_decorators_wrapper_is_called_as_it_takes_it() -> None:
    @functools.wraps(plain)
    def gives_x(*args: Any, **kwargs: Any) -> int:
        return plain(1, *args, **kwargs)

    assert call(gives_x).args == []


def test_refusals_come_before_the_connection() -> None:
    with CumulusClient("http://127.0.0.1:1") as client:
        for refused in (client.run, client.submit):
            with pytest.raises(TypeError, match="missing a required argument: 'x'"):
                refused(plain)
            with pytest.raises(ValueError, match="timeout"):
                refused(plain, args=[1], timeout=0)
        with pytest.raises(ValueError, match="timeout"):
            client.run_script(__file__, timeout=-1)
        assert not client._io.started
    assert threading.active_count() == 1 or not client._io.started


def test_both_faces_have_the_same_options() -> None:
    faces = [CumulusClient.run, CumulusClient.submit]
    async_faces = [AsyncCumulusClient.run, AsyncCumulusClient.submit]
    first, *others = ([*inspect.signature(f).parameters.items()] for f in [*faces, *async_faces])
    assert all([n for n, _ in other] == [n for n, _ in first] for other in others)
    keyword_only = [n for n, p in first if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert keyword_only == [*OPTIONS[5:], "options"]
    assert set(Options.__annotations__) == set(OPTIONS) - {"timeout", "args"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5m", 90), ("90 s", 90), ("1h30m", 5400), ("2H", 7200), ("1d1s", 86401)],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    assert call(plain, args=[1], duration=text).spec["duration_s"] == seconds


@pytest.mark.parametrize("text", ["", "m", "1m1h", "1h1h", "-5", "1e3", "5 parsecs", "1m30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GiB", 8 << 30), ("512M", 512 << 20), ("1.5 gb", 3 << 29), ("77", 77), ("1T", 1 << 40)],
)
def test_sizes_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes
    assert call(plain, args=[1], memory=text).spec["memory_bytes"] == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "8 GiBs", "5i", "-1G", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)


def test_what_goes_where() -> None:
    made = call(plain, args=[1], cpu=2, memory=5, secrets={"K": "v"}, files={"a": b"b"})
    assert made.files == {"a": b"b"}
    asked = {"cpu_cores": 2.0, "memory_bytes": 5, "secrets": {"K": "v"}}
    assert made.spec == {"gpu_memory": 0.5, "duration_s": 3600.0, **asked}


@pytest.mark.parametrize("decorator", [remote, gpu, async_remote])
def test_decorators_without_a_client_say_so(decorator: Any) -> None:
    name = decorator.__name__
    with pytest.raises(TypeError, match=rf"@{name} needs the client .* write @{name}\(client\)"):
        decorator(plain)
    with pytest.raises(TypeError, match=r"needs a CumulusClient.*, not str"):
        decorator("http://127.0.0.1:1")


def test_a_decorator_for_the_other_client_says_which_to_take() -> None:
    far = AsyncCumulusClient("http://127.0.0.1:1")
    with pytest.raises(TypeError, match=r"write @remote\(client\), whose calls are awaited"):
        async_remote(far)  # type: ignore[arg-type]


def test_decorated_functions_check_their_calls() -> None:
    with CumulusClient("http://127.0.0.1:1") as client:
        far = remote(client)(plain)
        with pytest.raises(TypeError, match="missing a required argument: 'x'"):
            far()
        with pytest.raises(TypeError, match="`timeout` is an option of @remote, not of the call"):
            far.async_call(1, timeout=3)
        with pytest.raises(ValueError, match="timeout must be over 0"):
            remote(client, timeout=0)(plain)
