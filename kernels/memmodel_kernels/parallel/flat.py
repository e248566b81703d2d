"""Parameters one after another in a flat buffer."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A parameter, and where in a flat buffer it starts."""

    parameter: Any
    start: int

    @property
    def end(self) -> int:
        """The element after it."""
        return int(self.start + self.parameter.numel())


def places(parameters: Sequence[Any], start: int, end: int) -> tuple[list[Place], int]:
    """The parameters in a buffer, each at a multiple of `start` elements, and the buffer's, a multiple of `end`."""
    found: list[Place] = []
    at = 0
    for parameter in parameters:
        found.append(Place(parameter, -(-at // start) * start))
        at = found[-1].end
    return found, -(-at // end) * end
