"""The code's exception as the ERROR record has it, in the job's own Python (3.9 or newer).

Loaded by `bootstrap` from beside it: standard library only, and nothing of Cumulus.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from traceback import TracebackException
    from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_TRACEBACK_CHARS = 256 << 10
MAX_MESSAGE_CHARS = 16 << 10
#: Of the exception's own values, as JSON.
MAX_VALUE_CHARS = 16 << 10
MAX_BASES = 16
#: Of a group: members of each, and how deep.
MAX_MEMBERS = 50
MAX_GROUP_DEPTH = 4


def describe(
    error: BaseException,
    work: str,
    origins: Mapping[str, str],
    is_plain: Callable[[Any, int], bool],
    codec: Any,
) -> dict[str, str]:
    """`{type, module, message, traceback, value}`. `origins`: files of the package -> where the
    user has them; "": all of it is that folder. `codec`: its `dumps` writes JSON."""
    import traceback

    kind = type(error)
    try:
        told = traceback.TracebackException(kind, error, error.__traceback__)
        # Python may have resolved links in it, or not.
        roots = tuple(os.path.join(root, "") for root in (work, os.path.realpath(work)))
        tidy(told, roots, origins, set())
        text = without_our_names("".join(told.format()))
    except Exception as failure:
        text = f"<the traceback can't be told: {type(failure).__name__}: {failure}>\n"
    whole = value_of(error, is_plain, 0)
    value = codec.dumps(whole)
    if len(value) > MAX_VALUE_CHARS:
        value = codec.dumps({"bases": whole["bases"]})
    return {
        "type": kind.__qualname__,
        "module": kind.__module__,
        "message": message_of(error),
        "traceback": shorten(text, MAX_TRACEBACK_CHARS),
        "value": value,
    }


def message_of(error: BaseException) -> str:
    """`str(error)`, whatever that does."""
    try:
        text = str(error)
    except Exception as failure:
        text = f"<str() of the exception raised {type(failure).__name__}>"
    return shorten(text, MAX_MESSAGE_CHARS)


def value_of(
    error: BaseException, is_plain: Callable[[Any, int], bool], depth: int
) -> dict[str, Any]:
    """What another Python needs to make an exception like this: `bases`, the classes it is of, and
    `args`, `state`, `members` where they are plain."""
    value: dict[str, Any] = {
        "bases": [
            [cls.__module__, cls.__qualname__]
            for cls in type(error).__mro__[1 : 1 + MAX_BASES]
            if issubclass(cls, BaseException)
        ]
    }
    # By its name: before Python 3.11 groups are a package's.
    is_group = any(cls.__name__ == "BaseExceptionGroup" for cls in type(error).__mro__)
    members = getattr(error, "exceptions", None) if is_group else None
    if type(members) is tuple and all(isinstance(one, BaseException) for one in members):
        if depth < MAX_GROUP_DEPTH:
            value["members"] = [
                {
                    "type": type(one).__qualname__,
                    "module": type(one).__module__,
                    "message": message_of(one),
                    **value_of(one, is_plain, depth + 1),
                }
                for one in members[:MAX_MEMBERS]
            ]
            value["text"] = str(getattr(error, "message", ""))
        return value
    try:
        # Has what `args` leaves out: an OSError's filename, an ImportError's name.
        made = error.__reduce__()
        args = made[1] if type(made) is tuple and made[0] is type(error) else error.args
        state = made[2] if type(made) is tuple and len(made) > 2 else vars(error)
        packed = [packed_argument(one, is_plain) for one in args]
        if None not in packed:
            value["args"] = packed
        if isinstance(state, dict):
            value["state"] = {
                name: one
                for name, one in state.items()
                if type(name) is str and name != "__notes__" and is_plain(one, 8)
            }
    except Exception:
        return value  # a __reduce__ of the code's own that fails: the classes are enough
    return value


def packed_argument(value: Any, is_plain: Callable[[Any, int], bool]) -> list[Any] | None:
    """A plain value, bytes or a tuple of plain values; None for any other."""
    if is_plain(value, 8):
        return ["plain", value]
    if type(value) is bytes:
        return ["bytes", value.hex()] if len(value) < MAX_VALUE_CHARS else None
    if type(value) is tuple and is_plain(list(value), 8):
        return ["tuple", list(value)]
    return None


def tidy(
    told: TracebackException | None,
    roots: tuple[str, ...],
    origins: Mapping[str, str],
    seen: set[int],
) -> None:
    """Takes our own frames, and the import system's below them, out of the whole chain, and calls
    the package's files what the user calls them."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    own = [os.path.dirname(frame.filename) == HERE for frame in told.stack]
    if any(own):
        last = len(own) - 1 - own[::-1].index(True)
        rest = told.stack[last + 1 :]
        while rest and (
            rest[0].filename.startswith("<frozen importlib")
            or os.path.basename(os.path.dirname(rest[0].filename)) in ("importlib", "asyncio")
        ):
            rest = rest[1:]
        told.stack[:] = rest
    for frame in told.stack:
        if frame.filename.startswith(roots):
            _ = frame.line  # read now, from the file that is here
            frame.filename = user_path(frame.filename, roots, origins)
    filename = getattr(told, "filename", None)  # of a SyntaxError
    if isinstance(filename, str) and filename.startswith(roots):
        told.filename = user_path(filename, roots, origins)
    tidy(told.__cause__, roots, origins, seen)
    tidy(told.__context__, roots, origins, seen)
    for part in getattr(told, "exceptions", None) or ():
        tidy(part, roots, origins, seen)


def user_path(filename: str, roots: tuple[str, ...], origins: Mapping[str, str]) -> str:
    """Where the user has that file of the package, which lies below one of `roots`."""
    place = next(filename[len(root) :] for root in roots if filename.startswith(root))
    if place in origins:
        return origins[place]
    if "" in origins and not place.startswith(".cumulus/"):
        return os.path.join(origins[""], place)
    return filename


def without_our_names(text: str) -> str:
    """Classes of the script are called as in the script: its module's name in the job is ours."""
    import re

    return re.sub(r"(?m)^([ |+-]*)cumulus_main_\w+\.(?=\w)", r"\1", text)


def is_pause(error: BaseException) -> bool:
    """It is `runtime.CooperativePause`, told by its name: the module may be the code's own copy."""
    return any(
        kind.__name__ == "CooperativePause" and kind.__module__.partition(".")[0] == "runtime"
        for kind in type(error).__mro__
    )


def hint_for(error: BaseException) -> str | None:
    """What to do about the commonest errors."""
    if isinstance(error, MemoryError):
        return "The job ran out of memory: ask for more with `memory_bytes`, or use less."
    if isinstance(error, SyntaxError):
        version = "{}.{}".format(*sys.version_info[:2])
        return f"The job's Python is {version}: is the code written for a newer one?"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package == "cumulus_client":
            return (
                "Jobs have no cumulus_client: run a program that submits jobs with a Python that "
                "has it, not as a job, or keep the import out of the code that is to run."
            )
        return f"If {package} is a package, name it in the job's `requirements`."
    return None


def shorten(text: str, max_chars: int) -> str:
    """The text, or its head and tail when it is longer than that."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 4
    left_out = len(text) - max_chars
    return f"{text[:head]}\n… {left_out} characters left out …\n{text[left_out + head :]}"
