"""What a job's code finds on its path from Cumulus: `runtime`, after its own modules."""

import json
from collections.abc import Callable

import pytest
from runner_kit import REPOSITORY, JobFolder

from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]
INSIDE = str(REPOSITORY / "cumulus_runner" / "inside")


def value(job: JobFolder) -> object:
    assert job.run()["outcome"] == "completed", job.output(Kind.STDERR)
    return json.loads(job.output(Kind.RESULT))


def test_a_job_imports_runtime_and_so_do_its_processes(new_job: NewJob) -> None:
    source = (
        "import runtime, subprocess, sys\n"
        "def f():\n"
        "    child = [sys.executable, '-c', 'import runtime; print(runtime.__file__)']\n"
        "    told = subprocess.run(child, capture_output=True, text=True, check=True).stdout\n"
        "    return [runtime.__file__, told.strip(), runtime.job_dir()]"
    )
    job = new_job().function(source)
    file = f"{INSIDE}/runtime/__init__.py"
    assert value(job) == [file, file, str(job.path / "work")]


@pytest.mark.parametrize("file", ["runtime.py", "runtime/__init__.py"])
def test_a_module_of_the_job_s_own_comes_first(new_job: NewJob, file: str) -> None:
    job = new_job().function(
        "import runtime\ndef f(): return runtime.mine", **{file: "mine = 'the code’s own'"}
    )
    assert value(job) == "the code’s own"


def test_a_folder_of_that_name_is_in_nobody_s_way(new_job: NewJob) -> None:
    source = "import runtime\ndef f(): return runtime.should_pause()"
    assert value(new_job().function(source, **{"runtime/notes.txt": "x"})) is False


def test_automatic_checkpoints_begin_before_the_code(new_job: NewJob) -> None:
    source = (
        "import sys\n"
        "def f():\n"
        "    runtime = sys.modules.get('runtime')\n"
        "    return runtime and runtime.get_auto_checkpoint_manager().get_framework_status()"
    )
    assert value(new_job().function(source)) is None
    assert value(new_job(environment={"CUMULUS_AUTO_CHECKPOINT": "off"}).function(source)) is None
    status = value(new_job(environment={"CUMULUS_AUTO_CHECKPOINT": "1"}).function(source))
    assert status == dict.fromkeys(
        ("pytorch", "tensorflow", "sklearn", "xgboost", "lightgbm"), "not imported yet"
    )


def test_automatic_checkpoints_leave_the_code_s_own_runtime_alone(new_job: NewJob) -> None:
    job = new_job(environment={"CUMULUS_AUTO_CHECKPOINT": "1"}).function(
        "import runtime\ndef f(): return runtime.mine", **{"runtime.py": "mine = 1"}
    )
    assert value(job) == 1
    assert b"has a module `runtime` of its own" in job.output(Kind.STDERR)
