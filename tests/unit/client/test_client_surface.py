"""What the client exports, what importing it costs, and its table of exceptions."""

import pickle
import subprocess
import sys
from typing import Any

import pytest

import cumulus_client
from cumulus_client import exceptions
from cumulus_client.exceptions import (
    BY_CODE,
    CumulusError,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    JobTimeout,
    NotAuthorized,
    NoWorkersAvailable,
    RemoteTraceback,
    ServerError,
    error_from_end,
    error_from_wire,
)
from cumulus_wire import uris
from cumulus_wire.codes import ErrorCode


def test_exports_are_sorted_and_complete() -> None:
    names = cumulus_client.__all__
    assert names == sorted(names)
    assert all(hasattr(cumulus_client, name) for name in names)
    old = {"CumulusClient", "remote", "gpu", "CodePackager", "async_remote", "RemoteFunction"}
    assert old | {"create_remote_function", "CumulusJob"} <= set(names)
    errors = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert errors <= set(names)


def test_importing_is_light() -> None:
    code = (
        "import sys, cumulus_client; "
        "heavy = {'autobahn', 'twisted', 'txaio', 'attr', 'pydantic', 'numpy', 'cloudpickle', "
        "'pathspec', 'rich'}; "
        "print(sorted(heavy & {m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_wire_code_has_its_class(code: ErrorCode) -> None:
    kwargs: dict[str, Any] = {
        "message": "it went wrong",
        "status": 418,
        "job_id": "j1",
        "details": {"faults": [{"key": "a", "message": "is bad"}]},
        "hint": "do better",
    }
    error = error_from_wire(uris.ERROR_PREFIX + code.value, ["it went wrong"], kwargs)
    assert type(error) is BY_CODE[code]
    assert (error.status, error.job_id, error.hint) == (418, "j1", "do better")
    assert isinstance(error, RuntimeError)
    text = str(error).removeprefix("Job failed: ")
    never_stored = {
        ErrorCode.INVALID_ARGUMENT,
        ErrorCode.TOO_LARGE,
        ErrorCode.TOO_MANY,
        ErrorCode.NO_WORKERS,
        ErrorCode.INSUFFICIENT_RESOURCES,
    }
    assert text.splitlines() == [
        "it went wrong",
        "  a: is bad",
        "  (refused as j1)" if code in never_stored else "  job: j1",
        "  hint: do better",
    ]


def test_errors_without_our_body_are_told_as_they_are() -> None:
    error = error_from_wire("wamp.error.no_such_procedure", ["no callee"], {})
    assert type(error) is ServerError
    assert "older than this client" in str(error)
    assert type(error_from_wire("wamp.error.not_authorized", ["no"], {})) is NotAuthorized
    assert str(error_from_wire("cumulus.error.brand_new", [], {})) == "cumulus.error.brand_new"


def test_statuses_stand_in_the_classes() -> None:
    assert NoWorkersAvailable("No GPU workers available").status == 503
    assert InvalidArgument("x").status == 400
    assert CumulusError("x").status is None


def ended(status: str, **end: Any) -> CumulusError | None:
    return error_from_end({"job_id": "j1", "status": status, "end": end or None, "error": "e"})


def test_ends_become_exceptions() -> None:
    assert ended("completed") is None
    failed = ended(
        "failed",
        reason="user_error",
        message="the code raised",
        exit_code=1,
        hint="look",
        error={"type": "KeyError", "module": "m", "message": "'k'", "traceback": "Tb\nKeyError"},
    )
    assert isinstance(failed, JobFailed)
    assert str(failed).startswith("Job failed: KeyError: 'k'\n")
    assert "Tb\nKeyError" in str(failed) and "j1" in str(failed) and "look" in str(failed)
    assert (failed.reason, failed.error_type, failed.exit_code) == ("user_error", "KeyError", 1)
    assert type(failed.__cause__).__name__ == "KeyError"
    bare = JobFailed("Job failed: x", remote_traceback="Tb\nKeyError")
    assert isinstance(bare.__cause__, RemoteTraceback) and "KeyError" in str(bare.__cause__)
    timeout = ended("timeout", reason="duration_exceeded", message="over 5 s")
    assert isinstance(timeout, JobTimeout) and isinstance(timeout, TimeoutError)
    assert str(timeout).startswith("Job timed out: over 5 s")
    assert isinstance(ended("cancelled", message="by ada"), JobCancelled)
    bare = ended("failed")
    assert isinstance(bare, JobFailed) and str(bare).startswith("Job failed: e")


def test_output_that_nobody_was_shown_stands_in_the_error() -> None:
    end = {"reason": "signalled", "message": "killed", "hint": "look"}
    view = {"job_id": "j1", "status": "failed", "end": {**end, "log_tail": "epoch 1\nepoch 2\n"}}
    silent, telling = error_from_end(view), error_from_end(view, show_output=True)
    assert str(silent).splitlines() == ["Job failed: killed", "  job: j1", "  hint: look"]
    assert str(telling).splitlines()[3:] == ["  last output:", "    epoch 1", "    epoch 2"]
    assert str(pickle.loads(pickle.dumps(telling))) == str(telling)
    view["end"] = {**end, "log_tail": "".join(f"{number}\n" for number in range(900))}
    long = str(error_from_end(view, show_output=True)).splitlines()
    assert (len(long), long[-1]) == (24, "    899")
    timeout = {"job_id": "j1", "status": "timeout", "end": view["end"]}
    assert "    899" in str(error_from_end(timeout, show_output=True))
    for tail in (None, "", "\n"):
        view["end"] = {**end, "log_tail": tail}
        assert str(error_from_end(view, show_output=True)) == str(silent)
