"""The format of a user's GPU file, and the ranges of its values."""

import re
from collections import Counter
from math import inf
from typing import Any

from msgspec import defstruct

from memmodel.base.checked import Name, Number, Strict, Text, checked
from memmodel.base.errors import UsageError
from memmodel.gpus.gpu import Gpu
from memmodel.gpus.keys import KEYS, PEAK_NAMES, PEAK_TABLES, MiB, file_key

_REQUIRED = ("bandwidth",)
# The least and the most that a device can have, in SI units: a hundred times beyond any, and more.
_RANGES = {
    "bandwidth": (1e9, 1e15),
    "l2_bandwidth": (1e9, 1e16),
    "boost_clock": (1e7, 1e11),
    "tensor_clock": (1e7, 1e11),
    "capacity": (MiB, 1e16),
    "sm_count": (1, 1e6),
    "power_limit": (1, 1e5),
}
_PEAKS = (1e9, 1e19)


class _Listed(Strict):
    value: Number
    source: Text = ""
    note: Text = ""


class _Measured(Strict):
    what: Text = ""
    dtype: Text = ""
    source: Text = ""
    note: Text = ""
    TFLOPS: Number | None = None
    GBps: Number | None = None

    def __post_init__(self) -> None:
        if (self.TFLOPS is None) == (self.GBps is None):
            raise ValueError("a measurement needs either TFLOPS or GBps")


class _Described(Strict):
    base: Text = ""
    name: Name = ""
    vendor: Text = ""
    arch: Text = ""
    rates: Text = ""
    memory: Text = ""
    note: Text = ""
    compute_capability: Text | float = "0.0"
    measured: tuple[_Measured, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", str(self.compute_capability)):
            raise ValueError(f'compute_capability is {self.compute_capability!r}, expected one such as "9.0"')


def _optional(names: Any) -> list[tuple[str, Any, Any]]:
    return [(name, Number | _Listed | None, None) for name in names]


_Peaks = defstruct("_Peaks", _optional(PEAK_NAMES), bases=(Strict,))
_GpuFile = defstruct(
    "_GpuFile",
    [*_optional(KEYS), *((table, _Peaks | None, None) for table in PEAK_TABLES)],
    bases=(_Described,),
)


def check_document(document: dict[str, Any], where: str) -> None:
    """Check the keys and values of a GPU file that is called `where`. Raises UsageError."""
    checked(document, _GpuFile, where)
    units = Counter(quantity for key, (quantity, _) in KEYS.items() if key in document)
    for quantity, count in units.items():
        if count > 1:
            raise UsageError(f"{where} gives {quantity} in {count} units: keep one of them")


def check_gpu(gpu: Gpu, where: str) -> None:
    """Check that the GPU of a user's file, its `base` included, is complete and consistent. Raises UsageError."""
    if not gpu.name:
        raise UsageError(f'{where} has no name: add `name = "..."`, or `base = "..."` to start from a known GPU')
    for quantity in _REQUIRED:
        if quantity not in gpu.values:
            raise UsageError(f"{where} has no {file_key(quantity)}: every GPU needs it")
    for quantity, listed in gpu.values.items():
        _check_range(quantity, listed.value, where)
    if "sm_count" in gpu.values and gpu.value("sm_count") % 1:
        raise UsageError(f"{where}: sm_count is {gpu.value('sm_count')}, expected a whole number")
    low, high = gpu.context_bytes or (0, 0)
    if low > high:
        raise UsageError(f"{where}: context_low_MiB {low / MiB:g} is above context_high_MiB {high / MiB:g}")


def _check_range(quantity: str, value: float, where: str) -> None:
    """Raises UsageError for a value that no device has: a slip of units, most often."""
    least, most = _PEAKS if "." in quantity else _RANGES.get(quantity, (0.0, inf))
    if not least <= value <= most:
        key = file_key(quantity)
        factor = 1e12 if "." in quantity else KEYS[key][1]
        raise UsageError(
            f"{where}: {key} is {value / factor:g}, expected {least / factor:g} to {most / factor:g}: "
            "is it in other units?"
        )
