"""Tables for the terminal and for notebooks: verdict first, then why, then what would help, then what was assumed."""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from memmodel.account import TensorRecord
from memmodel.dtypes import short_name
from memmodel.gpus import Gpu
from memmodel.prediction import Memory, Mitigation, Prediction, Report
from memmodel.units import GIGA, TERA, GiB, bytes_text, decimal_text, number_text, percent_text, seconds_text

if TYPE_CHECKING:
    from memmodel.thresholds import Threshold

_SIDE_BY_SIDE = 3  # algorithms in one table: more do not fit 80 columns
_ROWS_SHOWN = 8  # the largest tensors at the peak; --explain shows all

Cell = Callable[[Prediction, Report], str]


def _room(memory: Memory) -> str:
    return "unknown" if memory.fits is None else "yes" if memory.fits else "NO"


def _binding(prediction: Prediction, _: Report) -> str:
    time = prediction.time
    if time is None:
        return "-"
    return f"{time.binding} ({percent_text(time.shares[time.binding], time.seconds)})"


def _balance(prediction: Prediction, report: Report) -> str:
    intensity = float(prediction.work.intensity)
    return f"{number_text(intensity)} FLOP/B"


ROWS: tuple[tuple[str, Cell], ...] = (
    ("fits", lambda p, _: _room(p.memory)),
    ("live peak", lambda p, _: bytes_text(p.memory.live_peak_bytes)),
    ("allocated peak", lambda p, _: bytes_text(p.memory.allocated_peak_bytes)),
    ("reserved peak", lambda p, _: bytes_text(p.memory.reserved_peak_bytes)),
    ("nvidia-smi", lambda p, _: _device(p.memory)),
    ("saved for backward", lambda p, _: bytes_text(p.memory.saved_bytes)),
    ("FLOP", lambda p, _: decimal_text(p.work.flops, "FLOP")),
    ("HBM traffic", lambda p, _: bytes_text(p.work.hbm_bytes)),
    ("intensity", _balance),
    ("time, at least", lambda p, _: seconds_text(p.time.seconds) if p.time else "-"),
    ("time, expected", lambda p, _: seconds_text(p.calibrated.seconds) if p.calibrated else ""),
    ("limited by", _binding),
)


def _device(memory: Memory) -> str:
    if memory.context_bytes is None:
        return f"{bytes_text(memory.reserved_peak_bytes)} + context"
    return bytes_text(memory.device_bytes)


def report_parts(report: Report) -> Iterator[Any]:
    """The first screen, part by part."""
    first = report.predictions[0]
    yield Text.assemble((report.gpu.name, "bold"), f": {first.case.describe()}")
    yield Text()
    yield from verdicts(report)
    for start in range(0, len(report.predictions), _SIDE_BY_SIDE):
        shown = report.predictions[start : start + _SIDE_BY_SIDE]
        yield Padding(comparison_table(replace(report, predictions=shown)), (1, 0, 0, 0))
    yield from _balance_points(report)
    yield Padding(account_table(first), (1, 0, 0, 0))
    if report.mitigations:
        yield Padding(mitigation_table(report.mitigations, first), (1, 0, 0, 0))
    yield Text()
    yield bullets("Assumed", report.assumptions)
    notes = [f"{p.case.algorithm}: {note}" for p in report.predictions for note in p.notes]
    if notes:
        yield bullets("Notes", notes)


def verdicts(report: Report) -> Iterator[Text]:
    """One line per algorithm: whether it fits, and why not."""
    for prediction in report.predictions:
        yield verdict_text(prediction.memory, f"{prediction.title} ")


def verdict_text(memory: Memory, subject: str = "") -> Text:
    """Whether a step fits, and why not, in its colour."""
    style = {None: "yellow", True: "green", False: "red"}[memory.fits]
    return Text(f"{subject}{memory.verdict}", style=style)


