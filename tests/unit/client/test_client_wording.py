"""What users read: the daemon's words in their names, each fault and each traceback once."""

import pickle
import traceback
from pathlib import Path

import pytest

from cumulus_client import CumulusClient, JobFailed, RemoteTraceback
from cumulus_client._raising import HOW_TO_GIVE, raised_here
from cumulus_client._wording import COMMAND_LINE, PYTHON, end_told, gap_told, installer_cause
from cumulus_client.cli.command import VERBS
from cumulus_client.cli.logs import _Writer
from cumulus_client.exceptions import (
    ConnectionFailed,
    NotAuthenticated,
    error_from_end,
    error_from_wire,
)
from cumulus_wire import uris
from cumulus_wire.journal import gap_record

INVALID = uris.ERROR_PREFIX + "invalid_argument"


@pytest.mark.parametrize(
    ("said", "python", "shell"),
    [
        (
            "Submit with a longer queue_timeout_s, or ask for a smaller gpu_memory.",
            "Submit with a longer queue_timeout, or ask for a smaller gpu_memory.",
            "Submit with a longer --queue-timeout, or ask for a smaller --gpu-memory.",
        ),
        (
            "Ask for a longer `setup_timeout_s`, or for fewer requirements.",
            "Ask for a longer `setup_timeout`, or for fewer requirements.",
            "Ask for a longer `--setup-timeout`, or for fewer requirements.",
        ),
        ("environment.A B: is no", "env[A] B: is no", "--env[A] B: is no"),
        (
            "environment.LD_PRELOAD: can't be set",
            "env[LD_PRELOAD]: can't be set",
            "--env[LD_PRELOAD]: can't be set",
        ),
        ("Use a smaller environment", "Use a smaller environment", "Use a smaller environment"),
        (
            "The job ran out of memory: ask for more with `memory_bytes`, or use less.",
            "The job ran out of memory: ask for more with `memory`, or use less.",
            "The job ran out of memory: ask for more with `--memory`, or use less.",
        ),
        ("Set cpu_cores to less.", "Set cpu to less.", "Set --cpu to less."),
        ("secrets.KEY: is no", "secrets[KEY]: is no", "--secret[KEY]: is no"),
        ("my_duration_s and duration_seconds", "my_duration_s and duration_seconds", None),
    ],
)
def test_names(said: str, python: str, shell: str | None) -> None:
    assert PYTHON.text(said) == python
    assert COMMAND_LINE.text(said) == (python if shell is None else shell)


def test_each_fault_is_told_once() -> None:
    one = [{"key": "duration_s", "message": "greater than 0, got -1.0"}]
    two = [*one, {"key": "requirements.0", "message": "must be one line"}]
    for faults, python in [
        (one, "The job specification is invalid: duration: greater than 0, got -1.0"),
        (
            two,
            "The job specification is invalid\n  duration: greater than 0, got -1.0\n"
            "  requirements[0]: must be one line",
        ),
    ]:
        words = "; ".join(f"{fault['key']}: {fault['message']}" for fault in faults)
        body = {
            "message": f"The job specification is invalid: {words}",
            "details": {"faults": faults},
            "job_id": "job_7",
            "hint": "durations are seconds",
        }
        error = error_from_wire(INVALID, [], body)
        tail = "\n  (refused as job_7)\n  hint: durations are seconds"
        assert str(error) == python + tail
        assert error.text(COMMAND_LINE) == python.replace("duration:", "--duration:") + tail
        assert error.job_id == "job_7" and error.details["faults"] == faults
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_the_jobs_own_code_said_is_left_alone() -> None:
    end = {
        "reason": "user_error",
        "message": "the code raised ValueError",
        "error": {"type": "ValueError", "message": "bad duration_s", "traceback": "Tb\nValueError"},
        "hint": "ask for more with `memory_bytes`, or use less.",
    }
    error = error_from_end({"job_id": "j", "status": "failed", "end": end})
    assert str(error).startswith("Job failed: ValueError: bad duration_s\n")
    assert error is not None and error.hint == "ask for more with `memory`, or use less."


