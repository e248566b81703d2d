"""The time of a call, part by part. Seconds are floats, or arrays with an element for each row of a table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from memmodel.sizes.dims import maximum

Seconds = Any


class Parts(NamedTuple):
    """Seconds of a call.

    Attributes:
        units: of the SMs' arithmetic, all of them busy. memory: of bytes from and to memory, each once.
        beside: by name, what comes on top of the longer of the two.
    """

    units: Seconds
    memory: Seconds
    beside: Mapping[str, Seconds]

    @property
    def seconds(self) -> Seconds:
        """Seconds of the whole call."""
        return maximum(self.units, self.memory) + sum(self.beside.values())

    @property
    def shares(self) -> dict[str, Seconds]:
        """The share of the whole call of the longer of the two, and of what comes on top; of the other it is 0."""
        whole = self.seconds
        longer = {
            "units": self.units * (self.units >= self.memory),
            "memory": self.memory * (self.units < self.memory),
        }
        return {name: seconds / whole for name, seconds in {**longer, **self.beside}.items()}


def bytes_of_queries(case: Any) -> Any:
    """Bytes of Q and O."""
    return case.batch * case.heads * case.seq * (case.head_dim + case.value_dim) * case.dtype.itemsize


def bytes_of_a_key(case: Any) -> Any:
    """Bytes of one position's K and V, in all sequences and kv heads."""
    return case.batch * case.kv_heads * (case.head_dim + case.value_dim) * case.dtype.itemsize
