"""Intervals of expected times: from 1 / factor to factor times what is expected, which hold 90 % of unseen runs.

`python -m memmodel_evidence.intervals` writes `data/time_intervals.json`: by kind of program and origin of its rates,
the factor that 90 % of rows stay within whose times no constant was fitted to, for up to a millisecond and by thirds of
longer times.
"""

import json
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

from memmodel.base.files import DATA, read_bytes
from memmodel.events.program import Launch
from memmodel.timing.ceiling import KernelTime
from memmodel.timing.fused import is_flash
from memmodel.timing.products import WIDEST_HEAD, shape_class
from memmodel.timing.transfer import RELATED, relation_of

STEP = "step"
_ENOUGH = 0.1  # share of the time at transferred rates from which the whole counts as transferred


def kind_of(launches: Iterable[Launch]) -> str:
    """The kind of a program: "step" of a whole model, else "flash", or "compiled" or "eager" in "fp32" or "16 bits"."""
    listed = list(launches)
    if any(launch.kind == "gemm" and shape_class(launch.sizes)[1] > WIDEST_HEAD for launch in listed):
        return STEP
    if any(map(is_flash, listed)):
        return "flash"
    form = "compiled" if is_compiled(listed) else "eager"
    return f"{form} {'16 bits' if itemsize_of(listed) == 2 else 'fp32'}"


def is_compiled(launches: Iterable[Launch]) -> bool:
    """Whether a program is compiled: it has kernels that the compiler fused, around library calls."""
    return any(launch.kind == "fused" and not launch.work.matmul for launch in launches)


def itemsize_of(launches: Iterable[Launch]) -> int:
    """Bytes of the elements that most kernels of a program compute."""
    sizes = [launch.dtype.itemsize for launch in launches]
    return 2 if 2 * sizes.count(2) > len(sizes) else 4


def origin_of(kernels: Iterable[KernelTime]) -> str:
    """Where the rates that decide are from: "measured", or the farthest relation of a good part of the time."""
    seconds = {"measured": 0.0, **dict.fromkeys(RELATED, 0.0)}
    for kernel in kernels:
        seconds[relation_of(kernel.binding.source)] += kernel.binding.seconds
    total = sum(seconds.values())
    for relation in ("other", "architecture"):
        if seconds[relation] > _ENOUGH * total:
            return relation
    return "measured"


@cache
def table() -> Any:
    """Bands by kind and origin: up to so many seconds of a phase's kernels, the factor."""
    return json.loads(read_bytes(os.path.join(DATA, "time_intervals.json")))


def factor_of(kind: str, origin: str, seconds: float) -> float:
    """The factor of kernels that are expected to take so many seconds."""
    return in_table(table()[kind], origin, seconds)


def in_table(bands: Any, origin: str, seconds: float) -> float:
    """The factor by a kind's bands: no time by another GPU's rates is surer than one by measured rates."""
    return max(_in_band(bands[each], seconds) for each in ("measured", origin))


def _in_band(bands: Any, seconds: float) -> float:
    """The factor of the band that the seconds are in: short times spread more than long ones. The last has no end."""
    found: float = next((factor for upto, factor in bands if seconds <= upto), bands[-1][1])
    return found
