"""What the runner needs of enumerations: members with name and value, by their value, in order."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class _Members(type):
    """Makes each plain attribute of a class below a member."""

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
        super().__init__(name, bases, body)
        plain: Any = int if issubclass(cls, int) else str
        new: Any = plain.__new__
        made: dict[Any, Any] = {}
        for key, value in body.items():
            if type(value) is plain and not key.startswith("_"):
                member = new(cls, value)
                member.name, member.value = key, value
                made[value] = member
                setattr(cls, key, member)
        cls._made = made

    def __call__(cls, value: object) -> Any:
        """The member of that value. Raises ValueError."""
        try:
            return cls._made[value]
        except (KeyError, TypeError):
            raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

    def __iter__(cls) -> Iterator[Any]:
        return iter(cls._made.values())


class IntEnum(int, metaclass=_Members):
    """Numbers."""

    name: str
    value: int


class StrEnum(str, metaclass=_Members):
    """Words."""

    name: str
    value: str