def comparison_table(report: Report) -> Table:
    """Algorithms side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("one step", no_wrap=True)
    for prediction in report.predictions:
        table.add_column(prediction.title, justify="right")
    for name, cell in ROWS:
        cells = [cell(p, report) for p in report.predictions]
        if any(cells):
            table.add_row(name, *cells)
    return table


def _balance_points(report: Report) -> Iterator[Text]:
    """Where arithmetic takes as long as memory, if the GPU's data say."""
    dtype = report.predictions[0].case.dtype
    if f"tensor.{short_name(dtype)}" in report.gpu.values or dtype.name == "float32":
        point = f"balance point for {short_name(dtype)} {report.gpu.balance_point(dtype):.0f} FLOP/B"
        yield Text(f"{point}: below it memory limits, above it arithmetic", style="dim")


def account_table(prediction: Prediction, rows: int | None = _ROWS_SHOWN) -> Table:
    """What fills the peak, largest first."""
    at_peak = [record for record in prediction.tensors if record.at_peak]
    shown = at_peak[:rows]
    peak = prediction.memory.live_peak_bytes
    phases = prediction.memory.phase_peaks
    table = Table(
        title=f"What fills the live peak of {prediction.title}, in {max(phases, key=lambda name: phases[name])}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for name, justify in (
        ("tensor", "left"),
        ("bytes", "left"),
        ("size", "right"),
        ("made by", "left"),
        ("kept by", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name == "size")  # type: ignore[arg-type]
    for record in shown:
        table.add_row(*_account_row(record))
    rest = at_peak[len(shown) :]
    if rest:
        table.add_row(f"{len(rest)} more", "", bytes_text(sum(r.nbytes for r in rest)), "", "")
    table.add_row("together", "", bytes_text(peak), "", "", style="bold")
    return table


def _account_row(record: TensorRecord) -> tuple[str, ...]:
    return record.name, record.formula, bytes_text(record.nbytes), record.where, record.kept_by


def mitigation_title(prediction: Prediction) -> str:
    """What the changes are for."""
    return "What would make it fit" if prediction.memory.fits is False else "What would take less"


def mitigation_table(mitigations: Iterable[Mitigation], prediction: Prediction) -> Table:
    """What would lower the peak, with its number."""
    table = Table(
        title=mitigation_title(prediction),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for name in ("change", "allocated peak", "less by", "fits"):
        table.add_column(name, justify="left" if name in ("change", "fits") else "right")
    for m in mitigations:
        fits = "unknown" if m.fits is None else "yes" if m.fits else "no"
        table.add_row(m.change, bytes_text(m.allocated_peak_bytes), bytes_text(m.less_bytes), fits)
    return table


def bullets(title: str, lines: Iterable[str]) -> Group:
    """A titled list."""
    rows = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    rows.add_column(width=1)
    rows.add_column(overflow="fold")
    for line in lines:
        rows.add_row("-", line)
    return Group(Text(title, style="bold"), rows)


def prediction_parts(prediction: Prediction) -> Iterator[Any]:
    """The account of one prediction alone."""
    yield account_table(prediction, rows=None)


def gpu_table(gpus: Iterable[Gpu]) -> Table:
    """GPUs with the values that decide: memory, bandwidth, peaks, balance point."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "memory GiB", "GB/s", "bf16 TFLOP/s", "fp32 TFLOP/s", "balance FLOP/B"):
        table.add_column(name, justify="left" if name == "id" else "right", no_wrap=name == "id")
    for gpu in gpus:
        table.add_row(gpu.id, *gpu_cells(gpu))
    table.caption = "dense peaks; fp16 where there is no bf16; balance point of that type; - is not known"
    table.caption_justify = "left"
    return table


def gpu_cells(gpu: Gpu) -> tuple[str, ...]:
    """Memory, bandwidth, half-precision and fp32 peaks, balance point; "-" where not known."""
    half = next((k for k in ("bf16", "fp16") if f"tensor.{k}" in gpu.values), None)
    return (
        f"{gpu.capacity_bytes / GiB:.2f}" if "capacity" in gpu.values else "-",
        f"{gpu.bandwidth / GIGA:.0f}" if "bandwidth" in gpu.values else "-",
        f"{gpu.peak_by_name(half) / TERA:.1f}" if half else "-",
        f"{gpu.peak_by_name('fp32', 'vector') / TERA:.1f}" if "vector.fp32" in gpu.values else "-",
        f"{gpu.balance_point(half):.0f}" if half and "bandwidth" in gpu.values else "-",
    )


def gpu_value_table(gpu: Gpu) -> Group:
    """Every value of a GPU with the number of its source, then the sources."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("quantity", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("source", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    numbers: dict[str, int] = {}
    for quantity, listed in gpu.values.items():
        number = numbers.setdefault(gpu.source(quantity), len(numbers) + 1)
        table.add_row(quantity, value_text(quantity, listed.value), f"[{number}]", listed.note)
    title = f"{gpu.name} ({gpu.id})" + (f": {gpu.ambiguity}" if gpu.ambiguity else "")
    sources = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    sources.add_column(no_wrap=True)
    sources.add_column(overflow="fold")
    for source, number in numbers.items():
        sources.add_row(f"[{number}]", source)
    points = ", ".join(f"{name} {point:.0f}" for name, point in gpu.balance_points().items())
    balance = Text(f"balance point, FLOP/B: {points}\n") if points else Text()
    return Group(Text(title, style="bold"), Padding(table, (1, 0)), balance, sources)


def value_text(quantity: str, value: float) -> str:
    """A GPU's value with its unit."""
    pipe, dot, name = quantity.partition(".")
    if dot:
        return decimal_text(value, "op/s" if name == "int8" else "FLOP/s")
    unit = {"boost_clock": "Hz", "tensor_clock": "Hz", "bandwidth": "B/s"}.get(pipe)
    if unit:
        return decimal_text(value, unit)
    if pipe in ("sm_count", "exp_per_clock_per_sm"):
        return f"{value:g}"
    return {"tdp": f"{value:g} W", "marketed_GB": f"{value:g} GB"}.get(pipe) or bytes_text(value)


def model_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Attention shapes of models by name, as --like takes them, with their sources."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("model", "heads", "kv heads", "head dim", "mask", "source"):
        table.add_column(name, justify="right" if name.endswith(("heads", "dim")) else "left")
    for name, shape in models.items():
        mask = f"window {shape['window']}" if shape["window"] else shape["mask"]
        table.add_row(name, *(str(shape[size]) for size in ("heads", "kv_heads", "head_dim")), mask, shape["source"])
    return table


_COUNTED = {"heads": "number of heads"}


def threshold_table(thresholds: Iterable["Threshold"], gpu: Gpu) -> Table:
    """The largest sizes that fit."""
    found = list(thresholds)
    over = found[0].over
    table = Table(
        title=f"{gpu.name}: the largest {_COUNTED.get(over, over)} that fits, {found[0].case.describe(without=over)}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for name in ("algorithm", "largest", "first that fails", "allocated", "reserved", "by formula"):
        table.add_column(name, justify="left" if name == "algorithm" else "right")
    for t in found:
        sizes = (
            ("-", "-")
            if t.memory is None
            else (
                bytes_text(t.memory.allocated_peak_bytes),
                bytes_text(t.memory.reserved_peak_bytes),
            )
        )
        first = "none" if t.first_failing is None else f"{t.first_failing:,}"
        table.add_row(
            t.case.algorithm,
            f"{t.largest:,}",
            first,
            *sizes,
            "-" if t.closed_form is None else f"{t.closed_form:,}",
        )
    table.caption = "by formula: the largest whose live peak alone fits, without the allocator's blocks and segments"
    table.caption_justify = "left"
    return table


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Screen(Console):
    """A console that takes text as it is: files of users name GPUs, functions and lines of code.

    Square brackets are no markup, and control characters, which could drive the reader's terminal, are left out.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What is printed, piece by piece."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_CONTROL.sub("", segment.text), segment.style)


def text(result: Any, width: int = 100) -> str:
    """What `result` looks like in a terminal, without colours and without spaces at line ends."""
    console = Screen(width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(result)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def html(result: Any) -> str:
    """What `result` looks like in a notebook."""
    console = Screen(width=100, record=True, file=io.StringIO(), force_jupyter=False)
    console.print(result)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