UV = """uv pip install failed (exit code 1): Using Python 3.11.2 environment at: /x/environment
  × No solution found when resolving dependencies:
  ╰─▶ Because there is no version of six==99.99 and you require six==99.99, we
      can conclude that your requirements are unsatisfiable."""


def test_failed_requirements_lead_with_the_cause() -> None:
    told = installer_cause(UV)
    assert told.startswith("× No solution found") and "six==99.99" in told
    assert told.endswith("\n(uv pip install failed (exit code 1))") and "Using Python" not in told
    assert installer_cause("there is no uv") == "there is no uv"
    view = {"job_id": "j", "status": "failed", "end": {"reason": "requirements_failed"}}
    view["end"] |= {"message": UV}  # type: ignore[operator]
    assert str(error_from_end(view)).startswith("Job failed: × No solution found")
    assert end_told(view, COMMAND_LINE)[0] == told


def test_an_uncaught_job_failure_shows_its_traceback_once_and_no_internals() -> None:
    remote = 'Traceback (most recent call last):\n  File "u.py", line 3, in f\nValueError: no'

    def below() -> None:
        raise JobFailed("ValueError: no", job_id="j1", remote_traceback=remote)

    @raised_here
    def run() -> None:
        below()

    with pytest.raises(JobFailed) as caught:
        run()
    error = caught.value
    assert isinstance(error.__cause__, RemoteTraceback) and error.__cause__.traceback == remote
    shown = "".join(traceback.format_exception(error))
    assert shown.count('File "u.py", line 3') == 1
    assert shown.count("ValueError: no (in the job; its traceback stands below)") == 1
    assert "in below" not in shown and "run()" in shown


def test_ctrl_c_shows_no_internals() -> None:
    def below() -> None:
        raise KeyboardInterrupt

    @raised_here
    def run() -> None:
        below()

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    shown = "".join(traceback.format_exception(caught.value))
    assert "in below" not in shown and "run()" in shown


def test_a_functions_argument_in_an_options_place_is_told() -> None:
    with CumulusClient("http://127.0.0.1:1") as client:
        for call in (client.run, client.submit):
            with pytest.raises(TypeError, match="multiple values") as caught:
                call(abs, 1, gpu_memory=0.5)  # type: ignore[call-overload, misc]
            assert caught.value.__notes__ == [HOW_TO_GIVE]


def test_causes_are_one_line_each() -> None:
    @raised_here
    def run() -> None:
        try:
            try:
                raise KeyError("deep")
            except KeyError:
                raise OSError(111, "refused")  # noqa: B904
        except OSError as error:
            raise ConnectionFailed("no daemon") from error

    with pytest.raises(ConnectionFailed) as caught:
        run()
    shown = "".join(traceback.format_exception(caught.value))
    assert "KeyError" not in shown and shown.count("Traceback") == 1
    assert "[Errno 111] refused" in shown


def test_hints_name_what_a_shell_has() -> None:
    error = NotAuthenticated("no", hint="pass api_key=... or set CUMULUS_API_KEY")
    assert error.text(COMMAND_LINE) == "no\n  hint: set CUMULUS_API_KEY, or run `cumulus login`"
    assert str(error) == "no\n  hint: pass api_key=... or set CUMULUS_API_KEY"


def test_every_phrase_is_said_somewhere() -> None:
    """A phrase that was worded anew where it stands would stay as it is for the shell."""
    root = Path(__file__).parents[3]
    sources = [
        path.read_text()
        for part in ("cumulus_client", "cumulus_runner", "cumulusd")
        for path in (root / part).rglob("*.py")
        if path.name != "_wording.py"
    ]
    for phrase in COMMAND_LINE.phrases:
        assert any(phrase in source for source in sources), phrase


def test_logs_tell_of_a_daemon_that_lost_output(capsys: pytest.CaptureFixture[str]) -> None:
    writer = _Writer(VERBS["logs"].parse(["job_1"]), None)
    writer.record(gap_record(300, 100, 0))
    writer.record(gap_record(100, 300, 0))
    lost, dropped = capsys.readouterr().err.splitlines()
    assert (
        lost == f"[cumulus] {gap_told(gap_record(300, 100, 0))}" and "lost the last 200 B" in lost
    )
    assert dropped == "[cumulus] 200 B of the job's output are not kept: over the size cap"
