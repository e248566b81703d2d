"""A calibration: rates measured on a machine, or fitted to recorded runs, each with its unit, origin and spread.

A `Gpu` holds the vendor's values, a `Calibration` the measured ones. Its `basis` is "local" (measured on this machine),
"community" (fitted to other people's runs of that GPU) or "transferred" (from other GPUs', see `timing.transfer`).
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

SCHEMA = 1
_DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp64")

# Every constant the time model can use: its unit and meaning. A curve is over the size named in its meaning.
CONSTANTS: dict[str, tuple[str, str]] = {
    "bandwidth": ("B/s", "elementwise kernels on large tensors; as a curve, over bytes moved"),
    "reduction": ("B/s", "sums and maxima over rows; as a curve, over bytes moved"),
    "argmax": ("B/s", "maxima with their int64 indices; as a curve, over bytes moved"),
    "softmax": ("B/s", "softmax over rows, each pass over the scores counted; as a curve, over bytes moved"),
    "softmax_backward": ("B/s", "softmax's backward over rows; as a curve, over bytes moved"),
    "masked_fill": ("B/s", "filling by a mask, in place: mask read and result written; as a curve, over bytes moved"),
    "triangle": ("B/s", "triu and tril of a bool mask; as a curve, over bytes moved"),
    "bernoulli": ("B/s", "zeros and ones drawn in place, read and written counted; as a curve, over bytes moved"),
    "fused_before": ("", "share of `bandwidth` that a softmax reaches which a compiler before torch 2.8 fused"),
    "fused_clocks": ("cycles", "of an SM, for an element of the forward of a softmax which a compiler fused"),
    "fused_bytes": ("B", "that an SM moves in a clock of its backward, since torch 2.8"),
    "fused_any": ("", "times as many clocks of its forward where it is compiled for any head dim"),
    "fused_short": ("", "times as long that its forward takes where it is compiled at a short length"),
    "fused_short_backward": ("", "times as long that its backward takes where it is compiled at a short length"),
    "exp": ("op/s", "exponentials"),
    "broadcast": ("op/s", "elements of elementwise kernels that spread an operand over the others"),
    "fault": ("B/s", "first writes to fresh pages, on a CPU"),
    "fault_from": ("B", "allocations from this size on get fresh pages each time, on a CPU"),
    "launch": ("s", "between kernels that are queued back to back"),
    "dispatch": ("s", "host time for a forward operation"),
    "dispatch_backward": ("s", "host time for a backward operation"),
    **{f"matmul.{t}": ("FLOP/s", "matrix products of large square matrices") for t in _DTYPES},
    **{f"matmul.{t}.wide": ("FLOP/s", "products of a whole model's step, wider than any head") for t in _DTYPES},
    **{f"matmul.{t}.scores": ("FLOP/s", "products with a small inner size; a curve over it") for t in _DTYPES},
    **{f"matmul.{t}.values": ("FLOP/s", "products with a narrow result; a curve over its width") for t in _DTYPES},
    **{f"tile.{t}.{side}": ("", f"{side} of a matrix product's tile") for t in _DTYPES for side in ("rows", "cols")},
    **{
        f"tile.{t}.thin": ("", "columns of the tile that products with a narrow result are computed in")
        for t in _DTYPES
    },
    **{
        f"{flash}.{name}": (unit, meaning)
        for flash in ("flash", "flash_backward", "cudnn", "cudnn_backward")
        for name, unit, meaning in (
            ("matmul", "", "share of the tensor cores' peak that the kernel's products reach by themselves"),
            ("flop_per_clock", "FLOP", "most of one SM in a clock that `matmul` is a share of; else the GPU's peak"),
            ("overlap", "", "share of the lesser pipes' time that is hidden behind the longest: 0 to 1"),
            ("prologue", "cycles", "per program that holds 128 rows of head dim 128: loading, storing, start"),
            ("tail", "", "of the longest program, exposed at the end: 0.5 longest first, 1 in order"),
            ("warp_rows", "", "rows of a product that read one operand from shared memory together"),
            ("exp", "op/s", "exponentials in the kernel, with the arithmetic that goes with each"),
            ("flops", "FLOP/s", "products in the kernel; where it is there, it replaces the share of a peak"),
        )
    },
}


class Curve(tuple[tuple[float, float], ...]):
    """A rate by size: points (size, rate) in order of size. Time, not rate, is interpolated between points."""

    __slots__ = ()

    def rate(self, size: float) -> float:
        """The rate at a size; sizes outside the points take the rate of the nearest one."""
        points = self
        if size <= points[0][0]:
            return points[0][1]
        for (x0, r0), (x1, r1) in pairwise(points):
            if size <= x1:  # time is linear in size (Hockney: t0 + size / bandwidth), which a rate is not
                t0, t1 = x0 / r0, x1 / r1
                return size / (t0 + (t1 - t0) * (size - x0) / (x1 - x0))
        return points[-1][1]


class Constant(NamedTuple):
    """A calibrated number or curve.

    Attributes:
        value: in the unit of `CONSTANTS`. origin: the run or rows that it comes from.
        spread: (largest - smallest) / median of its samples; None where there is one sample or it was fitted.
    """

    value: float | Curve
    origin: str
    spread: float | None = None

    def at(self, size: float) -> float:
        """The value at a size; a plain number is the same at every size."""
        return self.value.rate(size) if isinstance(self.value, Curve) else self.value


class Calibration(NamedTuple):
    """Constants of one machine.

    Attributes:
        name: for people. basis: "local", "community" or "transferred".
        machine: where it was measured: gpu, gpu_id, driver, torch, triton, cpu, threads, date, clocks ...
    """

    name: str
    basis: str
    machine: Mapping[str, str]
    constants: Mapping[str, Constant]
    notes: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """Where its rates are from, in words."""
        return {"local": "from rates measured on ", "community": "from "}.get(self.basis, "") + self.name

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form."""
        return {
            "schema": SCHEMA,
            "kind": "calibration",
            "name": self.name,
            "basis": self.basis,
            "machine": dict(self.machine),
            "constants": {name: _constant_dict(name, constant) for name, constant in self.constants.items()},
            "notes": list(self.notes),
        }


