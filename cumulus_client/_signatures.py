"""Signatures of functions, read once of each: to read one takes as long as all else that is checked
of a call."""

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

_known: "weakref.WeakKeyDictionary[types.FunctionType, tuple[tuple[Any, ...], inspect.Signature]]"
_known = weakref.WeakKeyDictionary()


def signature_of(function: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature:
    """As `inspect.signature`. Raises TypeError, ValueError."""
    if not isinstance(function, types.FunctionType) or vars(function):
        # A wrapper, or one that says its signature itself, can say another one next time.
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    of = function.__code__, function.__defaults__, function.__kwdefaults__
    known = _known.get(function)
    if known is None or any(was is not now for was, now in zip(known[0], of, strict=True)):
        known = _known[function] = of, inspect.signature(function)
    return known[1]
