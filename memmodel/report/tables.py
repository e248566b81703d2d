"""Predictions, GPUs and thresholds as tables: the verdict first, then the reasons, changes that help, assumptions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from memmodel.base.dtypes import short_name
from memmodel.base.units import (
    GIGA,
    TERA,
    GiB,
    bytes_text,
    decimal_text,
    seconds_text,
)
from memmodel.events.account import TensorRecord
from memmodel.events.origin import wildcard
from memmodel.gpus import Gpu
from memmodel.prediction import AttentionKernel, Memory, Mitigation, Prediction, Report, SideBySide
from memmodel.report.rows import FITS, ROWS, range_of
from memmodel.report.sheet import Bullets, Sheet, Verdict, below, yes_or_no

if TYPE_CHECKING:
    from memmodel.models.results import ModelReport
    from memmodel.thresholds import Threshold

_SIDE_BY_SIDE = 3  # algorithms in one table: more exceed 80 columns
SCOPE = "one layer's attention: no weights, no optimizer (whole models: memmodel model)"


def scope(report: Report) -> list[str]:
    """The scope of the figures: one layer's attention, and of how many layers that is one."""
    if report.model is None:
        return [SCOPE]
    of_all = report.model.cache_bytes
    caches = "" if of_all is None else f"; K and V caches of all layers: {bytes_text(of_all)}"
    return [SCOPE, f"one layer of {report.model.layers}{caches}"]


_TENSORS_SHOWN = 8  # the largest at the peak; --explain shows all


def report_parts(report: Report) -> Iterator[Any]:
    """The first screen, part by part."""
    first = report.predictions[0]
    yield Text.assemble((report.gpu.name, "bold"), f": {first.case.describe()}")
    yield Text("\n".join(scope(report)), style="dim")
    yield Text()
    yield from verdicts(report)
    for start in range(0, len(report.predictions), _SIDE_BY_SIDE):
        yield below(comparison(replace(report, predictions=report.predictions[start : start + _SIDE_BY_SIDE])))
    yield from _balance_point(report)
    yield below(account(first))
    if report.mitigations:
        yield below(mitigations(report))
    kernels = [f"{p.case.algorithm}: {line}" for p in report.predictions for line in attention_words(p.attention)]
    if kernels:
        yield below(Bullets("Attention kernels", kernels))
    yield below(Bullets("Assumed", report.assumptions))
    notes = notes_of(report)
    if notes:
        yield Bullets("Notes", notes)


def prediction_parts(prediction: Prediction) -> Iterator[Any]:
    """The account of one prediction alone."""
    yield account(prediction, most=None)


def side_by_side_parts(several: SideBySide) -> Iterator[Any]:
    """A table for each algorithm with a row for each GPU, then what is assumed."""
    first = several.reports[0].predictions[0]
    yield Text(first.case.describe(), style="bold")
    yield Text("\n".join(scope(several.reports[0])), style="dim")
    for algorithm in dict.fromkeys(p.case.algorithm for report in several for p in report):
        yield below(gpus_compared(several, algorithm))
    yield below(Bullets("Assumed", _of_each_gpu((report.gpu, report.assumptions) for report in several)))
    notes = _of_each_gpu((report.gpu, notes_of(report)) for report in several)
    if notes:
        yield Bullets("Notes", notes)


def gpus_compared(several: SideBySide, algorithm: str) -> Sheet:
    """One algorithm on each GPU that runs it."""
    found = [(report.gpu, p) for report in several for p in report if p.case.algorithm == algorithm]
    columns = ("GPU", "|fits", ">takes", ">at least", ">expected", ">90 % of runs", "limited by")
    return Sheet(f"{found[0][1].title}, one step", columns, [_gpu_row(gpu, p) for gpu, p in found])


def _gpu_row(gpu: Gpu, prediction: Prediction) -> tuple[str, ...]:
    memory, time, expected = prediction.memory, prediction.time, prediction.calibrated
    return (
        gpu.id.replace("-mig-", " MIG "),  # so that a long name breaks there
        FITS[memory.fits],
        bytes_text(memory.device_bytes),
        seconds_text(time.seconds) if time else "-",
        seconds_text(expected.seconds) if expected else "-",
        range_of(expected) or "-",
        in_words_of(gpu, time.binding) if time else "-",
    )


def _of_each_gpu(parts: Iterable[tuple[Gpu, Sequence[str]]]) -> list[str]:
    """Lines of all GPUs once, and the others with their GPU's id."""
    lines = [(gpu.id, line) for gpu, of_gpu in parts for line in of_gpu]
    # A line that every GPU has is about the configuration, and needs no GPU's name.
    gpus, count = {id_ for id_, _ in lines}, Counter(line for _, line in lines)
    return list(dict.fromkeys(line if count[line] == len(gpus) else f"{id_}: {line}" for id_, line in lines))


