"""Ends and ticks of axes, shared by all renderers: binary units for memory, decades for rates."""

import math
from collections.abc import Callable

from memmodel.pictures.frontier import Line
from memmodel.pictures.roofline import Roofline
from memmodel.pictures.timeline import Timeline
from memmodel.prediction import Memory
from memmodel.units import bytes_text, decimal_text

ABOVE = "a point above its ceiling counts arithmetic of other units too, which run at the same time"
_ROOM = 1.12  # above the highest line, for what is written there
_VISIBLE = 4  # lines up to this times the tensors are in the picture
_NEAR = 1.6  # a capacity up to this times the highest line is in the picture


def top_of(shown: Timeline) -> float:
    """The upper end of a timeline's axis in bytes.

    Live bytes are in it; the allocator's too, unless they are so many more that the tensors could not be seen (small
    ones beside cuBLAS workspaces); the capacity, unless it is far above all of them.
    """
    memory = shown.memory
    lines = max(memory.reserved_peak_bytes, memory.allocated_peak_bytes)
    highest = max(memory.live_peak_bytes, 1)
    if lines <= _VISIBLE * highest:
        highest = max(highest, lines)
    capacity = memory.capacity_bytes
    if capacity is not None and capacity <= _NEAR * highest:
        highest = max(highest, capacity)
    return _ROOM * highest


def line_words(name: str, peak: int, top: float) -> str:
    """A line of the allocator in the legend: its largest value, and where it is if the picture ends below it."""
    return f"{name}, at most {bytes_text(peak)}" + (", above the picture" if peak > top else "")


def binary_ticks(top: float, about: int) -> list[tuple[float, str]]:
    """(bytes, label) of ticks at round numbers of one binary unit, some `about` of them."""
    unit = 1024 ** min(int(math.log(max(top, 1), 1024)), 6)
    rough = top / unit / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    name = bytes_text(unit).partition(" ")[2]
    count = math.floor(top / unit / step)
    return [(i * step * unit, f"{i * step:g} {name}") for i in range(count + 1)]


def roofline_ends(shown: Roofline) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes: every kernel, every ceiling and the balance point are inside, with a margin."""
    intensities = [p.intensity for p in shown.points] + [p.intensity for p in shown.measured] + [shown.balance]
    x0, x1 = min(*intensities, 1.0) / 3, max(intensities) * 30
    rates = [p.rate for p in shown.points] + [p.expected_rate or p.rate for p in shown.points]
    rates += [p.rate for p in shown.measured] + [roof.rate for roof in shown.roofs if roof.kind == "compute"]
    return (x0, x1), (min(*rates, shown.memory.rate * x0) / 2, max(rates) * 3)


def capacity_words(memory: Memory, top: float) -> str:
    """Whether the step fits, in words; and where the capacity is if the picture ends below it."""
    if memory.capacity_bytes is None:
        return "the GPU's capacity is not known"
    capacity = bytes_text(memory.capacity_bytes)
    if not memory.fits:
        return f"does not fit: {bytes_text(memory.reserved_peak_bytes)} reserved, {capacity} capacity"
    return f"fits: capacity {capacity}" + (", above the picture" if memory.capacity_bytes > top else "")


def rate_label(value: float) -> str:
    """A tick of a decade of FLOP/s: "100 G", "1 T"."""
    number, _, prefix = decimal_text(value, "").partition(" ")
    return f"{float(number):g} {prefix}".strip()


def sequence_label(value: float) -> str:
    """A length as the options take it: 512, 16k, 1M."""
    count = int(value)
    for factor, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= factor and count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count}"


def decade_ticks(low: float, high: float, text: Callable[[float], str], base: int) -> list[tuple[float, str]]:
    """(value, label) at the powers of a base within two ends; of 10 for rates and times, of 1024 for memory."""
    powers = range(math.ceil(math.log(low, base)), math.floor(math.log(high, base)) + 1)
    return [(float(base) ** power, text(float(base) ** power).replace(".00", "")) for power in powers]


def nothing_fits(line: Line, against: str) -> str:
    """Where a line ends because not even the shortest sequence fits, in words; empty where it does not."""
    without = [wall.size for wall in line.walls if not wall.largest]
    return f": nothing fits from {against} {without[0]} on" if without else ""
