"""Errors as the caller of a public method sees them: without the client's own frames."""

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from cumulus_client.exceptions import CumulusError

_P = ParamSpec("_P")
_T = TypeVar("_T")

HOW_TO_GIVE = (
    "The function's own arguments are given as keywords or args=[...]: what stands after the "
    "function are options"
)


def raised_here(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """A public method whose CumulusErrors, and Ctrl-C, begin there: the threads and loops below it
    say nothing to whoever reads the traceback."""
    takes_function = _takes_function(method)

    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(*args, **kwargs)
        except (CumulusError, KeyboardInterrupt) as error:
            raise error.with_traceback(None) from bare(error.__cause__)
        except TypeError as error:
            if takes_function and _is_of_the_call(error):
                error.add_note(HOW_TO_GIVE)
            raise

    return call


def raised_here_async(
    method: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """As `raised_here`, of a method that gives a coroutine."""
    takes_function = _takes_function(method)

    @functools.wraps(method)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(*args, **kwargs)
        except CumulusError as error:
            raise error.with_traceback(None) from bare(error.__cause__)
        except TypeError as error:
            if takes_function and _is_of_the_call(error):
                error.add_note(HOW_TO_GIVE)
            raise

    return call


def _takes_function(method: Callable[..., Any]) -> bool:
    """It is called with a function, the options of the job, and `args` for the function's own."""
    return {"func", "args", "gpu_memory"} <= inspect.signature(method).parameters.keys()


def _is_of_the_call(error: TypeError) -> bool:
    """Python itself refused the call: no line of the method has run."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


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
