"""The words for what is wrong with a configuration: pydantic's errors, told to an operator."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cumulusd.config_file import Fault, KeyPath, Lines, key_text


def fault_of(detail: ErrorDetails, lines: Lines, root: type[BaseModel]) -> Fault:
    """One of pydantic's errors in our words. `root`: what the whole file is read as."""
    location = _in_the_file(detail["loc"])
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        message = _unknown(location, root)
    elif kind == "missing":
        message = "is required"
    elif kind == "model_type":
        message = "must be a section: keys and their values"
    elif kind == "tuple_type":
        message = f"must be a list: [first, second] (it is {given!r})"
    elif kind == "value_error":
        message = str(detail["ctx"]["error"])
    else:
        message = detail["msg"][0].lower() + detail["msg"][1:]
        if isinstance(given, str | int | float | bool | None):
            message += f" (it is {given!r})"
    return Fault(key=key_text(location), line=lines.of(location), message=message)


def _in_the_file(location: tuple[int | str, ...]) -> KeyPath:
    """The keys of that place; for a value that may be of several types pydantic puts the type it
    tried between them (`literal['auto']`, `tuple[...]`), which is no key."""
    return tuple(part for part in location if isinstance(part, int) or "[" not in part)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field's type holds, directly or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if (found := section_in(inner)) is not None:
            return found
    return None


def _unknown(location: KeyPath, root: type[BaseModel]) -> str:
    """What was probably meant: a key of this section, else one of another, else any of them."""
    given = _plain(str(location[-1]))
    known = {_plain(name): name for name in _section_at(location[:-1], root).model_fields}
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    if nearest:
        return f"unknown key; did you mean {known[nearest[0]]!r}?"
    places = sorted(key for name, key in _all_keys(root) if name == given)
    if places:
        return f"unknown key here; did you mean {' or '.join(map(repr, places))}?"
    return f"unknown key; known here: {', '.join(sorted(known.values()))}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _section_at(location: KeyPath, root: type[BaseModel]) -> type[BaseModel]:
    """The section whose keys stand at this place."""
    model = root
    for part in location:
        if isinstance(part, str):
            model = section_in(model.model_fields[part].annotation) or model
    return model


def _all_keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, dotted key) of every key."""
    for name, field in model.model_fields.items():
        yield name, above + name
        inner = section_in(field.annotation)
        if inner is not None:
            yield from _all_keys(inner, f"{above}{name}.")