def verdicts(report: Report) -> Iterator[Verdict]:
    """One line per algorithm: whether it fits, and why not."""
    for prediction in report.predictions:
        yield verdict(prediction.memory, f"{prediction.title} ")


def verdict(memory: Memory, subject: str = "") -> Verdict:
    """Whether a step fits, and why not."""
    return Verdict(memory.fits, f"{subject}{memory.verdict}")


def notes_of(report: Report) -> list[str]:
    """The notes of each prediction, with the algorithms that have it."""
    found: dict[str, list[str]] = {}
    for prediction in report.predictions:
        for note in prediction.notes:
            found.setdefault(note, []).append(prediction.case.algorithm)
    return [f"{', '.join(dict.fromkeys(of))}: {note}" for note, of in found.items()]


def attention_words(kernels: Iterable[AttentionKernel]) -> list[str]:
    """The kernels that scaled_dot_product_attention takes, each with why those tried before it are refused."""
    return [line for chosen in kernels for line in _attention(chosen)]


def _attention(chosen: AttentionKernel) -> Iterator[str]:
    where = f" on {', '.join(chosen.lines[:4])}" if chosen.lines else ""
    more = f" and {len(chosen.lines) - 4} more lines" if len(chosen.lines) > 4 else ""
    yield f"{'plain operators' if chosen.kernel == 'math' else chosen.kernel}{where}{more}"
    for kernel, reason, remedy in chosen.refused:
        yield f"not {kernel}: {reason}; it would take {remedy}"


_OF_AMD = {"nvidia-smi": "amd-smi", "tensor cores": "matrix cores"}


def in_words_of(gpu: Gpu, text: str) -> str:
    """A text with the vendor's own names of its tool and its units."""
    if gpu.vendor == "AMD":
        for nvidia, amd in _OF_AMD.items():
            text = text.replace(nvidia, amd)
    return text


def comparison(report: Report) -> Sheet:
    """Algorithms side by side."""
    gpu = report.gpu
    rows = [(in_words_of(gpu, name), *(in_words_of(gpu, cell(p)) for p in report.predictions)) for name, cell in ROWS]
    columns = ("|one step", *(f">{p.title}" for p in report.predictions))
    return Sheet("", columns, [row for row in rows if any(row[1:])], wrap=True)


def _balance_point(report: Report) -> Iterator[Text]:
    """The intensity at which arithmetic takes as long as memory, if the GPU's data have it."""
    dtype = report.predictions[0].case.dtype
    if f"tensor.{short_name(dtype)}" in report.gpu.values or dtype.name == "float32":
        point = f"balance point for {short_name(dtype)} {report.gpu.balance_point(dtype):.0f} FLOP/B"
        yield Text(f"{point}: below it memory limits, above it arithmetic", style="dim")


def account(prediction: Prediction, most: int | None = _TENSORS_SHOWN) -> Sheet:
    """The tensors alive at the peak, largest first: `most` of them, None for all."""
    phases = prediction.memory.phase_peaks
    title = f"What fills the live peak of {prediction.title}, in {max(phases, key=lambda name: phases[name])}"
    columns = ("tensor", "bytes", ">size", "made by", "kept by")
    return tensor_sheet(title, columns, prediction, most)


def tensor_sheet(title: str, columns: Sequence[str], result: Any, most: int | None = _TENSORS_SHOWN) -> Sheet:
    """The tensors of a prediction or trace that are alive at its peak; equal ones of several layers are one row."""
    groups = _alike(record for record in result.tensors if record.at_peak)
    rows = [_tensor_row(name, group) for name, group in groups[:most]]
    rest = [record for _, group in groups[len(rows) :] for record in group]
    if rest:
        rows.append((f"{len(rest)} more", "", bytes_text(sum(r.nbytes for r in rest)), "", "", ""))
    rows.append(("together", "", bytes_text(result.memory.live_peak_bytes), "", "", ""))
    return Sheet(title, columns, [row[: len(columns)] for row in rows], total=True)


def _tensor_row(name: str, group: Sequence[TensorRecord]) -> tuple[str, ...]:
    record, size = group[0], bytes_text(sum(r.nbytes for r in group))
    times, count = (f"{len(group)}·", f", {len(group)} times") if len(group) > 1 else ("", "")
    return f"{name}{count}", f"{times}{record.formula}", size, record.where, record.kept_by, record.freed or "-"


def _alike(records: Iterable[TensorRecord]) -> list[tuple[str, list[TensorRecord]]]:
    """Tensors grouped by name, where numbers of layers do not count; most bytes first."""
    found: dict[Any, list[TensorRecord]] = {}
    for record in records:
        key = wildcard(record.name), record.formula, record.where, record.kept_by, record.freed
        found.setdefault(key, []).append(record)
    named = [(key[0] if len(group) > 1 else group[0].name, group) for key, group in found.items()]
    return sorted(named, key=lambda one: -sum(r.nbytes for r in one[1]))


