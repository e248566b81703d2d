"""A machine for the time model: a GPU's datasheet, with a calibration's measured values in its place."""

from typing import NamedTuple

from memmodel.cublas import DEFAULT_TORCH, parse_torch_version
from memmodel.dtypes import DType, peak_name
from memmodel.gpus import Gpu
from memmodel.timing.calibration import Calibration, Constant
from memmodel.timing.host import FAST, NO_HOST, SLOW, USUAL, Host, host_of


class Rate(NamedTuple):
    """A rate in SI units, and its source."""

    value: float
    source: str


class Machine(NamedTuple):
    """A GPU and its calibration; without one, times are bounds from the datasheet.

    `tf32` is whether fp32 matrix products run as TF32 (`torch.set_float32_matmul_precision("high")`). `torch` is the
    version whose kernels run. `host`: its time for an operation, if that is known better than by the calibration.
    """

    gpu: Gpu
    calibration: Calibration | None = None
    tf32: bool = False
    torch: tuple[int, int] = parse_torch_version(DEFAULT_TORCH)
    host: Host | None = None

    @property
    def hosts(self) -> tuple[Host, Host, Host]:
        """The fastest, the usual and the slowest host to expect; all alike where a calibration measured it."""
        if self.calibration is None:
            return NO_HOST, NO_HOST, NO_HOST
        if self.host is not None:
            return self.host, self.host, self.host
        if self.constant("dispatch") is None:
            return FAST, USUAL, SLOW
        forward = self.number("dispatch", 0.0)
        own = Host(forward, self.number("dispatch_backward", host_of(forward).backward))
        return own, own, own

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
