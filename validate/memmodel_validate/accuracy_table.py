"""Accuracy as tables, Markdown and JSON; errors are of times, in per cent, memory is exact or not."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from memmodel_validate.comparison import Accuracy, Summary, summaries

SCHEMA = 1
_COLUMNS = ("rows", "exact", "median", "p90", "worst", "inside", "width", "roofline")


def tables(found: Accuracy, by_table: bool) -> Iterator[Any]:
    """The terminal's view: a row per quantity, or one per recorded table or kernel too, and what was not judged."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("against every record", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries(found.comparisons, by_subject=False):
        table.add_row(summary.quantity, *_cells(summary), style="bold" if by_table else "")
        for one in summaries(j for j in found.comparisons if j.quantity == summary.quantity) if by_table else ():
            table.add_row(f"  {one.gpu}: {one.subject}", *_cells(one))
    yield table
    yield Text("errors are |predicted / measured - 1| on rows that no constant was fitted to;")
    yield Text("inside: measured times that lie in the interval stated for 90 % of them;")
    yield Text("width: of that interval, over the expected time, at the median;")
    yield Text("transferred: as if nobody had measured the row's GPU, by rates of others;")
    yield Text("roofline: the median error of a roofline on datasheet peaks, on the same rows\n")
    worst = [s for s in summaries(found.comparisons, by_subject=False) if s.worst > 0]
    for summary in worst:
        yield Text(f"worst {summary.quantity}: {summary.worst_row}")
    if found.left_out:
        yield Text("\nnot judged")
        for reason, count in found.left_out.most_common():
            yield Text(f"{count:6,}  {reason}")
    yield from map(Text, found.notes)


def _cells(summary: Summary) -> list[str]:
    exact = "" if summary.exact is None else f"{summary.exact}"
    if summary.exact == summary.count:
        return [f"{summary.count}", exact, *[""] * (len(_COLUMNS) - 2)]
    inside, width = ("" if share is None else f"{100 * share:.0f} %" for share in (summary.inside, summary.width))
    *errors, roofline = map(_percent, (summary.median, summary.p90, summary.worst, summary.roofline))
    return [f"{summary.count}", exact, *errors, inside, width, roofline]


def _percent(error: float | None) -> str:
    return "" if error is None else f"{100 * error:.{1 if error < 1 else 0}f} %"


def markdown(found: Accuracy, by_table: bool) -> str:
    """The summaries as Markdown: the README's table, or the tables of docs/accuracy.md by record, kernel and GPU."""
    named = ("quantity", "GPU", "recorded table or kernel") if by_table else ("quantity",)
    lines = [_row((*named, *_COLUMNS)), "| --- " * len(named) + "| ---: " * len(_COLUMNS) + "|"]
    for summary in summaries(found.comparisons) if by_table else ():
        lines.append(_row((summary.quantity, summary.gpu, summary.subject, *_cells(summary))))
    for summary in summaries(found.comparisons, by_subject=False):
        cells = (summary.quantity, "all", "", *_cells(summary)) if by_table else (summary.quantity, *_cells(summary))
        lines.append(_row(f"**{cell}**" if cell and by_table else cell for cell in cells))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def accuracy_dict(found: Accuracy) -> dict[str, Any]:
    """The documented JSON form: errors as fractions."""
    return {
        "schema": SCHEMA,
        "quantities": [asdict(s) for s in summaries(found.comparisons, by_subject=False)],
        "groups": [asdict(s) for s in summaries(found.comparisons)],
        "judged": [{**asdict(j), "error": j.error} for j in found.comparisons],
        "not_judged": dict(found.left_out),
    }
