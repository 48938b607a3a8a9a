"""Frameworks are told the job's share as the code imports them, and never at the job's cost."""

import ast
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from runner_kit import REPOSITORY, JobFolder

from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]
GPU = {"CUMULUS_GPU_MEMORY_BYTES": str(3 << 30), "CUDA_VISIBLE_DEVICES": "GPU-x"}

TORCH = """
from types import SimpleNamespace

told = []
queued = []
total = 12 << 30

def _use():
    "As CUDA's initialisation does: runs what was queued."
    while queued:
        queued.pop(0)()

cuda = SimpleNamespace(
    _lazy_call=queued.append,
    get_device_properties=lambda device: SimpleNamespace(total_memory=total),
    set_per_process_memory_fraction=lambda fraction, device: told.append([fraction, device]),
)
"""

TENSORFLOW = """
from types import SimpleNamespace

told = []

def grow(device, enable):
    if told and "virtual" in complaint:
        raise ValueError(complaint)
    grown.append([device, enable])

grown = []
complaint = "Cannot set memory growth on device when virtual devices configured"
config = SimpleNamespace(
    list_physical_devices=lambda kind: [kind + ":0"] if gpus else [],
    LogicalDeviceConfiguration=lambda memory_limit: memory_limit,
    set_logical_device_configuration=lambda device, limits: told.append([device, limits]),
    experimental=SimpleNamespace(set_memory_growth=grow),
)
gpus = True
"""


def run(new_job: NewJob, source: str, environment: dict[str, str] = GPU, **files: str) -> JobFolder:
    job = new_job(environment=environment).function(source, **files)
    end = job.run()
    assert end["outcome"] == "completed", (end, job.output(Kind.STDERR))
    return job


def value(job: JobFolder) -> Any:
    return json.loads(job.output(Kind.RESULT))


def test_torch_is_told_when_it_first_uses_cuda(new_job: NewJob) -> None:
    job = run(
        new_job,
        "import torch\n"
        "def f():\n"
        "    before = list(torch.told)\n"
        "    torch._use()\n"
        "    return [before, torch.told]",
        **{"torch.py": TORCH},
    )
    assert value(job) == [[], [[0.25, 0]]]
    assert job.output(Kind.STDERR) == b""


def test_a_device_that_shows_less_than_the_share_is_all_of_it(new_job: NewJob) -> None:
    small = TORCH.replace("12 << 30", "1 << 30")
    source = "import torch\ndef f():\n    torch._use()\n    return torch.told"
    assert value(run(new_job, source, **{"torch.py": small})) == [[1.0, 0]]


def test_tensorflow_has_a_device_of_that_size_and_growth_is_no_error(new_job: NewJob) -> None:
    job = run(
        new_job,
        "import tensorflow as tf\n"
        "def f():\n"
        "    tf.config.experimental.set_memory_growth('GPU:0', True)\n"
        "    return [tf.told, tf.grown]",
        **{"tensorflow/__init__.py": TENSORFLOW},
    )
    assert value(job) == [[["GPU:0", [3072]]], []]


def test_tensorflows_other_complaints_stay(new_job: NewJob) -> None:
    other = TENSORFLOW.replace("told and", "told or").replace(
        "Cannot set memory growth on device when virtual devices configured", "virtual"
    )
    job = new_job(environment=GPU).function(
        "import tensorflow as tf\n"
        "def f():\n"
        "    tf.complaint = 'no such device, virtual'\n"
        "    tf.config.experimental.set_memory_growth('x', True)",
        **{"tensorflow.py": other},
    )
    assert job.run()["reason"] == "user_error"


def test_without_a_gpu_in_tensorflow_nothing_is_set(new_job: NewJob) -> None:
    source = (
        "import tensorflow as tf\n"
        "def f():\n"
        "    tf.config.experimental.set_memory_growth('GPU:0', True)\n"
        "    return [tf.told, tf.grown]"
    )
    none = TENSORFLOW.replace("gpus = True", "gpus = False")
    assert value(run(new_job, source, **{"tensorflow.py": none})) == [[], [["GPU:0", True]]]


