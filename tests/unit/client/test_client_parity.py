"""Both faces have the same methods, parameters and words."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from cumulus_client import (
    AsyncCumulusClient,
    AsyncCumulusJob,
    AsyncRemoteFunction,
    CumulusClient,
    CumulusJob,
    RemoteCoroutineFunction,
    RemoteFunction,
)

PAIRS = [
    (CumulusClient, AsyncCumulusClient),
    (CumulusJob, AsyncCumulusJob),
    (RemoteFunction, RemoteCoroutineFunction),
]
#: What isn't awaited.
PLAIN = {"map", "logs", "future", "add_done_callback", "with_options"}


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") or name in ("__init__", "__call__")
    }


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS, ids=lambda cls: cls.__name__)
def test_the_same_methods_with_the_same_parameters(blocking: type, awaited: type) -> None:
    ours, theirs = methods(blocking), methods(awaited)
    assert set(ours) == set(theirs)
    for name in ours:
        one, other = inspect.signature(ours[name]), inspect.signature(theirs[name])
        assert list(one.parameters) == list(other.parameters), name
        for key, parameter in one.parameters.items():
            assert parameter.kind == other.parameters[key].kind, (name, key)
            assert parameter.default == other.parameters[key].default, (name, key)
        if name not in PLAIN and name != "__init__":
            assert inspect.iscoroutinefunction(inspect.unwrap(theirs[name])), name
            assert not inspect.iscoroutinefunction(inspect.unwrap(ours[name])), name


@pytest.mark.parametrize("cls", [cls for pair in PAIRS for cls in pair] + [AsyncRemoteFunction])
def test_everything_public_is_documented(cls: type) -> None:
    assert cls.__doc__
    for name, method in methods(cls).items():
        doc = inspect.getdoc(method)
        assert (doc and doc[0].isupper()) or (doc and doc[0] == "`"), (cls.__name__, name)


def test_what_the_old_sdk_had_is_there_as_it_was() -> None:
    """Names, order and defaults of shared use: scripts pass them by position."""
    old: dict[Any, list[tuple[str, Any]]] = {
        CumulusClient.run: [
            ("func", inspect.Parameter.empty), ("gpu_memory", 0.5), ("duration", 3600),
            ("requirements", None), ("timeout", None), ("args", None),
        ],
        CumulusJob.__init__: [
            ("client", inspect.Parameter.empty), ("job_id", inspect.Parameter.empty),
        ],
        CumulusJob.result: [("timeout", None)],
    }  # fmt: skip
    for function, expected in old.items():
        found = list(inspect.signature(function).parameters.values())[1 : len(expected) + 1]
        assert [(each.name, each.default) for each in found] == expected
    for name in (
        "get_job_status", "list_jobs", "cancel_job", "get_server_info", "pause_job", "resume_job",
        "get_checkpoints", "run_async",
    ):  # fmt: skip
        assert callable(getattr(CumulusClient, name))
    for name in ("status", "result", "cancel", "pause", "resume", "get_checkpoints"):
        assert callable(getattr(CumulusJob, name))
    assert CumulusClient.run_async is CumulusClient.submit
