"""What a user gave to be called: unwrapped, named, and refused where it never could be a job."""

import functools
import inspect
import os
import reprlib
import types
from collections.abc import Callable
from typing import Any

from cumulus_client.exceptions import PackagingError

MAX_NAME_CHARS = 200


def unwrap(value: Any) -> Any:
    """The plain function of what `@remote` or `@gpu` made of it; anything else as it is."""
    if is_remote(value):
        return value.func
    return value


def is_remote(value: Any) -> bool:
    """Is it what `@remote` or `@gpu` make of a function?"""
    return bool(getattr(type(value), "__cumulus_remote__", False))


def plain_callable(func: Any) -> Callable[..., Any]:
    """What the job is to call. Raises PackagingError for what could not be called there, or whose
    value could not come back."""
    func = unwrap(func)
    if isinstance(func, functools.partial):
        inner = unwrap(func.func)
        if inner is not func.func:
            func = functools.partial(inner, *func.args, **func.keywords)
    if not callable(func):
        raise PackagingError(
            f"a function is needed, not {type(func).__name__} {reprlib.repr(func)}",
            hint="a script or folder is run with run_script() or submit_script()"
            if isinstance(func, str | os.PathLike)
            else "pass the function itself, and its arguments beside it: run(train, epochs=3), "
            "not run(train(3))",
        )
    core = _core(func)
    if inspect.isgeneratorfunction(core) or inspect.isasyncgenfunction(core):
        raise PackagingError(
            f"{told_name(func)!r} can't be shipped: it is a generator, which can't come back",
            hint="return a list instead",
        )
    return func  # type: ignore[no-any-return]


def _core(func: Any) -> Any:
    """The function inside partials and methods, or an instance's `__call__`."""
    while isinstance(func, functools.partial):
        func = unwrap(func.func)
    if inspect.ismethod(func):
        return func.__func__
    if inspect.isroutine(func) or isinstance(func, type):
        return func
    return getattr(type(func), "__call__", func)  # noqa: B004 - the function itself is wanted


def is_plain_function(func: Any) -> bool:
    """Is it a `def` at the top level of its module?"""
    return (
        isinstance(func, types.FunctionType)
        and func.__name__ != "<lambda>"
        and "." not in func.__qualname__
    )


def short_name(func: Any) -> str:
    """What a job of it is called."""
    while isinstance(func, functools.partial):
        func = unwrap(func.func)
    name = getattr(func, "__name__", None) or type(func).__name__
    return "lambda" if name == "<lambda>" else str(name)[:MAX_NAME_CHARS]


def told_name(func: Any) -> str:
    """What messages call it."""
    name = getattr(func, "__qualname__", None)
    if isinstance(name, str):
        return name
    if isinstance(func, functools.partial):
        return f"partial of {told_name(unwrap(func.func))}"
    return f"{type(func).__name__} object"


def client_part(value: Any) -> bool:
    """Is `value` of the Cumulus client's: an instance, a class, a function or a module of it?"""
    if isinstance(value, types.ModuleType):
        return _of_client(value.__name__)
    owner = value if isinstance(value, type) else type(value)
    return any(_of_client(cls.__module__) for cls in owner.__mro__) or (
        isinstance(value, types.FunctionType | types.MethodType)
        and (_of_client(value.__module__) or client_part(getattr(value, "__self__", None)))
    )


def _of_client(module_name: Any) -> bool:
    return isinstance(module_name, str) and module_name.partition(".")[0] == "cumulus_client"
