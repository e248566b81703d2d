"""Named tuples are used as those of `typing`, which take longer to define."""

import copy
import pickle
import typing
from typing import Any

import pytest

from memmodel.base.named_tuple import NamedTuple


class Ours(NamedTuple):
    """A point."""

    x: int
    y: int | None = None

    def norm(self) -> int:
        return self.x * self.x


class Theirs(typing.NamedTuple):
    """A point."""

    x: int
    y: int | None = None

    def norm(self) -> int:
        return self.x * self.x


def seen(kind: Any) -> list[Any]:
    """What a user of the class can see."""
    one = kind(3, y=4)
    members = "_fields", "_field_defaults", "__match_args__", "__annotations__", "__doc__", "__slots__"
    return [
        [getattr(kind, name) for name in members],
        [tuple(one), one.x, one.y, one.norm(), hash(one), one == (3, 4), repr(one).partition("(")[2]],
        [tuple(kind(1)), tuple(kind._make([1, 2])), tuple(one._replace(y=5)), one._asdict()],
        [copy.copy(one) == one, copy.deepcopy(one) == one, pickle.loads(pickle.dumps(one)) == one],
    ]


def test_a_named_tuple_is_that_of_typing() -> None:
    assert seen(Ours) == seen(Theirs)


@pytest.mark.parametrize(
    "wrong", [lambda kind: kind(), lambda kind: kind(1, 2, 3), lambda kind: kind(1, z=2), lambda kind: kind._make([1])]
)
def test_wrong_fields_are_the_same_errors(wrong: Any) -> None:
    words = []
    for kind in (Theirs, Ours):
        with pytest.raises(TypeError) as found:
            wrong(kind)
        words.append(str(found.value).replace(kind.__name__, ""))
    assert words[0] == words[1]


def test_a_field_that_does_not_exist_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="z"):
        Ours(1)._replace(z=2)
