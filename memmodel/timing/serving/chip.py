"""The values of a GPU's datasheet that a serving kernel's time depends on."""

from typing import NamedTuple

from memmodel.base.units import MiB
from memmodel.gpus import Gpu

# Exponentials of one SM, where no source gives them: as on every NVIDIA GPU before Blackwell Ultra.
EXP_PER_CLOCK = 16.0
# Where a GPU's L2 is not known: that of the same chip elsewhere, else the last line's.
L2_BYTES = {"hopper": 50 * MiB, "blackwell_ultra": 126.5 * MiB}
_SMALL_L2 = 32 * MiB


class Chip(NamedTuple):
    """A GPU as kernels see it.

    Attributes:
        sms: streaming multiprocessors. clock: in Hz, that of the listed tensor peak.
        flop_per_clock: 16-bit products of one SM. exp_per_clock: exponentials of one SM.
        bandwidth: of memory, B/s. l2: bytes.
    """

    sms: int
    clock: float
    flop_per_clock: float
    exp_per_clock: float
    bandwidth: float
    l2: float


def chip_of(gpu: Gpu) -> Chip:
    """The chip of a GPU. Raises UsageError that names the value which its data lack."""
    kind = "bf16" if "tensor.bf16" in gpu.values else "fp16"
    sms, clock = gpu.sm_count, gpu.tensor_clock
    exp = gpu.value("exp_per_clock_per_sm") if "exp_per_clock_per_sm" in gpu.values else EXP_PER_CLOCK
    l2 = gpu.l2_bytes if "l2" in gpu.values else L2_BYTES.get(gpu.arch, _SMALL_L2)
    return Chip(sms, clock, gpu.peak_by_name(kind) / (sms * clock), exp, gpu.bandwidth, l2)