def calibration_of(document: Mapping[str, Any]) -> Calibration:
    """Build a calibration from its JSON document, which must have been checked (`timing.schema`) or shipped."""
    return Calibration(
        document["name"],
        document["basis"],
        document["machine"],
        {name: _constant(entry) for name, entry in document["constants"].items()},
        tuple(document.get("notes", ())),
    )


def _constant(entry: Mapping[str, Any]) -> Constant:
    value = entry["value"]
    rate = Curve((float(size), float(rate)) for size, rate in value) if isinstance(value, list) else float(value)
    return Constant(rate, entry["origin"], entry.get("spread"))


def _constant_dict(name: str, constant: Constant) -> dict[str, Any]:
    value = constant.value
    listed: Any = [list(point) for point in value] if isinstance(value, Curve) else value
    return {"value": listed, "unit": CONSTANTS[name][0], "origin": constant.origin, "spread": constant.spread}


def mismatches(calibration: Calibration, gpu_id: str, torch: str | None = None) -> list[str]:
    """A sentence for each way in which a calibration was made for another GPU or torch version."""
    found = []
    made_for = calibration.machine.get("gpu_id", "")
    if made_for != gpu_id:
        found.append(f"the calibration is of {made_for or 'an unnamed machine'}, not of {gpu_id}")
    seen = calibration.machine.get("torch", "")  # patch releases run the same kernels, minor ones may not
    if torch is not None and seen and _minor(seen) != _minor(torch):
        found.append(f"the calibration was made with torch {seen}, not {torch}")
    return found


def _minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


def merged(calibrations: Iterable[Calibration]) -> dict[str, Constant]:
    """The constants of several calibrations; the first that has one wins."""
    found: dict[str, Constant] = {}
    for calibration in calibrations:
        for name, constant in calibration.constants.items():
            found.setdefault(name, constant)
    return found