def mitigations(report: "Report | ModelReport") -> Sheet:
    """Changes that lower the peak of the first prediction, each with its own."""
    fits = report.predictions[0].memory.fits
    title = "What would make it fit" if fits is False else "What would take less"
    return Sheet(title, ("change", ">allocated peak", ">less by", "fits"), [_change(m) for m in report.mitigations])


def _change(m: Mitigation) -> tuple[str, ...]:
    return m.change, bytes_text(m.allocated_peak_bytes), bytes_text(m.less_bytes), yes_or_no(m.fits)


def gpu_table(gpus: Iterable[Gpu]) -> Sheet:
    """GPUs with memory, bandwidth, peaks and balance point."""
    columns = ("|id", ">memory GiB", ">GB/s", ">bf16 TFLOP/s", ">fp32 TFLOP/s", ">balance FLOP/B")
    caption = "dense peaks; fp16 where there is no bf16; balance point of that type; - is not known"
    return Sheet("", columns, [(gpu.id, *gpu_cells(gpu)) for gpu in gpus], caption, wrap=True)


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
    numbers: dict[str, str] = {}
    rows = []
    for quantity, listed in gpu.values.items():
        number = numbers.setdefault(gpu.source(quantity), f"[{len(numbers) + 1}]")
        rows.append((quantity, value_text(quantity, listed.value), number, listed.note))
    title = f"{gpu.name} ({gpu.id})" + (f": {gpu.ambiguity}" if gpu.ambiguity else "")
    points = ", ".join(f"{name} {point:.0f}" for name, point in gpu.balance_points().items())
    balance = Text(f"balance point, FLOP/B: {points}\n") if points else Text()
    sources = Sheet("", ("|", ""), [(number, source) for source, number in numbers.items()])
    table = Sheet("", ("|quantity", ">value", ">source", "note"), rows)
    return Group(Text(title, style="bold"), below(table), Text(), balance, sources)


def value_text(quantity: str, value: float) -> str:
    """A GPU's value with its unit."""
    pipe, dot, name = quantity.partition(".")
    if dot:
        return decimal_text(value, "op/s" if name == "int8" else "FLOP/s")
    unit = {"boost_clock": "Hz", "tensor_clock": "Hz", "bandwidth": "B/s", "l2_bandwidth": "B/s"}.get(pipe)
    if unit:
        return decimal_text(value, unit)
    if pipe in ("sm_count", "exp_per_clock_per_sm"):
        return f"{value:g}"
    watts = f"{value:g} W"
    texts = {"tdp": watts, "power_limit": watts, "marketed_GB": f"{value:g} GB", "price": f"{value:.2f} $/h"}
    return texts.get(pipe) or bytes_text(value)


def threshold_table(thresholds: Sequence["Threshold"]) -> Sheet:
    """The largest sizes that fit, by algorithm and, where there are several, by GPU."""
    over, case, gpu = thresholds[0].over, thresholds[0].case, thresholds[0].gpu
    largest = f"number of {over.replace('_', ' ')}" if over.endswith("heads") else over.replace("_", " ")
    title = f"the largest {largest} that fits, {case.describe(without=over)}"
    if all(t.gpu.id == gpu.id for t in thresholds):
        title, cells = f"{gpu.name}: {title}", {name: cell for name, cell in _THRESHOLD.items() if name != "|GPU"}
    else:
        cells = {name: cell for name, cell in _THRESHOLD.items() if name != ">allocated"}  # for 80 columns
    caption = "by formula: the largest whose live peak alone fits, without the allocator's blocks and segments"
    if any(t.all_layers is not None for t in thresholds):
        cells[">all layers"] = lambda t: f"{t.all_layers:,}"
        caption += "; all layers: the largest at which their K and V caches fit, without weights"
    if over == "seq" and any(t.case.algorithm == "chunked" for t in thresholds):
        caption += "; chunked: smaller sizes may fail too, where the last chunk is short"
    return Sheet(
        title, tuple(cells), [tuple(cell(t) for cell in cells.values()) for t in thresholds], caption, wrap=True
    )


_THRESHOLD: dict[str, Callable[["Threshold"], str]] = {
    "|GPU": lambda t: t.gpu.id,
    "|algorithm": lambda t: t.case.algorithm,
    ">largest": lambda t: f"{t.largest:,}",
    ">first that fails": lambda t: "none" if t.first_failing is None else f"{t.first_failing:,}",
    ">allocated": lambda t: bytes_text(t.memory.allocated_peak_bytes) if t.memory else "-",
    ">reserved": lambda t: bytes_text(t.memory.reserved_peak_bytes) if t.memory else "-",
    ">by formula": lambda t: "-" if t.closed_form is None else f"{t.closed_form:,}",
}
