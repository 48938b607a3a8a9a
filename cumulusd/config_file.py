"""A YAML file as plain values, and on which line each key stands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

KeyPath = tuple[str | int, ...]

#: A configuration is written by people; anything larger is something else.
MAX_FILE_BYTES = 1 << 20


@attrs.frozen(kw_only=True)
class Fault:
    """One thing that is wrong."""

    key: str  #: dotted, "" for the file as a whole
    line: int | None
    message: str


class ConfigError(Exception):
    """The configuration can't be used. `str()` has one line per fault, in the file's order."""

    def __init__(self, path: str, faults: Sequence[Fault]) -> None:
        self.path = path
        self.faults = sorted(faults, key=lambda fault: (fault.line or 0, fault.key))
        super().__init__("\n".join(self._line(fault) for fault in self.faults))

    def _line(self, fault: Fault) -> str:
        where = self.path if fault.line is None else f"{self.path}:{fault.line}"
        # One fault is one line, whatever the message quotes.
        message = " ".join(fault.message.split())
        return f"{where}: {fault.key}: {message}" if fault.key else f"{where}: {message}"


class Lines:
    """Where each key stands."""

    def __init__(self, lines: dict[KeyPath, int]) -> None:
        self._lines = lines

    def exactly(self, location: KeyPath) -> int | None:
        """The line of that very key; None when it isn't in the file."""
        return self._lines.get(location)

    def of(self, location: KeyPath) -> int | None:
        """The line of that key, or of the nearest one above that is there."""
        while location:
            if location in self._lines:
                return self._lines[location]
            location = location[:-1]
        return None


def key_text(location: KeyPath) -> str:
    """("tokens", 0, "role") -> "tokens[0].role"."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in the file and its lines. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _whole(path, f"can't be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise _whole(path, f"is over {MAX_FILE_BYTES} bytes: no configuration of ours")
    try:
        loader = yaml.SafeLoader(raw)
        try:
            node = loader.get_single_node()
            reader = _Reader(str(path))
            if node is not None:
                reader.visit(node, ())
            if reader.faults:
                raise ConfigError(str(path), reader.faults)
            data = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            str(path),
            [
                Fault(
                    key="",
                    line=mark.line + 1 if mark else None,
                    message=f"no YAML: {error.problem or error.context or error}",
                )
            ],
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _whole(path, f"no YAML: {error or type(error).__name__}") from None
    if not isinstance(data, dict):
        raise _whole(path, "the file must hold a mapping (key: value)")
    return data, Lines(reader.lines)


def _whole(path: Path, message: str) -> ConfigError:
    return ConfigError(str(path), [Fault(key="", line=None, message=message)])


class _Reader:
    """Notes the line of every key; finds what plain YAML would let pass in silence."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[Fault] = []
        self._seen: set[int] = set()

    def visit(self, node: yaml.Node, location: KeyPath) -> None:
        line = node.start_mark.line + 1
        self.lines.setdefault(location, line)
        if id(node) in self._seen:
            self._fault(location, line, "aliases (*name) are not taken here; write it out")
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*location, index))
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, location)

    def _visit_mapping(self, node: yaml.MappingNode, location: KeyPath) -> None:
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                self._fault(location, line, f"the key {key.value!r} must be a string: quote it")
                continue
            inner = (*location, key.value)
            if inner in self.lines:
                self._fault(inner, line, f"is there twice, first on line {self.lines[inner]}")
                continue
            self.lines[inner] = line
            self.visit(value, inner)

    def _fault(self, location: KeyPath, line: int, message: str) -> None:
        self.faults.append(Fault(key=key_text(location), line=line, message=message))
