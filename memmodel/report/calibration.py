"""A calibration on the terminal: progress while it is made, then its constants beside the datasheet's values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, Group
from rich.text import Text

from memmodel.base.units import bytes_text, decimal_text, number_text, percent_text, seconds_text
from memmodel.gpus import Gpu
from memmodel.report.sheet import Bullets, Sheet, below
from memmodel.timing import Calibration, Constant, Curve
from memmodel.timing.calibration import CONSTANTS

Say = Callable[[str, int, int], None]


@contextmanager
def progress(stream: TextIO) -> Iterator[Say]:
    """A callback (name, number, count) for steps, shown as a bar on a terminal, else as a line per step."""
    if not stream.isatty():

        def line(name: str, number: int, count: int) -> None:
            stream.write(f"{number + 1}/{count} {name}\n")
            stream.flush()

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("measuring")
        yield lambda name, number, count: bar.update(task, description=name, completed=number, total=count)


def result(calibration: Calibration, gpu: Gpu, path: str) -> Group:
    """The calibration's constants and notes, its file, and the option that reads it."""
    machine = calibration.machine
    of = ", ".join(f"{name} {machine[name]}" for name in ("torch", "threads", "date") if name in machine)
    parts: list[Any] = [Text.assemble((calibration.name, "bold"), f": {of}"), below(constant_table(calibration, gpu))]
    if calibration.notes:
        parts.append(below(Bullets("Notes", calibration.notes)))
    reads = "--gpu local, or --calibration" if "gpu" in machine else "--calibration"
    return Group(*parts, Text(), Text(f"saved: {path}\npredict uses it with {reads}", overflow="fold"))


def constant_table(calibration: Calibration, gpu: Gpu) -> Sheet:
    """Every constant with its spread, beside the listed value; a curve by its first and last point."""
    columns = ("constant", ">measured", ">spread", ">datasheet", ">of it")
    caption = (
        "curves: smallest to largest size; spread: (largest - smallest) / median of the rounds; of it: the measured "
        "share of the listed value, of a curve at its largest size"
    )
    return Sheet("", columns, [cells(name, constant, gpu) for name, constant in calibration.constants.items()], caption)


def cells(name: str, constant: Constant, gpu: Gpu) -> tuple[str, ...]:
    """A constant's row: name, measured value, spread, the datasheet's value, measured share of it."""
    unit = CONSTANTS[name][0]
    value = constant.value
    if isinstance(value, Curve):
        measured, last = f"{amount(value[0][1], unit)} .. {amount(value[-1][1], unit)}", value[-1][1]
    else:
        measured, last = amount(value, unit), value
    spread = "-" if constant.spread is None else percent_text(constant.spread, 1.0)
    listed = listed_value(name, gpu)
    if listed is None:
        return name, measured, spread, "-", "-"
    return name, measured, spread, amount(listed, unit), percent_text(last, listed)


def amount(value: float, unit: str) -> str:
    """A value with its unit."""
    if unit == "s":
        return seconds_text(value)
    if unit == "B":
        return bytes_text(value)
    return decimal_text(value, unit) if unit and unit != "cycles" else f"{number_text(value)} {unit}".rstrip()


def listed_value(name: str, gpu: Gpu) -> float | None:
    """The datasheet's value for a constant: bandwidth, or the peak of a product's type; None without one."""
    if name in ("bandwidth", "reduction", "argmax", "softmax", "softmax_backward"):
        quantity = "bandwidth"
    elif name.startswith("matmul."):
        quantity = gpu.peak_quantity(name.split(".")[1])
    else:
        return None
    found = gpu.values.get(quantity)
    return None if found is None else found.value
