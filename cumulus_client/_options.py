"""The options of run() and submit(), and the call that they are given with, checked here."""

import inspect
import math
import numbers
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from cumulus_client._callables import short_name, unwrap
from cumulus_client._package_files import Files
from cumulus_client._quantities import parse_bytes, parse_seconds
from cumulus_client._raising import HOW_TO_GIVE
from cumulus_client._signatures import signature_of

#: Seconds, or text such as "90m".
Seconds = float | str


class _NotGiven:
    def __repr__(self) -> str:
        return "<not given>"


#: Default of an option that must be told from one given as None.
NOT_GIVEN: Any = _NotGiven()

#: Options that the old SDK had: always options, whatever the function's parameters are called.
OLD_DEFAULTS: Mapping[str, Any] = {
    "gpu_memory": 0.5, "duration": 3600, "requirements": None, "timeout": None, "args": None,
}  # fmt: skip
OPTIONS = (
    *OLD_DEFAULTS, "name", "queue_timeout", "setup_timeout", "env", "secrets", "files", "cpu",
    "memory", "priority", "retries",
)  # fmt: skip
#: Longest wait that Python's locks take is somewhat over this.
_LONGEST_S = 1e9


class CommonOptions(TypedDict, total=False):
    """What a job can be asked for that has one name everywhere. (TypedDicts can't leave out.)"""

    name: str | None
    queue_timeout: Seconds | None
    setup_timeout: Seconds
    env: Mapping[str, str] | None
    secrets: Mapping[str, str] | None
    files: Files
    cpu: float | None
    priority: int
    retries: int


class MoreOptions(CommonOptions, total=False):
    """Those that the old SDK didn't have."""

    memory: int | str | None


class Options(MoreOptions, total=False):
    """All, as of `CumulusClient.run`, where no keyword is a function's."""

    gpu_memory: float
    duration: Seconds
    requirements: Sequence[str] | None


class CallOptions(Options, total=False):
    """`Options` and what the caller itself waits."""

    timeout: Seconds | None


@dataclass(frozen=True, kw_only=True)
class Call:
    """A checked call. `files` travel in the package, `spec` is all else that the daemon gets."""

    args: list[Any]
    kwargs: dict[str, Any]
    spec: dict[str, Any]
    timeout: float | None
    files: Files = None


def options_given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a face's arguments that are options."""
    return {name: arguments[name] for name in OPTIONS if name in arguments}


def make_call(
    face: str,
    func: Callable[..., Any],
    given: Mapping[str, Any],
    options: Any,
    kwargs: Mapping[str, Any],
) -> Call:
    """Parts options from the function's own arguments, and checks both.

    `face`: the method, for messages. `given`: option -> value as the face got it. A keyword that
    the function's signature names goes to the function, but those of the old SDK (there, only when
    `options` has that option). `options` is merged over the options.

    Raises TypeError, ValueError.
    """
    own = _parameters(func)
    to_function = dict(kwargs)
    if options is NOT_GIVEN:
        options = None
    elif "options" in own:
        to_function["options"], options = options, None
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict, not {type(options).__name__} {options!r}")
    merged = dict(options or {})
    for name in merged:
        if name not in OPTIONS:
            raise TypeError(
                f"options has {name!r}, which is no option of {face}; these are: "
                + ", ".join(OPTIONS)
                + _did_you_mean(name, OPTIONS)
            )
    values = dict(OLD_DEFAULTS)
    for name, value in given.items():
        if value is NOT_GIVEN:
            continue
        if name in own and (name in merged or name not in OLD_DEFAULTS):
            if not _is_default(name, value):
                to_function[name] = value
        else:
            values[name] = value
    values.update(merged)
    timeout = checked_timeout("timeout", values.pop("timeout"))
    args = checked_args(values.pop("args"))
    files = checked_files(values.pop("files", None))
    spec = make_spec(**values)
    bind(face, func, args, to_function)
    return Call(args=args, kwargs=to_function, spec=spec, timeout=timeout, files=files)


def _is_default(name: str, value: Any) -> bool:
    default = OLD_DEFAULTS.get(name, NOT_GIVEN)
    return type(value) is type(default) and bool(value == default)


def _parameters(func: Callable[..., Any]) -> set[str]:
    """Names that the function's signature takes as keywords."""
    function = unwrap(func)
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name for each in parameters if each.kind in by_name}


