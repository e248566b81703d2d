"""Frozen data: what a frozen dataclass is, at a tenth of its cost when the program starts.

`dataclasses` imports `inspect`, and compiles six methods of each class: together a third of the time in which
`memmodel predict` should answer. The classes here have one compiled method each, and share the others. The functions of
`dataclasses` (`fields`, `replace`, `asdict`) take them as dataclasses.
"""

from typing import Any, ClassVar, Self, dataclass_transform


class _Fields:
    """The fields of a class as `dataclasses` describes them, made when something first asks for them."""

    def __get__(self, instance: object, owner: "type[Frozen]") -> dict[str, Any]:
        from dataclasses import field, make_dataclass

        given = vars(owner)
        described = [
            (name, kind, field(default=given[name])) if name in given else (name, kind)
            for name, kind in owner.__annotations__.items()
        ]
        made = make_dataclass(owner.__name__, described, init=False, repr=False, eq=False)
        fields: dict[str, Any] = made.__dict__["__dataclass_fields__"]
        owner.__dataclass_fields__ = fields
        return fields


@dataclass_transform(frozen_default=True)
class Frozen:
    """The base of frozen data: its annotations are the fields, in order, and assigned values their defaults.

    A class may define `__post_init__`, which checks or completes its fields. Equal are instances of one class with
    equal fields. Fields are not inherited.
    """

    __dataclass_fields__: ClassVar[Any] = _Fields()
    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        given = vars(cls)
        parameters = ", ".join(f"{name}=given[{name!r}]" if name in given else name for name in cls._fields)
        fields = ", ".join(f"{name}={name}" for name in cls._fields)
        ending = "; self.__post_init__()" if "__post_init__" in given else ""
        made: dict[str, Any] = {}
        exec(f"def __init__(self, {parameters}): self.__dict__.update({fields}){ending}", {"given": given}, made)
        cls.__init__ = made["__init__"]  # type: ignore[method-assign]
        cls.__init__.__qualname__ = f"{cls.__qualname__}.__init__"

    def _values(self) -> tuple[Any, ...]:
        """What is compared."""
        return tuple(map(self.__dict__.__getitem__, self._fields))

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({fields})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name} of a {type(self).__name__}, which is frozen: use `replace`")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name} of a {type(self).__name__}, which is frozen")

    def replace(self, **changes: Any) -> Self:
        """A copy with other values of some fields."""
        return type(self)(**{**self.__dict__, **changes})
