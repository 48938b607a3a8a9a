"""Arguments and results: JSON where nothing is lost, else a pickle that gives the same back."""

import datetime
import decimal
import importlib
import io
import json
import math
import pickle
import sys
import threading
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus_client._arguments import decode_result, encode_call, survives_json
from cumulus_client.exceptions import PackagingError, ResultError
from cumulus_runner import job_values
from cumulus_wire import light_json

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.builds(np.float32, st.floats(width=32, allow_nan=False))
)
KEYS = st.none() | st.integers() | st.text() | st.dates()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in every type; NaN is itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return repr(a) == repr(b) if not isinstance(a, set | frozenset) else bool(a == b)


@given(VALUES)
def test_arguments_arrive_as_they_are(value: Any) -> None:
    call = encode_call("f", None, [value], {"name": value})
    told = json.loads(call.files["call.json"])
    if told["encoding"] == "json":
        args, kwargs = told["args"], told["kwargs"]
    else:
        data = io.BytesIO(call.files["call.pickle"])
        args, kwargs = job_values.unpickler(data, {}).load()
    assert same(args[0], value) and same(kwargs["name"], value)
    assert (told["encoding"] == "json") == survives_json(value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "result"


@given(value=VALUES)
def test_results_come_back_as_they_are(place: Path, value: Any) -> None:
    report = job_values.save_result(value, str(place), 1 << 20, None, light_json)
    assert report["state"] == "returned"
    back = decode_result(
        place.read_bytes(), report["encoding"], job_id="j", may_unpickle=None, aliases={}
    )
    assert same(back, value)
    if report["encoding"] == "pickle":
        with pytest.raises(ResultError, match="not opened: no pickles"):
            decode_result(
                place.read_bytes(), "pickle", job_id="j", may_unpickle="no pickles", aliases={}
            )


def test_arrays_and_odd_types_come_back(place: Path) -> None:
    values = [
        np.arange(6).reshape(2, 3)[:, ::2],
        np.array(["a", None], dtype=object),
        np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        decimal.Decimal("NaN"),
        uuid.UUID(int=3),
        datetime.timezone(datetime.timedelta(hours=2)),
    ]
    report = job_values.save_result(values, str(place), 1 << 20, None, light_json)
    back = decode_result(
        place.read_bytes(), report["encoding"], job_id="j", may_unpickle=None, aliases={}
    )
    for one, other in zip(values, back, strict=True):
        assert repr(one) == repr(other) and type(one) is type(other)


def test_a_result_over_the_bound_is_refused_with_advice(place: Path) -> None:
    for value in ("x" * 2000, [1] * 2000, b"x" * 2000, np.zeros(2000)):
        with pytest.raises(job_values.CallFailed) as failed:
            job_values.save_result(value, str(place), 1000, None, light_json)
        report = failed.value.report
        assert report["state"] == "unreturnable" and "is over 1000 bytes" in report["message"]
        assert "CUMULUS_OUTPUT_DIR" in report["hint"] and "job.download()" in report["hint"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((n for n in [1]), "cannot pickle 'generator' object"),
        ({"a": [1, {"b": (n for n in [1])}]}, "its ['a'][1]['b'] is a generator"),
        (types.SimpleNamespace(x=(2, lambda: 1)), "its .x[1] is a function"),
        (threading.Lock(), "cannot pickle '_thread.lock' object"),
    ],
)
def test_what_cannot_come_back_is_named(place: Path, value: Any, words: str) -> None:
    with pytest.raises(job_values.CallFailed) as failed:
        job_values.save_result(value, str(place), 1000, None, light_json)
    assert words in failed.value.report["message"]


class Device:
    def __init__(self, kind: str) -> None:
        self.type = kind

    def __str__(self) -> str:
        return f"{self.type}:0"


class Tensor:
    """As PyTorch's, as far as it matters: what is on a GPU can't be read elsewhere."""

    def __init__(self, values: list[int], kind: str, requires_grad: bool = False) -> None:
        self.values, self.device, self.requires_grad = values, Device(kind), requires_grad

    def detach(self) -> "Tensor":
        return Tensor(self.values, self.device.type)

    def cpu(self) -> "Tensor":
        return Tensor(self.values, "cpu")

    def requires_grad_(self, wanted: bool) -> "Tensor":
        self.requires_grad = wanted
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        assert self.device.type == "cpu", "pickled on the GPU"
        return Tensor, (self.values, self.device.type, self.requires_grad)


def test_tensors_on_a_gpu_come_back_on_the_cpu_and_it_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = types.ModuleType("torch")
    torch.Tensor = Tensor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    value = {"a": Tensor([1], "cuda", True), "b": [Tensor([2], "cpu")]}
    report = job_values.save_result(value, str(place), 1 << 20, None, light_json)
    back = pickle.loads(place.read_bytes())
    assert report["encoding"] == "pickle"
    assert (back["a"].values, back["a"].device.type, back["a"].requires_grad) == ([1], "cpu", True)
    said = capsys.readouterr().err
    assert "1 tensor(s) of the result were on a GPU; they come back on the CPU" in said


def test_what_a_pickle_names_is_told(tmp_path: Path) -> None:
    call = encode_call("f", None, [uuid.UUID(int=1)], {})
    assert call.names["uuid"] == {"UUID"}
    assert encode_call("f", None, [1, "a"], {"b": [None]}).names == {}
    with pytest.raises(
        PackagingError, match=r"argument 'b', a dict, can't travel: .*is a generator"
    ):
        encode_call("f", None, [], {"b": {"x": (n for n in [1])}})


OWN_JOB = """
import pickle
import threading

from cumulus_client._arguments import decode_result


class Box:
    class Inner:
        size = 3


def fetch(found):
    found.append(decode_result(DATA, "pickle", job_id="job_1", may_unpickle=None, aliases={}))


DATA = pickle.dumps(Box.Inner(), protocol=5)
FOUND = []
thread = threading.Thread(target=fetch, args=(FOUND,), daemon=True)
thread.start()
thread.join(30)
"""


def test_a_result_is_of_a_module_that_waits_for_it_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs_a_job_when_imported.py").write_text(OWN_JOB)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("runs_a_job_when_imported")
    assert [type(one) for one in module.FOUND] == [module.Box.Inner]


def test_a_result_whose_module_leaves_or_lacks_its_type_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(data: bytes) -> Any:
        return decode_result(data, "pickle", job_id="job_1", may_unpickle=None, aliases={})

    (tmp_path / "a_script_that_leaves.py").write_text("import sys\nsys.exit('run me in a job')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ResultError, match="opened here: SystemExit: run me in a job"):
        opened(b"ca_script_that_leaves\nBox\n.")
    with pytest.raises(ResultError, match=r"AttributeError: .*'uuid' has no attribute 'Box'"):
        opened(b"cuuid\nBox\n.")
