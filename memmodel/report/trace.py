"""A trace as text: verdict, peak, formulas, the lines that make the peak, changes that lower it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from memmodel.base.units import bytes_text, percent_text
from memmodel.events.groups import KV_CACHE, OPTIMIZER, PARAMETERS, by_kind
from memmodel.report.formulas import expressions, rows
from memmodel.report.groups import group_table
from memmodel.report.rows import ROWS
from memmodel.report.sheet import Bullets, Cell, Sheet, below
from memmodel.report.tables import attention_words, in_words_of, tensor_sheet, verdict

if TYPE_CHECKING:
    from memmodel.tracer.result import Trace

_LINES_SHOWN = 6
_RANKS_SHOWN = 8


def trace_parts(trace: "Trace") -> Iterator[Any]:
    """The whole report, part by part."""
    yield Text.assemble((trace.gpu.name, "bold"), f": {trace.described}")
    yield Text()
    yield verdict(trace.memory)
    if trace.ranks:
        yield below(_rank_table(trace))
    yield below(Sheet("", ("one step", ""), list(_numbers(trace))))
    if set(by_kind(trace.memory.groups)) & {PARAMETERS, OPTIMIZER, KV_CACHE}:
        yield below(group_table(trace.memory, {}))
    yield below(_formulas(trace))
    if trace.lines:
        yield below(_line_table(trace))
    if trace.communication:
        yield below(_communication(trace))
    columns = ("tensor", "bytes", ">size", "made by", "kept by", "freed in")
    yield below(tensor_sheet("What is alive at the peak", columns, trace))
    if trace.advice:
        changes = [
            (a.change, bytes_text(a.live_peak_bytes), bytes_text(a.less_bytes), a.verified) for a in trace.advice
        ]
        yield below(Sheet("What would lower the live peak", ("change", ">to", ">less by", "verified"), changes))
    if trace.attention:
        yield below(Bullets("Attention kernels", attention_words(trace.attention)))
    yield below(Bullets("Assumed", trace.notes))
    if trace.unknown:
        yield Bullets("Not known", [f"{op}: {what}" for op, what in trace.unknown.items()])


def _numbers(trace: "Trace") -> Iterator[tuple[str, str]]:
    for name, cell in ROWS:
        if name == "live peak":
            yield from ((f"live peak, {phase}", bytes_text(peak)) for phase, peak in trace.memory.phase_peaks.items())
        elif name != "fits" and (shown := cell(trace)):
            yield in_words_of(trace.gpu, name), in_words_of(trace.gpu, shown)
    if trace.host_peak_bytes:
        yield "on the host", bytes_text(trace.host_peak_bytes)
    if trace.largest:
        first = trace.largest.first_failing
        fails = "" if first is None else f"; {first:,} does not"
        yield f"largest {trace.largest.over} that fits", f"{trace.largest.largest:,}{fails}"


def _rank_table(trace: "Trace") -> Sheet:
    fits = {True: "fits", False: "does not", None: "not known"}
    rows: list[tuple[Cell, ...]] = [
        (row.ranks, *map(bytes_text, row[2:5]), fits[row.fits]) for row in trace.ranks[:_RANKS_SHOWN]
    ]
    if len(trace.ranks) > _RANKS_SHOWN:
        rows.append((f"{len(trace.ranks) - _RANKS_SHOWN} more kinds", "", "", "", ""))
    return Sheet("Ranks, the fullest first", ("ranks", ">live peak", ">allocated", ">reserved", "fits"), rows)


def _communication(trace: "Trace") -> Sheet:
    rows = [
        (each.kind.replace("_", "-"), f"{each.ranks} on {each.nodes}", f"{each.calls}", bytes_text(each.nbytes))
        for each in trace.communication
    ]
    return Sheet("Collectives of one step", ("kind", ">ranks on machines", ">calls", ">bytes"), rows)


def _formulas(trace: "Trace") -> Any:
    if trace.forms is None:
        return Text(f"No formulas: {trace.why_no_forms}", style="dim")
    unproven = trace.forms.unproven
    moments = "moment" if unproven == 1 else "moments"
    sampled = f", {unproven} {moments} below these by samples alone" if unproven else ""
    return expressions(rows(trace.forms), f"{trace.forms.region}{sampled}")


def _line_table(trace: "Trace") -> Sheet:
    peak = trace.memory.live_peak_bytes
    shown: list[tuple[Cell, ...]] = []
    for line in trace.lines[:_LINES_SHOWN]:
        place = f"{line.file.rpartition('/')[2]}:{line.line}{', its backward' if line.backward else ''}"
        code = Text.assemble(place, "\n", (f"  {line.text}", "dim"))
        shown.append((bytes_text(line.nbytes), percent_text(line.nbytes, peak), code, ", ".join(line.names[:4])))
    rest = trace.lines[_LINES_SHOWN:]
    if rest:
        nbytes = sum(line.nbytes for line in rest)
        shown.append((bytes_text(nbytes), percent_text(nbytes, peak), f"{len(rest)} more", ""))
    return Sheet("The lines that make the peak", ("bytes", ">share", "line", "tensors"), shown)