@pytest.mark.parametrize(
    ("name", "source", "called"),
    [
        ("torch", "cuda = None", "PyTorch"),
        ("torch", TORCH.replace("total = 12 << 30", "total = 0"), "PyTorch"),
        ("tensorflow", "", "TensorFlow"),
        ("tensorflow", TENSORFLOW.replace('[kind + ":0"] if gpus else []', "1 / 0"), "TensorFlow"),
    ],
)
def test_a_knob_that_fails_is_one_line_and_no_more(
    new_job: NewJob, name: str, source: str, called: str
) -> None:
    job = run(
        new_job,
        f"import {name}\ndef f():\n    getattr({name}, '_use', lambda: None)()\n    return 'fine'",
        **{f"{name}.py": source},
    )
    assert value(job) == "fine"
    (line,) = job.output(Kind.STDERR).decode().splitlines()
    assert line.startswith(
        f"cumulus: {called} couldn't be told the job's share of the GPU, 3072 MiB"
    )


def test_a_closed_stderr_is_no_harm(new_job: NewJob) -> None:
    source = "import sys\nsys.stderr.close()\nimport torch\ndef f(): return 'fine'"
    assert value(run(new_job, source, **{"torch.py": "cuda = None"})) == "fine"


def test_nothing_is_imported_that_the_code_doesnt_import(new_job: NewJob) -> None:
    source = (
        "import sys\ndef f(): return sorted(n for n in sys.modules if n in ('torch', 'tensorflow'))"
    )
    files = {"torch.py": "raise SystemExit(9)", "tensorflow.py": "raise SystemExit(9)"}
    assert value(run(new_job, source, **files)) == []


def test_an_import_looks_as_ever_to_the_code(new_job: NewJob) -> None:
    source = (
        "import importlib.util, inspect, pkgutil, torch, torch.sub\n"
        "def f():\n"
        "    spec = importlib.util.find_spec('torch')\n"
        "    return [type(torch.__loader__).__name__, type(torch.__spec__.loader).__name__,\n"
        "            spec is torch.__spec__, inspect.getsource(torch).strip(),\n"
        "            pkgutil.get_data('torch', 'data.txt').decode(), torch.sub.x]"
    )
    files = {
        "torch/__init__.py": "from types import SimpleNamespace as S; cuda = S(_lazy_call=id)",
        "torch/sub.py": "x = 1",
        "torch/data.txt": "data",
    }
    text = files["torch/__init__.py"]
    expected = ["SourceFileLoader", "SourceFileLoader", True, text, "data", 1]
    assert value(run(new_job, source, **files)) == expected


def test_a_framework_that_isnt_there_or_fails_is_the_codes_own_error(new_job: NewJob) -> None:
    job = new_job(environment=GPU).function("import torch\ndef f(): pass")
    end = job.run()
    assert end["reason"] == "user_error" and "'torch'" in end["message"]
    job = new_job(environment=GPU).function(
        "import torch\ndef f(): pass", **{"torch.py": "raise RuntimeError('broken wheel')"}
    )
    assert "broken wheel" in job.run()["message"]
    assert b"couldn't be told" not in job.output(Kind.STDERR)


@pytest.mark.parametrize("environment", [{}, {"CUMULUS_GPU_MEMORY_BYTES": "5"}])
def test_without_a_gpu_no_import_is_touched(new_job: NewJob, environment: dict[str, str]) -> None:
    source = "import sys, torch\ndef f(): return [torch.queued, len(sys.meta_path)]"
    queued, finders = value(run(new_job, source, environment, **{"torch.py": TORCH}))
    assert queued == []
    with_gpu = value(run(new_job, "import sys\ndef f(): return len(sys.meta_path)"))
    assert with_gpu == finders + 2, "one for each framework that has to be told"


def test_it_stands_alone_and_is_old_python() -> None:
    text = (REPOSITORY / "cumulus_runner" / "frameworks.py").read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names
