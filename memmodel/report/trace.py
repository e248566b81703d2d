"""A trace as text: verdict, peak, formulas, the lines that make it, what would lower it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memmodel.account import TensorRecord
from memmodel.origin import wildcard
from memmodel.report.formulas import latex_rows
from memmodel.report.tables import bullets, verdict_text
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
    yield verdict_text(trace.memory)
    yield Padding(_numbers(trace), (1, 0, 0, 0))
    yield Padding(_formulas(trace), (1, 0, 0, 0))
    if trace.lines:
        yield Padding(_line_table(trace), (1, 0, 0, 0))
    yield Padding(_tensor_table(trace), (1, 0, 0, 0))
    if trace.advice:
        yield Padding(_advice_table(trace), (1, 0, 0, 0))
    yield Text()
    yield bullets("Assumed", trace.notes)
    if trace.unknown:
        yield bullets("Not known", (f"{op}: {what}" for op, what in trace.unknown.items()))


def _numbers(trace: "Trace") -> Table:
    table = _table("", "one step", "")
    memory, work = trace.memory, trace.work
    for phase, peak in memory.phase_peaks.items():
        table.add_row(f"live peak, {phase}", bytes_text(peak))
    table.add_row("allocated peak", bytes_text(memory.allocated_peak_bytes))
    table.add_row("reserved peak", bytes_text(memory.reserved_peak_bytes))
    table.add_row("saved for backward", bytes_text(memory.saved_bytes))
    table.add_row("FLOP", decimal_text(int(work.flops), "FLOP"))
    table.add_row("HBM traffic", bytes_text(int(work.hbm_bytes)))
    if trace.time:
        table.add_row("time, at least", seconds_text(trace.time.seconds))
    if trace.calibrated:
        table.add_row("time, expected", seconds_text(trace.calibrated.seconds))
    if trace.largest:
        first = trace.largest.first_failing
        fails = "" if first is None else f"; {first:,} does not"
        table.add_row(f"largest {trace.largest.over} that fits", f"{trace.largest.largest:,}{fails}")
    return table


def _formulas(trace: "Trace") -> Any:
    if trace.forms is None:
        return Text(f"No formulas: {trace.why_no_forms}", style="dim")
    unproven = trace.forms.unproven
    moments = "moment" if unproven == 1 else "moments"
    sampled = f", {unproven} {moments} below these by samples alone" if unproven else ""
    table = _table(f"In bytes; {trace.forms.region}{sampled}", "", "")
    table.show_header = False
    for name, expression, when in form_rows(trace.forms):
        table.add_row(name, formula_text(expression))
        if when:
            table.add_row("", Text(when, style="dim"))
    return table


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


def _line_table(trace: "Trace") -> Table:
    table = _table("The lines that make the peak", "bytes", "share", "line", "tensors")
    peak = trace.memory.live_peak_bytes
    for line in trace.lines[:_LINES_SHOWN]:
        place = f"{line.file.rpartition('/')[2]}:{line.line}{', its backward' if line.backward else ''}"
        shown = Text.assemble(place, "\n", (f"  {line.text}", "dim"))
        table.add_row(bytes_text(line.nbytes), percent_text(line.nbytes, peak), shown, ", ".join(line.names[:4]))
    rest = trace.lines[_LINES_SHOWN:]
    if rest:
        nbytes = sum(x.nbytes for x in rest)
        table.add_row(bytes_text(nbytes), percent_text(nbytes, peak), f"{len(rest)} more", "")
    return table


def _tensor_table(trace: "Trace") -> Table:
    table = _table("What is alive at the peak", "tensor", "bytes", "size", "made by", "kept by", "freed in")
    groups = _alike(trace)
    for name, group in groups[:_TENSORS_SHOWN]:
        record, size = group[0], bytes_text(sum(r.nbytes for r in group))
        times, count = (f"{len(group)}·", f", {len(group)} times") if len(group) > 1 else ("", "")
        row = f"{name}{count}", f"{times}{record.formula}", size, record.where, record.kept_by, record.freed or "-"
        table.add_row(*row)
    rest = [record for _, group in groups[_TENSORS_SHOWN:] for record in group]
    if rest:
        table.add_row(f"{len(rest)} more", "", bytes_text(sum(r.nbytes for r in rest)), "", "", "")
    table.add_row("together", "", bytes_text(trace.memory.live_peak_bytes), "", "", "", style="bold")
    return table


def _alike(trace: "Trace") -> list[tuple[str, list[TensorRecord]]]:
    """What is alive at the peak, by name: the same tensors of several layers together, most bytes first."""
    found: dict[Any, list[TensorRecord]] = {}
    for record in trace.tensors:
        if record.at_peak:
            key = wildcard(record.name), record.formula, record.where, record.kept_by, record.freed
            found.setdefault(key, []).append(record)
    named = [(key[0] if len(group) > 1 else group[0].name, group) for key, group in found.items()]
    return sorted(named, key=lambda one: -sum(r.nbytes for r in one[1]))


def _advice_table(trace: "Trace") -> Table:
    table = _table("What would lower the live peak", "change", "to", "less by", "verified")
    for tip in trace.advice:
        table.add_row(tip.change, bytes_text(tip.live_peak_bytes), bytes_text(tip.less_bytes), tip.verified)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False,
                  header_style="dim", padding=(0, 1, 0, 0))  # fmt: skip
    right = {"size", "share", "to", "less by"}
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in right)
    return table
