"""A trace as text: verdict, peak, formulas, the lines that make it, what would lower it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from memmodel.account import TensorRecord
from memmodel.origin import wildcard
from memmodel.report.formulas import expressions, latex_rows
from memmodel.report.sheet import Bullets, Cell, Sheet, below
from memmodel.report.tables import verdict
from memmodel.units import bytes_text, decimal_text, formula_text, percent_text, seconds_text

if TYPE_CHECKING:
    from memmodel.tracer.letters.closed import Forms
    from memmodel.tracer.result import Trace

_LINES_SHOWN = 6
_TENSORS_SHOWN = 8


def trace_parts(trace: "Trace") -> Iterator[Any]:
    """The whole report, part by part."""
    yield Text.assemble((trace.gpu.name, "bold"), f": {trace.described}")
    yield Text()
    yield verdict(trace.memory)
    yield below(Sheet("", ("one step", ""), list(_numbers(trace))))
    yield below(_formulas(trace))
    if trace.lines:
        yield below(_line_table(trace))
    yield below(_tensor_table(trace))
    if trace.advice:
        rows = [(tip.change, bytes_text(tip.live_peak_bytes), bytes_text(tip.less_bytes), tip.verified)
                for tip in trace.advice]  # fmt: skip
        yield below(Sheet("What would lower the live peak", ("change", ">to", ">less by", "verified"), rows))
    yield below(Bullets("Assumed", trace.notes))
    if trace.unknown:
        yield Bullets("Not known", [f"{op}: {what}" for op, what in trace.unknown.items()])


def _numbers(trace: "Trace") -> Iterator[tuple[str, str]]:
    memory, work = trace.memory, trace.work
    for phase, peak in memory.phase_peaks.items():
        yield f"live peak, {phase}", bytes_text(peak)
    yield "allocated peak", bytes_text(memory.allocated_peak_bytes)
    yield "reserved peak", bytes_text(memory.reserved_peak_bytes)
    yield "saved for backward", bytes_text(memory.saved_bytes)
    yield "FLOP", decimal_text(int(work.flops), "FLOP")
    yield "HBM traffic", bytes_text(int(work.hbm_bytes))
    if trace.time:
        yield "time, at least", seconds_text(trace.time.seconds)
    if trace.calibrated:
        yield "time, expected", seconds_text(trace.calibrated.seconds)
    if trace.largest:
        first = trace.largest.first_failing
        fails = "" if first is None else f"; {first:,} does not"
        yield f"largest {trace.largest.over} that fits", f"{trace.largest.largest:,}{fails}"


def _formulas(trace: "Trace") -> Any:
    if trace.forms is None:
        return Text(f"No formulas: {trace.why_no_forms}", style="dim")
    unproven = trace.forms.unproven
    moments = "moment" if unproven == 1 else "moments"
    sampled = f", {unproven} {moments} below these by samples alone" if unproven else ""
    return expressions(form_rows(trace.forms), f"In bytes; {trace.forms.region}{sampled}")


def form_rows(forms: "Forms") -> Iterator[tuple[str, Any, str]]:
    """(quantity, expression, where it wins) of each closed form."""
    yield "saved for backward", forms.saved, ""
    for phase, branches in forms.peaks.items():
        for branch in branches:
            where = "" if branch.wins is None else f"{_where(branch.wins)}; "
            yield f"{phase} peak", branch.expression, where + branch.moment
    yield "matrix products, FLOP", forms.matmul_flops, ""
    if forms.hbm_bytes is not None:
        yield "HBM traffic", forms.hbm_bytes, ""


def forms_latex(forms: "Forms") -> str:
    """An equation a line."""
    return "\n".join(latex_rows(form_rows(forms)))


def _where(condition: Any) -> str:
    return condition if isinstance(condition, str) else f"where {formula_text(condition)}"


def _line_table(trace: "Trace") -> Sheet:
    peak = trace.memory.live_peak_bytes
    rows: list[tuple[Cell, ...]] = []
    for line in trace.lines[:_LINES_SHOWN]:
        place = f"{line.file.rpartition('/')[2]}:{line.line}{', its backward' if line.backward else ''}"
        shown = Text.assemble(place, "\n", (f"  {line.text}", "dim"))
        rows.append((bytes_text(line.nbytes), percent_text(line.nbytes, peak), shown, ", ".join(line.names[:4])))
    rest = trace.lines[_LINES_SHOWN:]
    if rest:
        nbytes = sum(line.nbytes for line in rest)
        rows.append((bytes_text(nbytes), percent_text(nbytes, peak), f"{len(rest)} more", ""))
    return Sheet("The lines that make the peak", ("bytes", ">share", "line", "tensors"), rows)


def _tensor_table(trace: "Trace") -> Sheet:
    groups = _alike(trace)
    rows = []
    for name, group in groups[:_TENSORS_SHOWN]:
        record, size = group[0], bytes_text(sum(r.nbytes for r in group))
        times, count = (f"{len(group)}·", f", {len(group)} times") if len(group) > 1 else ("", "")
        where = record.where, record.kept_by, record.freed or "-"
        rows.append((f"{name}{count}", f"{times}{record.formula}", size, *where))
    rest = [record for _, group in groups[_TENSORS_SHOWN:] for record in group]
    if rest:
        rows.append((f"{len(rest)} more", "", bytes_text(sum(r.nbytes for r in rest)), "", "", ""))
    rows.append(("together", "", bytes_text(trace.memory.live_peak_bytes), "", "", ""))
    columns = ("tensor", "bytes", ">size", "made by", "kept by", "freed in")
    return Sheet("What is alive at the peak", columns, rows, total=True)


def _alike(trace: "Trace") -> list[tuple[str, list[TensorRecord]]]:
    """What is alive at the peak, by name: the same tensors of several layers together, most bytes first."""
    found: dict[Any, list[TensorRecord]] = {}
    for record in trace.tensors:
        if record.at_peak:
            key = wildcard(record.name), record.formula, record.where, record.kept_by, record.freed
            found.setdefault(key, []).append(record)
    named = [(key[0] if len(group) > 1 else group[0].name, group) for key, group in found.items()]
    return sorted(named, key=lambda one: -sum(r.nbytes for r in one[1]))
