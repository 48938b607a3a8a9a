"""What inside a value can't be pickled, named for an error message."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cumulus_client._callables import client_part

MAX_DEPTH = 12
#: So many parts of one container are looked at.
MAX_PARTS = 10_000


def find_fault(value: Any, pickle_alone: Callable[[Any], None]) -> str | None:
    """Where in `value` the fault is and what it is; None when it pickles.

    `pickle_alone` raises for a value that doesn't pickle.
    """
    error = _error_of(value, pickle_alone)
    if error is None:
        return None
    steps: list[str] = []
    seen: set[int] = set()
    while len(steps) < MAX_DEPTH and id(value) not in seen:
        seen.add(id(value))
        for step, part in _parts(value):
            inner = _error_of(part, pickle_alone) if id(part) not in seen else None
            if inner is not None:
                value, error = part, inner
                steps.append(step)
                break
        else:
            break
    if not steps:
        return told_fault(error)
    where = steps[0]
    for step in steps[1:]:
        where += step if step.startswith(("[", ".")) else f", {step}"
    return f"{where} is a {type(value).__name__}: {told_fault(error)}"


def told_fault(error: Exception) -> str:
    """An error of pickling in words."""
    from cumulus_client._arguments import CannotTravel

    return str(error) if isinstance(error, CannotTravel) else f"pickling says: {error}"


def _error_of(value: Any, pickle_alone: Callable[[Any], None]) -> Exception | None:
    try:
        pickle_alone(value)
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What it is made of, each with how it is reached."""
    for number, part in enumerate(_all_parts(value)):
        if number == MAX_PARTS:
            return
        yield part


def _all_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if client_part(value):
        return  # that is what is wrong with it
    if isinstance(value, functools.partial):
        yield "its function", value.func
        yield from ((f"its argument {index + 1}", part) for index, part in enumerate(value.args))
        yield from ((f"its argument {name!r}", part) for name, part in value.keywords.items())
    elif inspect.ismethod(value):
        yield "its object", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from captured(value)
    elif isinstance(value, Mapping):
        yield from ((f"[{_short(key)}]", part) for key, part in list(value.items()))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"its element {_short(part)}", part) for part in list(value))
    elif not isinstance(value, type | types.ModuleType) and hasattr(value, "__dict__"):
        yield from ((f".{name}", part) for name, part in list(vars(value).items()))


def captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What travels with a function by value: what it closes over, its defaults, its globals."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"the variable {name!r} that it closes over", cell.cell_contents
        except ValueError:
            continue  # not bound yet
    yield from ((f"its default {_short(part)}", part) for part in function.__defaults__ or ())
    for name, part in (function.__kwdefaults__ or {}).items():
        yield f"its default of {name!r}", part
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            yield f"the global {name!r}", function.__globals__[name]


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
