"""A machine for the time model: a GPU's datasheet, with a calibration's measured values in its place."""

from typing import NamedTuple

from memmodel.allocator.cublas import DEFAULT_TORCH, parse_torch_version
from memmodel.base.dtypes import DType, peak_name
from memmodel.gpus import Gpu
from memmodel.timing.calibration import Calibration, Constant
from memmodel.timing.host import ANY_HOST, NO_HOST, Hosts, around, host_of

CPU = "cpu"  # the id of a processor in place of a GPU


class Rate(NamedTuple):
    """A rate in SI units, and its source."""

    value: float
    source: str


class CompiledFor(NamedTuple):
    """What the code of torch.compile that runs was compiled for, where not for the very sizes of the call.

    Attributes:
        any_head_dim: for any head dim, as from a process's second one on. short_rows: at a length so short that its
            loops over a row have shorter steps (`terms.LONG_STEP`).
    """

    any_head_dim: bool = False
    short_rows: bool = False


ITS_OWN = CompiledFor()


class Machine(NamedTuple):
    """A GPU and its calibration; without one, times are bounds from the datasheet.

    `tf32` is whether fp32 matrix products run as TF32 (`torch.set_float32_matmul_precision("high")`). `torch` is the
    version whose kernels run. `known_hosts`: the fastest, usual and slowest host, if known better than by the
    calibration. `compiled_for`: what compiled code was compiled for.
    """

    gpu: Gpu
    calibration: Calibration | None = None
    tf32: bool = False
    torch: tuple[int, int] = parse_torch_version(DEFAULT_TORCH)
    known_hosts: Hosts | None = None
    compiled_for: CompiledFor = ITS_OWN

    @property
    def hosts(self) -> Hosts:
        """The fastest, the usual and the slowest host to expect, near each other where a calibration measured it.

        A CPU is its own host: an operation's launch is part of its time.
        """
        if self.calibration is None or self.gpu.id == CPU:
            return NO_HOST, NO_HOST, NO_HOST
        if self.known_hosts is not None:
            return self.known_hosts
        if self.constant("dispatch") is None:
            return ANY_HOST
        backward = self.number("dispatch_backward", 0.0)
        return around(host_of(self.number("dispatch", 0.0), backward or None))

    @property
    def basis(self) -> str:
        """The source of times: "datasheet", "community" or "local"."""
        return "datasheet" if self.calibration is None else self.calibration.basis

    def constant(self, name: str) -> Constant | None:
        """A calibrated constant; None where there is none."""
        return None if self.calibration is None else self.calibration.constants.get(name)

    def calibrated(self, name: str, size: float = 0.0) -> Rate | None:
        """A calibrated rate at a size; None where there is none."""
        found = self.constant(name)
        return None if found is None else Rate(found.at(size), f"calibrated: {found.origin}")

    def number(self, name: str, otherwise: float) -> float:
        """A calibrated number, or `otherwise` without one."""
        found = self.constant(name)
        return otherwise if found is None else found.at(0.0)

    def listed(self, quantity: str) -> Rate:
        """A datasheet value. Raises UsageError where the GPU has none."""
        return Rate(self.gpu.value(quantity), self.gpu.source(quantity))

    def matmul_type(self, dtype: DType) -> str:
        """The name of the type that matrix products run in."""
        name = peak_name(dtype)
        return "tf32" if self.tf32 and name == "fp32" else name
