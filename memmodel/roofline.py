"""The roofline: how fast each kernel could run on a GPU, and what limits it.

time = sum over kernels of max over ceilings, plus a launch each (Williams, Waterman and Patterson, "Roofline", 2009,
kernel by kernel). Rates are the GPU's datasheet values; nothing here is calibrated.
"""

from collections.abc import Iterable
from typing import NamedTuple

from memmodel.dtypes import float32, short_name
from memmodel.gpus import Gpu
from memmodel.program import Launch
from memmodel.work import Work

LAUNCH_SECONDS = 2e-6  # gap between kernels that are queued back to back: 1 to 3 us (assumption, not calibrated)


class Ceiling(NamedTuple):
    """One limit of a kernel: amount / rate = seconds.

    Attributes:
        name: "tensor cores", "fp32 units", "exp units", "HBM". amount and rate: in FLOP, operations or bytes (per
        second).
        quantity: the GPU's value that the rate is, for looking up its source.
    """

    name: str
    amount: float
    rate: float
    quantity: str

    @property
    def seconds(self) -> float:
        """Time at this ceiling alone."""
        return self.amount / self.rate


class KernelTime(NamedTuple):
    """A kernel's time: the slowest of its ceilings, and a launch."""

    name: str
    work: Work
    ceilings: tuple[Ceiling, ...]

    @property
    def binding(self) -> Ceiling:
        """The ceiling that takes longest."""
        return max(self.ceilings, key=lambda ceiling: ceiling.seconds)

    @property
    def seconds(self) -> float:
        """Time at the binding ceiling, plus the launch."""
        return self.binding.seconds + LAUNCH_SECONDS


def kernel_time(launch: Launch, gpu: Gpu) -> KernelTime:
    """A kernel's ceilings on a GPU: matrix products by dtype, fp32 arithmetic, exponentials, HBM traffic."""
    work = launch.work
    ceilings = [Ceiling("HBM", float(work.hbm_bytes), gpu.bandwidth, "bandwidth")]
    if work.matmul:
        quantity = gpu.peak_quantity(short_name(launch.dtype))
        name = "tensor cores" if quantity.startswith("tensor") else "fp32 units"
        ceilings.append(Ceiling(name, float(work.matmul), gpu.peak(launch.dtype), quantity))
    if work.vector:
        rate = gpu.peak(float32, "vector")
        ceilings.append(Ceiling("fp32 units", float(work.vector), rate, "vector.fp32"))
    if work.exp and {"boost_clock", "exp_per_clock_per_sm", "sm_count"} <= gpu.values.keys():
        ceilings.append(Ceiling("exp units", float(work.exp), gpu.exp_rate, "exp_per_clock_per_sm"))
    return KernelTime(launch.name, work, tuple(ceilings))


def kernel_times(launches: Iterable[Launch], gpu: Gpu) -> tuple[KernelTime, ...]:
    """Every kernel's time, in order."""
    return tuple(kernel_time(launch, gpu) for launch in launches)


def share_by_ceiling(kernels: Iterable[KernelTime]) -> dict[str, float]:
    """Seconds by binding ceiling, largest first; the launches count as a ceiling of their own."""
    shares: dict[str, float] = {}
    for kernel in kernels:
        for name, seconds in ((kernel.binding.name, kernel.binding.seconds), ("launch", LAUNCH_SECONDS)):
            shares[name] = shares.get(name, 0.0) + seconds
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
