"""Errors as the caller of a public method sees them: without the client's own frames."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from cumulus_client.exceptions import CumulusError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def raised_here(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """A public method whose CumulusErrors begin there: the threads and loops below it say nothing
    to whoever reads the traceback."""

    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(*args, **kwargs)
        except CumulusError as error:
            raise error.with_traceback(None) from bare(error.__cause__)

    return call


def raised_here_async(
    method: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """As `raised_here`, of a method that gives a coroutine."""

    @functools.wraps(method)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(*args, **kwargs)
        except CumulusError as error:
            raise error.with_traceback(None) from bare(error.__cause__)

    return call


def bare(cause: BaseException | None) -> BaseException | None:
    """The causes, each one line only."""
    seen: set[int] = set()
    error = cause
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error.__suppress_context__ = True
        error = error.__cause__
    return cause