def bind(
    face: str, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raises TypeError when the function can't be called so, as far as its signature is known. What
    can't be called at all is for the packager to refuse."""
    function = unwrap(func)
    try:
        # A decorator's wrapper takes what it takes, whatever the function in it does.
        signature = signature_of(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # nothing that can be called, or nobody knows how
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        text = str(error)
        told = str(signature)
        told = told if len(told) <= 200 else told[:197] + "..."
        name = short_name(function)
        raise TypeError(f"{name}(): {text}; it is {name}{told}{_option_note(face, text)}") from None


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    import difflib  # not before it is needed: imports are light

    near = difflib.get_close_matches(name, known, 1)
    return f". Did you mean the option `{near[0]}`?" if near else ""


def _option_note(face: str, text: str) -> str:
    named = re.search(r"'(\w+)'", text)
    if named is None:
        return ""
    if named[1] not in OPTIONS:
        if face.startswith("@"):
            return ""
        if "unexpected keyword" in text:
            return _did_you_mean(named[1], OPTIONS)
        return f". {HOW_TO_GIVE}" if face in ("run()", "submit()") else ""
    if face.startswith("@"):
        return f". `{named[1]}` is an option of {face}, not of the call"
    return (
        f". `{named[1]}` is an option of {face}; to pass it to the function use args=[...] or "
        "options={...}: options={" + repr(named[1]) + ": ...} is the option, and the keyword goes "
        "to the function"
    )


# --- checks -----------------------------------------------------------------------------------


def make_spec(
    *,
    gpu_memory: float = 0.5,
    duration: Seconds = 3600,
    requirements: Sequence[str] | None = None,
    name: str | None = None,
    queue_timeout: Seconds | None = None,
    setup_timeout: Seconds | None = None,
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    cpu: float | None = None,
    memory: int | str | None = None,
    priority: int = 0,
    retries: int = 0,
) -> dict[str, Any]:
    """A job's specification, without its package. Checks types (TypeError) and that numbers are
    finite (ValueError): which values are allowed is for the daemon to say."""
    spec: dict[str, Any] = {
        "gpu_memory": _number("gpu_memory", gpu_memory, "a number"),
        "duration_s": _seconds("duration", duration),
    }
    if requirements is not None:
        if isinstance(requirements, str) or not isinstance(requirements, Sequence):
            raise TypeError(
                'requirements must be a list of str such as ["numpy"], not '
                f"{type(requirements).__name__}"
            )
        for requirement in requirements:
            _text("each of requirements", requirement)
        spec["requirements"] = list(requirements)
    if name is not None:
        _text("name", name)
        spec["name"] = name
    if queue_timeout is not None:
        spec["queue_timeout_s"] = _seconds("queue_timeout", queue_timeout, or_none=True)
    if setup_timeout is not None:
        spec["setup_timeout_s"] = _seconds("setup_timeout", setup_timeout)
    if env is not None:
        spec["environment"] = _texts("env", env)
    if secrets:
        spec["secrets"] = _texts("secrets", secrets, secret=True)
    if cpu is not None:
        spec["cpu_cores"] = _number("cpu", cpu, "a number of cores or None")
    if memory is not None:
        spec["memory_bytes"] = _bytes("memory", memory)
    if whole := _whole("priority", priority):
        spec["priority"] = whole
    if again := _whole("retries", retries):
        spec["retries"] = again
    return spec


def parted(options: Options) -> tuple[dict[str, Any], Files]:
    """The specification and the files. Raises TypeError, ValueError."""
    asked: dict[str, Any] = {**options}
    files = checked_files(asked.pop("files", None))
    known = [name for name in OPTIONS if name in Options.__annotations__]
    for name in asked:
        if name not in known:
            meant = _did_you_mean(name, known)
            raise TypeError(f"{name!r} is no option; these are: {', '.join(known)}{meant}")
    return make_spec(**asked), files


def checked_timeout(name: str, value: Any) -> float | None:
    """The seconds of a caller's own timeout. Raises TypeError, ValueError unless over 0."""
    if value is None:
        return None
    seconds = _seconds(name, value, or_none=True)
    if seconds <= 0:
        raise ValueError(f"{name} must be over 0 s, or None to wait as long as it takes: {value!r}")
    return seconds


def checked_files(files: Any) -> Files:
    """The files that are to travel. Raises TypeError for what is neither list nor dict."""
    if files is None:
        return None
    if isinstance(files, Mapping | Sequence) and not isinstance(files, str | bytes | bytearray):
        return files or None
    raise TypeError(
        "files must be a list of paths, or a dict of name in the job's folder to path or bytes, "
        f"not {type(files).__name__}; for one file write files=[...]"
    )


def checked_args(args: Any) -> list[Any]:
    """The function's positional arguments. Raises TypeError for what is no list or tuple."""
    if args is None:
        return []
    if isinstance(args, str | bytes | bytearray) or not isinstance(args, Sequence):
        raise TypeError(
            f"args must be a list or tuple of the function's positional arguments, not "
            f"{type(args).__name__}; for one argument write args=[...]"
        )
    return list(args)


def deadline_after(timeout: float | None) -> float | None:
    """The `time.monotonic()` at which a checked timeout is over."""
    return None if timeout is None else time.monotonic() + min(timeout, _LONGEST_S)


def _whole(what: str, value: Any, wanted: str = "an int") -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _wrong(what, wanted, value)
    return int(value)


def _number(what: str, value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _wrong(what, wanted, value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} must be {wanted}, not {value!r}")
    return number


def _seconds(what: str, value: Any, *, or_none: bool = False) -> float:
    if isinstance(value, str):
        try:
            return parse_seconds(value)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    return _number(what, value, f"a number of seconds{' or None' if or_none else ''}")


def _bytes(what: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            return parse_bytes(value)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    return _whole(what, value, 'an int of bytes, text such as "8GiB", or None')


def _texts(what: str, value: Any, *, secret: bool = False) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a dict of str to str, not {type(value).__name__}")
    for key, item in value.items():
        _text(f"each key of {what}", key)
        if secret and not isinstance(item, str):  # not shown: it may be all but right
            raise TypeError(f"{what}[{key!r}] must be a str, not {type(item).__name__}")
        _text(f"{what}[{key!r}]", item)
    return dict(value)


def _text(what: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(what, "a str", value)


def _wrong(what: str, wanted: str, value: Any) -> TypeError:
    return TypeError(f"{what} must be {wanted}, not {type(value).__name__} {value!r}")
