"""The exception that a job's code raised, made again here from what its ERROR record says.

Nothing of the job's runs for it: the type is one that this Python has, and is made by the built-in
exception beneath it, never by an `__init__` of its own.
"""

import builtins
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

#: What the script's module is called in a job, before the script's name.
MAIN_PREFIX = "cumulus_main_"
NOTE = "(raised in the job; its traceback stands below)"
MAX_DEPTH = 8


def original(
    told: Mapping[str, Any], aliases: Mapping[str, str], *, may_import: bool
) -> BaseException:
    """An exception of the type that the ERROR record `told` names, with the same arguments.

    `aliases`: module names in the job -> here. A type that isn't here is stood in for by one of its
    name, below the first of its bases that is. Without `may_import` only imported modules count.
    """
    try:
        value = json.loads(told.get("value") or "{}")
    except (ValueError, RecursionError, TypeError):
        value = {}  # the daemon is older, or the record was cut: the type's name is enough
    value = value if isinstance(value, dict) else {}
    error = _Maker(aliases, may_import).make({**value, **told}, 0)
    error.add_note(NOTE)
    return error


class _Maker:
    def __init__(self, aliases: Mapping[str, str], may_import: bool) -> None:
        self._aliases = aliases
        self._may_import = may_import

    def make(self, told: Mapping[str, Any], depth: int) -> BaseException:
        """The exception; one of Exception's own at the least."""
        message = str(told.get("message") or "")
        args = _arguments(told, message)
        members = told.get("members")
        if isinstance(members, list) and members and depth < MAX_DEPTH:
            inner = [self.make(one, depth + 1) for one in members if isinstance(one, dict)]
            args = (str(told.get("text") or message), inner)
        for cls in self._candidates(told):
            error = _made(cls, args, told.get("state"), message)
            if error is not None:
                return error
        return Exception(message)

    def _candidates(self, told: Mapping[str, Any]) -> Iterator[type[BaseException]]:
        module, name = str(told.get("module") or "builtins"), str(told.get("type") or "Exception")
        found = self._find(module, name)
        if found is not None:
            yield found
        bases = told.get("bases")
        for base in bases if isinstance(bases, list) else []:
            if not isinstance(base, list) or len(base) != 2:
                continue
            found = self._find(str(base[0]), str(base[1]))
            if found is not None and found is not BaseException:
                yield _stand_in(module, name, found, told)
        yield _stand_in(module, name, Exception, told)

    def _find(self, module_name: str, name: str) -> type[BaseException] | None:
        if module_name not in self._aliases and module_name.split(".")[-1].startswith(MAIN_PREFIX):
            module_name = "__main__"  # of a job that another run of this script submitted
        module_name = self._aliases.get(module_name, module_name)
        module: Any = builtins if module_name == "builtins" else sys.modules.get(module_name)
        if module is None and self._may_import and module_name:
            try:
                module = importlib.import_module(module_name)
            except (Exception, SystemExit):
                return None  # it isn't installed here, or doesn't work here
        first, *rest = name.split(".")
        # By the dictionary: a module's own `__getattr__` might import whatever the job names.
        found = getattr(module, "__dict__", {}).get(first)
        if found is None and self._may_import:
            found = getattr(module, first, None)
        for part in rest:
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
        return None


def _arguments(told: Mapping[str, Any], message: str) -> tuple[Any, ...]:
    packed = told.get("args")
    if not isinstance(packed, list):
        return (message,)
    args: list[Any] = []
    for one in packed:
        kind, value = one if isinstance(one, list) and len(one) == 2 else (None, None)
        if kind == "bytes" and isinstance(value, str):
            try:
                args.append(bytes.fromhex(value))
            except ValueError:
                return (message,)
        elif kind == "tuple" and isinstance(value, list):
            args.append(tuple(value))
        elif kind == "plain":
            args.append(value)
        else:
            return (message,)
    return tuple(args)


def _stand_in(
    module: str, name: str, base: type[BaseException], told: Mapping[str, Any]
) -> type[BaseException]:
    def said(self: BaseException) -> str:
        return str(told.get("message") or "")

    body = {"__module__": module, "__qualname__": name, "__str__": said}
    return type(name.rpartition(".")[2] or "Exception", (base,), body)


def _made(
    cls: type[BaseException], args: tuple[Any, ...], state: Any, message: str
) -> BaseException | None:
    """None when that type can't be made so."""
    base: Any = next(each for each in cls.__mro__ if each.__module__ == "builtins")
    try:
        error: BaseException = base.__new__(cls, *args)
        base.__init__(error, *args)
        if isinstance(state, dict):
            for name, value in state.items():
                if not name.startswith("__"):  # Python's own, such as notes that are none
                    object.__setattr__(error, name, value)
        said = str(error)
    except Exception:
        return None
    # With other arguments than its own, a type's own __str__ may say anything.
    return error if said or not message else None
