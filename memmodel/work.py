"""The cost of a kernel as a small frozen type, closed under `+` and `*`. Only work is additive; peak memory is not.

One fused multiply-add counts as 2 FLOP, here and everywhere.
"""

from dataclasses import dataclass, fields

from memmodel.dims import Dim


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel does, by pipe and by memory level.

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

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: Dim) -> "Work":
        return Work(*(getattr(self, f.name) * times for f in fields(self)))

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
        """Arithmetic intensity, FLOP per byte of HBM traffic."""
        return self.flops / self.hbm_bytes
