"""How long kernels take: ceilings from a GPU's datasheet, or the full model with a calibration's measured rates."""

from memmodel.timing.calibration import Calibration, Constant, Curve
from memmodel.timing.ceiling import LAUNCH_SECONDS, Ceiling, KernelTime, at_slowest, share_by_ceiling
from memmodel.timing.machine import Machine
from memmodel.timing.model import kernel_time, kernel_times, step_interval, step_seconds

__all__ = [
    "LAUNCH_SECONDS",
    "Calibration",
    "Ceiling",
    "Constant",
    "Curve",
    "KernelTime",
    "Machine",
    "at_slowest",
    "kernel_time",
    "kernel_times",
    "share_by_ceiling",
    "step_interval",
    "step_seconds",
]
