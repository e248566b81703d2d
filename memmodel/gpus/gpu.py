"""A GPU: its rates and sizes in SI base units (FLOP/s, byte/s, byte, Hz, W), each with its source."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from memmodel.base.dtypes import DType, peak_name
from memmodel.base.errors import UsageError, unknown
from memmodel.base.frozen import Frozen
from memmodel.gpus.keys import PEAK_NAMES, file_key, source_text

Pipe = Literal["tensor", "vector"]


class Value(NamedTuple):
    """One listed number, in its SI base unit, and its source. `note` holds doubts about it."""

    value: float
    source: str
    note: str = ""


class Measured(NamedTuple):
    """A published measurement, for comparison: no prediction uses it."""

    what: str
    rate: float
    unit: Literal["FLOP/s", "byte/s"]
    source: str
    dtype: str = ""
    note: str = ""


class Gpu(Frozen):
    """A GPU and its listed values. `values` maps a quantity (`bandwidth`, `tensor.bf16`) to its Value.

    `base` is the id of the known GPU that a user's file starts from: its links are as usual there, its rates nearest.

    `memory` is "unified" where the GPU shares it with the host: its context then includes what the host takes.

    Peaks are dense: structured sparsity is never counted. One FMA is 2 FLOP. `ambiguity` says which GPU was
    chosen for a name of several.
    """

    id: str
    name: str
    vendor: str
    arch: str
    compute_capability: tuple[int, int] | None
    values: Mapping[str, Value]
    measured: tuple[Measured, ...] = ()
    rates: str = ""
    memory: str = ""
    note: str = ""
    ambiguity: str = ""
    base: str = ""

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        """The same values, by whatever name the GPU was asked for."""
        return isinstance(other, Gpu) and self._values() == other.replace(ambiguity=self.ambiguity)._values()

    def __hash__(self) -> int:
        return hash((self.id, self.name))

    def value(self, quantity: str) -> float:
        """Return the listed value of `quantity`. Raises UsageError when it is not known for this GPU."""
        return self.listed(quantity).value

    def source(self, quantity: str) -> str:
        """Return the source of `quantity`'s value, in words."""
        return source_text(self.listed(quantity).source)

    def listed(self, quantity: str) -> Value:
        """Return the value of `quantity` together with its source and note."""
        found = self.values.get(quantity)
        if found is None:
            key = file_key(quantity)
            raise UsageError(f"no {key} is known for {self.name}: a file given with --gpu-file can add it")
        return found

    @property
    def sm_count(self) -> int:
        """Streaming multiprocessors; AMD's compute units."""
        return int(self.value("sm_count"))

    @property
    def capacity_bytes(self) -> int:
        """Memory as `torch.cuda.mem_get_info` reports it: less than nvidia-smi shows and the name says."""
        return int(self.value("capacity"))

    @property
    def context_bytes(self) -> tuple[int, int] | None:
        """Memory of a process outside PyTorch's allocator, lowest and highest seen; None where not known."""
        if "context_low" not in self.values or "context_high" not in self.values:
            return None
        return int(self.value("context_low")), int(self.value("context_high"))

    @property
    def bandwidth(self) -> float:
        """Peak memory bandwidth in byte/s."""
        return self.value("bandwidth")

    @property
    def l2_bytes(self) -> int:
        """Level-2 cache."""
        return int(self.value("l2"))

    @property
    def boost_clock(self) -> float:
        """The highest SM clock that the device reports, in Hz."""
        return self.value("boost_clock")

    @property
    def tensor_clock(self) -> float:
        """The clock of the listed tensor peaks, in Hz. From Hopper on it is below the boost clock."""
        return self.value("tensor_clock")

    @property
    def sustained(self) -> float:
        """The share of its clock that a GPU keeps in long work under a power limit; 1 where none is stated.

        Power goes with clock x voltage^2, and voltage with the clock, so the clock goes with the cube root of power. By
        their datasheets an H100 NVL has 0.844 of the peak of an H100 SXM with 400 of its 700 W: (400 / 700)^(1/3) is
        0.830.
        """
        if "power_limit" not in self.values:
            return 1.0
        return float(min(self.value("power_limit") / self.value("tdp"), 1.0) ** (1 / 3))

    @property
    def exp_rate(self) -> float:
        """Exponentials per second: SMs x special-function results per clock per SM x boost clock."""
        return self.sm_count * self.value("exp_per_clock_per_sm") * self.boost_clock

    def peak(self, dtype: DType, pipe: Pipe = "tensor") -> float:
        """Return dense FLOP/s of `dtype` on `pipe`. fp32 is true fp32: TF32 is `peak_by_name("tf32")`."""
        return self.peak_by_name(peak_name(dtype), pipe)

    def peak_by_name(self, name: str, pipe: Pipe = "tensor") -> float:
        """Return dense FLOP/s by the element type's name, such as `bf16`, `tf32`, `fp8` or `fp16_fp16acc`."""
        return self.value(self.peak_quantity(name, pipe))

    def peak_quantity(self, name: str, pipe: Pipe = "tensor") -> str:
        """Name the quantity that a peak is read from.

        fp32 and fp64 products run on the vector pipe where the tensor pipe does not take that type.
        """
        if name not in PEAK_NAMES:
            raise unknown("element type of a peak", name, PEAK_NAMES)
        if pipe == "tensor" and name in ("fp32", "fp64") and f"tensor.{name}" not in self.values:
            return f"vector.{name}"
        return f"{pipe}.{name}"

    def balance_point(self, dtype: DType | str) -> float:
        """Return peak / bandwidth: the FLOP per byte at which computing takes as long as reading."""
        name = dtype if isinstance(dtype, str) else peak_name(dtype)
        return self.peak_by_name(name) / self.bandwidth

    def balance_points(self) -> dict[str, float]:
        """Return the balance point of every element type with a listed peak, in FLOP/byte; none without a bandwidth."""
        if "bandwidth" not in self.values:
            return {}
        names = dict.fromkeys(q.partition(".")[2] for q in self.values if q.startswith(("tensor.", "vector.")))
        known = [name for name in names if self.peak_quantity(name) in self.values]
        return {name: self.balance_point(name) for name in known}
