"""`typing.NamedTuple` in a tenth of its time.

`typing` checks every annotation of a class and has a constructor compiled for it: 0.25 ms each, and the eighty classes
that a command defines took a sixth of its time. The classes here are used in the same way (tuples with names, defaults,
`_replace` and `_asdict`), but those with equally many fields share the code of their constructor.
"""

from collections import namedtuple
from collections.abc import Iterable
from functools import cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    _Getter = type(namedtuple("_", "field").field)  # reads an item by its place, faster than a property

    class _Fields(tuple):
        """What tuples with named items have in common."""

        __slots__ = ()

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Self:
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **changes: Any) -> Self:
            made = tuple.__new__(type(self), map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"Got unexpected field names: {list(changes)}")
            return made

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

    class _Maker(type):
        """Makes a plain class of tuples of what is written as a subclass of `NamedTuple`."""

        def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, members)
            made = type(name, (_Fields,), members | {"__slots__": ()})
            fields = tuple(made.__annotations__)
            defaults = {field: members[field] for field in fields if field in members}
            names = {"co_name": "__new__", "co_qualname": f"{name}.__new__", "co_varnames": ("_cls", *fields)}
            code = _constructor(len(fields)).replace(**names)
            made.__new__ = FunctionType(code, {"_new": tuple.__new__}, "__new__", tuple(defaults.values()))
            made.__match_args__ = made._fields = fields
            made._field_defaults = defaults
            for place, field in enumerate(fields):
                setattr(made, field, _Getter(place, f"Alias for field number {place}"))
            return made

    @cache
    def _constructor(fields: int) -> CodeType:
        """The code of a constructor with so many fields."""
        names = "".join(f"_{place}," for place in range(fields))
        return eval(f"lambda _cls, {names}: _new(_cls, ({names}))").__code__

    class NamedTuple(metaclass=_Maker):
        """A class's annotations are its fields, in order, and assigned values their defaults."""
