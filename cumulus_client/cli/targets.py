"""What `run` and `submit` are to run: a script, a folder, a function of a module."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cumulus_client._callables import unwrap
from cumulus_client._options import bind
from cumulus_client.cli.displays import warn
from cumulus_client.cli.parser import UsageError, meant
from cumulus_client.packaging import (
    Files,
    Package,
    package_folder,
    package_function,
    package_script,
)

#: What is run of a folder, the first that is there.
_ENTRIES = ("__main__.py", "main.py")
#: Options that hardly any script has: after the script they are most likely misplaced.
_OURS = frozenset({"--gpu-memory", "--duration", "--queue-timeout", "--setup-timeout", "--secret"})


def path_package(words: Sequence[str], files: Files) -> Package:
    """What is to run of `script.py [--] args` or `folder [--] args`. Raises UsageError,
    PackagingError."""
    words = list(words[1:] if words[:1] == ["--"] else words)
    if not words:
        raise UsageError("what is to run? Write: cumulus run script.py")
    named, argv = words[0], words[1:]
    if argv[:1] == ["--"]:
        argv = argv[1:]
    elif misplaced := [word for word in argv if word.partition("=")[0] in _OURS]:
        option = misplaced[0].partition("=")[0]
        warn(
            f"{option} stands after {named!r} and is handed to it; for the job's own write it "
            f"before: cumulus run {option} ... {named} (`--` before the script's options says "
            "that this is meant)"
        )
    path = Path(named)
    if path.is_dir():
        return _folder_package(path, argv, files)
    if not path.exists():
        raise UsageError(f"there is no script {named!r}{_instead(path, named)}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"the script {named!r} may not be read: see its permissions")
    if path.suffix == ".ipynb":
        raise UsageError(
            f"{named!r} is a notebook: write it as a script (jupyter nbconvert --to script), or "
            "call client.run(...) in it"
        )
    return package_script(path, argv, files=files)


def _folder_package(path: Path, argv: list[str], files: Files) -> Package:
    for entry in _ENTRIES:
        if (path / entry).is_file():
            return package_folder(path, entry, argv, files=files)
    scripts = sorted(each.name for each in path.glob("*.py"))
    instead = f"cumulus run {path / scripts[0]}" if scripts else f"cumulus run {path}/SCRIPT.py"
    raise UsageError(
        f"the folder {str(path)!r} has neither {' nor '.join(_ENTRIES)}; to run a script with the "
        f"modules beside it write: {instead}"
    )


def _instead(path: Path, named: str) -> str:
    module, colon, function = named.partition(":")
    if colon and module and function.isidentifier():
        return f"; for a function of a module write: cumulus run -m {named}"
    try:
        beside = [each.name for each in path.parent.iterdir() if each.suffix == ".py"]
    except OSError:
        return f"; there is no folder {str(path.parent)!r} either"
    folder = "" if path.parent == Path() else f"{path.parent}/"
    return meant(path.name, beside, before=folder)


def function_package(named: str, words: Sequence[str], files: Files) -> Package:
    """The call of `module:function` with what is in `words`. Raises UsageError, PackagingError."""
    args, kwargs = call_arguments(words[1:] if words[:1] == ["--"] else words)
    function = find_function(named)
    try:
        bind("run", function, args, kwargs)
    except TypeError as error:
        raise UsageError(f"{named}: {error}") from None
    return package_function(function, args, kwargs, files=files)


def call_arguments(words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """A function's arguments: `name=value` by name, others by position; each is JSON, or the text
    itself where it is none. Raises UsageError."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            if name in kwargs:
                raise UsageError(f"the argument {name} is given twice")
            kwargs[name] = _json_or_text(value)
        elif kwargs:
            raise UsageError(f"{word!r} comes after arguments with a name; put it before them")
        else:
            args.append(_json_or_text(word))
    return args, kwargs


def _json_or_text(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def find_function(named: str) -> Any:
    """The function of `module:function`; the module is imported, from this folder first. Raises
    UsageError."""
    module_name, colon, name = named.partition(":")
    if not colon or not module_name or not name:
        raise UsageError(f"-m {named!r} is not of the form module:function")
    if module_name.endswith(".py") and Path(module_name).is_file():
        right = ".".join(Path(module_name).with_suffix("").parts)
        raise UsageError(f"-m wants a module, not a file: -m {right}:{name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own module raises
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        if missing:
            beside = [each.stem for each in Path().glob("*.py")]
            raise UsageError(
                f"there is no module {module_name!r} here{meant(module_name, beside)}"
            ) from None
        raise UsageError(
            f"the module {module_name!r} can't be imported here: {_where(error)}"
            f"{type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            callables = [each for each in dir(found) if not each.startswith("_")]
            raise UsageError(f"the module {module_name!r} has no {name!r}{meant(part, callables)}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{named} is no function, but {type(found).__name__}")
    return unwrap(found)


def _where(error: BaseException) -> str:
    """Where in the user's code it was raised."""
    at = error.__traceback__
    said = ""
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        if not file.startswith("<") and os.path.dirname(importlib.__file__) not in file:
            said = f"{file}, line {at.tb_lineno}: "
        at = at.tb_next
    return "" if said.startswith(__file__) else said
