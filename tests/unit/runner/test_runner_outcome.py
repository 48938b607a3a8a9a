"""Pure decisions: how a job ended, what survives JSON, what orders say."""

import errno
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus_runner import cgroup, job_errors, job_values, outcome
from cumulus_runner.orders import Orders, OrdersInvalid
from cumulus_runner.outcome import Stop
from cumulus_wire import light_json
from cumulus_wire.codes import EndReason

RAISED = {"state": "raised", "error": {"type": "E", "module": "m", "message": "why"}, "hint": None}


@pytest.mark.parametrize(
    ("report", "exit_code", "number", "oom_kills", "expected"),
    [
        ({"state": "returned"}, 0, None, 0, ("completed", None)),
        ({"state": "finished"}, 0, None, 0, ("completed", None)),
        (None, 0, None, 0, ("completed", None)),
        (None, 1, None, 0, ("failed", "exit_code")),
        ({"state": "finished"}, 120, None, 0, ("failed", "exit_code")),
        (RAISED, 1, None, 0, ("failed", "user_error")),
        ({"state": "missing", "message": "x"}, 1, None, 0, ("failed", "entry_point_missing")),
        ({"state": "unreturnable", "message": "x"}, 1, None, 0, ("failed", "result_invalid")),
        ({"state": "invalid", "message": "x"}, 1, None, 0, ("failed", "package_invalid")),
        (None, None, signal.SIGKILL, 0, ("failed", "signalled")),
        (None, None, signal.SIGKILL, 1, ("failed", "out_of_memory")),
        (None, None, signal.SIGSEGV, 1, ("failed", "signalled")),
        ({"state": "returned"}, None, signal.SIGSEGV, 0, ("completed", None)),
        ({"state": ["odd"]}, 1, None, 0, ("failed", "exit_code")),
        ({}, 0, None, 0, ("completed", None)),
    ],
)
def test_ends(
    report: dict[str, Any] | None,
    exit_code: int | None,
    number: int | None,
    oom_kills: int,
    expected: tuple[str, str | None],
) -> None:
    verdict = outcome.of_code(report, exit_code, number, oom_kills)
    assert (verdict.state, verdict.reason) == expected
    assert verdict.message and (verdict.exit_code, verdict.signal) in (
        (exit_code, number),
        (None, number),
    )


def test_a_forged_report_stays_within_bounds() -> None:
    report = {"state": "missing", "message": "m" * 10**7, "hint": "h" * 10**7}
    verdict = outcome.of_code(report, 1, None, 0)
    assert len(verdict.message) + len(verdict.hint or "") <= 2 * outcome.MAX_MESSAGE_CHARS


def test_a_killed_helper_process_is_hinted_at() -> None:
    verdict = outcome.of_code(RAISED, 1, None, 2)
    assert verdict.hint is not None and "memory_bytes" in verdict.hint


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (EndReason.CANCELLED_BY_USER, ("cancelled", "cancelled_by_user")),
        (EndReason.DURATION_EXCEEDED, ("timeout", "duration_exceeded")),
        (EndReason.SETUP_TIMEOUT, ("failed", "setup_timeout")),
        (EndReason.WORKER_DRAINED, ("failed", "worker_drained")),
        (None, ("failed", "runner_failed")),
    ],
)
def test_stops(reason: EndReason | None, expected: tuple[str, str]) -> None:
    verdict = outcome.of_stop(Stop(reason, "so it was", 1.0))
    assert (verdict.state, verdict.reason, verdict.message) == (*expected, "so it was")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ({"type": "ValueError", "module": "builtins", "message": "boom"}, "ValueError: boom"),
        ({"type": "Odd", "module": "a.b", "message": ""}, "a.b.Odd"),
        ({"type": "Own", "module": "__main__", "message": "x"}, "Own: x"),
        (None, "the code raised an exception"),
        ({"type": 3}, "Exception"),
    ],
)
def test_error_lines(error: Any, line: str) -> None:
    assert outcome.error_line({"error": error}) == line


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(PLAIN)
def test_plain_values_survive_json(value: Any) -> None:
    assert job_values.is_plain(value, job_values.MAX_DEPTH)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    assert repr(json.loads(text.encode())) == repr(value)


@given(PLAIN)
def test_whatever_json_would_change_isnt_plain(value: Any) -> None:
    class Text(str):
        __slots__ = ()

    spoiled: list[Any] = [(value,), {1: value}, set(), Text("x"), float("inf"), "\udc80"]
    for spoilt in spoiled:
        assert not job_values.is_plain([spoilt], job_values.MAX_DEPTH)


def test_cycles_and_depths_arent_plain() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert not job_values.is_plain(cycle, job_values.MAX_DEPTH)


def described(error: BaseException) -> dict[str, str]:
    return job_errors.describe(error, "/work", {}, job_values.is_plain, light_json)


def test_exceptions_that_resist_being_told() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    told = described(Hostile())
    assert told["type"].endswith("Hostile") and "RuntimeError" in told["message"]


def test_exception_groups_and_long_chains() -> None:
    error: BaseException = ValueError("first")
    for number in range(3000):
        try:
            raise ValueError(f"number {number} " + "x" * 200) from error
        except ValueError as caught:
            error = caught
    group = BaseExceptionGroup("many", [error, KeyError("k")])
    text = described(group)["traceback"]
    assert len(text) < job_errors.MAX_TRACEBACK_CHARS + 100


