"""The cost of a kernel as a small frozen type, closed under `+` and `*`. Only work is additive; peak memory is not.

One fused multiply-add counts as 2 FLOP, here and everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

from memmodel.sizes.dims import Dim


class Work(NamedTuple):
    """The work of a kernel, by pipe and by memory level.

    Attributes:
        matmul: FLOP of matrix products (tensor cores, or the fp32 pipe where the dtype has none).
        vector: FLOP of elementwise arithmetic, comparisons and reductions on the fp32 pipe.
        exp: exponentials on the special-function unit, in operations.
        read: bytes read from HBM, each operand once.
        written: bytes written to HBM, each result once.
        l2: bytes a tiled kernel re-reads through L2, beyond `read`.
    """

    matmul: Dim = 0
    vector: Dim = 0
    exp: Dim = 0
    read: Dim = 0
    written: Dim = 0
    l2: Dim = 0

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]  # adds amounts, does not join tuples
        # Adding a plain 0 is skipped, because it is slow for arrays and symbols.
        pairs = zip(self, other, strict=True)
        return Work(*[b if type(a) is int and a == 0 else a if type(b) is int and b == 0 else a + b for a, b in pairs])

    def __mul__(self, times: Dim) -> "Work":
        return Work(*[0 if type(amount) is int and amount == 0 else amount * times for amount in self])

    def mapped(self, number: Callable[[Dim], Dim]) -> "Work":
        """The work with `number` applied to each amount."""
        return Work(*map(number, self))

    @property
    def flops(self) -> Dim:
        """All FLOP; an exponential counts as one."""
        return self.matmul + self.vector + self.exp

    @property
    def hbm_bytes(self) -> Dim:
        """Bytes to and from HBM."""
        return self.read + self.written

    @property
    def intensity(self) -> Dim:
        """Arithmetic intensity, FLOP per byte of HBM traffic; 0 without traffic."""
        moved = self.hbm_bytes
        return 0 if type(moved) is int and moved == 0 else self.flops / moved