ORDERS: dict[str, Any] = {
    "version": 1,
    "job_id": "j",
    "attempt": 1,
    "owner": "o",
    "setup_timeout_s": 1,
    "duration_s": 2.5,
    "package_max_bytes": 1,
    "package_max_files": 1,
    "journal_max_bytes": 1,
    "segment_bytes": 1,
}


def test_orders_have_defaults_and_ignore_what_they_dont_know() -> None:
    orders = Orders({**ORDERS, "new": 1})
    assert (orders.duration_s, orders.stop_grace_s, orders.python) == (2.5, 5.0, None)
    assert (orders.requirements, orders.environment) == ([], {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("job_id", ""),
        ("attempt", True),
        ("duration_s", float("nan")),
        ("duration_s", -1),
        ("requirements", "six"),
        ("requirements", [1]),
        ("environment", {"A": 1}),
        ("environment", {"A=B": "x"}),
        ("environment", {"A": "\0"}),
        ("environment", []),
        ("python", 3),
        ("segment_bytes", 0),
    ],
)
def test_faulty_orders(key: str, value: Any) -> None:
    with pytest.raises(OrdersInvalid, match=key):
        Orders({**ORDERS, key: value})


def test_missing_orders(tmp_path: Path) -> None:
    with pytest.raises(OrdersInvalid, match="can't be read"):
        Orders.load(str(tmp_path))


@pytest.mark.parametrize(
    ("own", "file", "text"),
    [
        ("0::/\n", "memory.events", "low 0\noom 9\noom_kill 3\n"),
        ("0::/a/b\n", "a/b/memory.events", "oom_kill 3\n"),
        ("4:memory:/d/1\n0::/\n", "memory/d/1/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("4:memory:/d/1\n", "memory/memory.oom_control", "oom_kill_disable 0\noom_kill 3\n"),
        ("", "x", ""),
    ],
)
def test_the_oom_counter(tmp_path: Path, own: str, file: str, text: str) -> None:
    own_file = tmp_path / "cgroup"
    own_file.write_text(own)
    path = tmp_path / "root" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert cgroup.oom_kills(str(tmp_path / "root"), str(own_file)) == (3 if text else 0)


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/\n", "pids.events"),
        ("0::/a/b\n", "a/b/pids.events"),
        ("7:pids:/d/1\n4:memory:/d/1\n0::/\n", "pids/d/1/pids.events"),
        ("7:pids:/d/1\n", "pids/pids.events"),
    ],
)
def test_the_counter_of_refused_processes(tmp_path: Path, own: str, file: str) -> None:
    own_file = tmp_path / "cgroup"
    own_file.write_text(own)
    assert cgroup.processes_refused(str(tmp_path / "root"), str(own_file)) == 0
    counter = tmp_path / "root" / file
    counter.parent.mkdir(parents=True)
    counter.write_text("max 5\n")
    assert cgroup.processes_refused(str(tmp_path / "root"), str(own_file)) == 5


@pytest.mark.parametrize(
    ("report", "exit_code", "number", "reason"),
    [
        (RAISED, 1, None, "process_limit"),
        (None, 3, None, "process_limit"),
        (None, None, signal.SIGABRT, "process_limit"),
        ({"state": "returned"}, 0, None, None),
        ({"state": "missing", "message": "x"}, 1, None, "entry_point_missing"),
    ],
)
def test_code_that_fails_at_the_limit_of_processes(
    report: dict[str, Any] | None, exit_code: int | None, number: int | None, reason: str | None
) -> None:
    verdict = outcome.of_code(report, exit_code, number, 0, processes_refused=4)
    assert verdict.reason == reason
    if reason == "process_limit":
        plain = outcome.of_code(report, exit_code, number, 0)
        assert "the kernel refused 4" in verdict.message and plain.message in verdict.message
        assert verdict.hint is not None and "threads" in verdict.hint


@pytest.mark.parametrize("state", ["raised", "unreturnable"])
def test_code_that_fails_on_a_full_disk(state: str) -> None:
    report = {**RAISED, "state": state, "message": "no room", "disk_full": True}
    verdict = outcome.of_code(report, 1, None, 0)
    assert (verdict.state, verdict.reason) == ("failed", "disk_full")
    assert verdict.hint == outcome.DISK_FULL_HINT


def test_a_full_disk_is_found_behind_other_errors() -> None:
    def raised(deep: OSError, hide: bool = False) -> BaseException:
        try:
            try:
                raise deep
            except OSError as error:
                if hide:
                    raise ValueError("own") from None
                raise ValueError("outer") from error
        except ValueError as error:
            return error

    assert job_values.is_disk_full(raised(OSError(errno.ENOSPC, "full")))
    assert job_values.is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not job_values.is_disk_full(raised(OSError(errno.ENOSPC, "full"), hide=True))
    assert not job_values.is_disk_full(raised(OSError(errno.EACCES, "no")))
    circle = ValueError("a")
    circle.__cause__ = circle
    assert not job_values.is_disk_full(circle)
