"""GPUs side by side on one configuration, as a table."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.text import Text

from memmodel.attention.case import Case
from memmodel.base.units import decimal_text, percent_text, seconds_text
from memmodel.gpu_comparison import GpuComparison, OnGpu
from memmodel.report.rows import range_of
from memmodel.report.sheet import Bullets, Sheet, below
from memmodel.report.tables import SCOPE

_FITS = {None: "?", True: "yes", False: "NO"}


def comparison_parts(found: GpuComparison) -> Iterator[Any]:
    """The table, then what is assumed, and for which GPUs there is no time."""
    yield Text.assemble((found.title, "bold"), f": {found.case.describe()}")
    yield Text(SCOPE if isinstance(found.case, Case) else "one step of the whole model", style="dim")
    yield below(comparison_table(found))
    yield below(Bullets("Assumed", found.assumptions))
    missing: dict[str, list[str]] = {}
    for row in found:
        if row.missing:
            missing.setdefault(row.missing.replace(row.gpu.name, "it"), []).append(row.gpu.id)
    if missing:
        yield Bullets("Notes", [f"{', '.join(ids)}: {why}" for why, ids in missing.items()])


def comparison_table(found: GpuComparison) -> Sheet:
    """A row for each GPU; what costs nothing takes the room of the memory's share."""
    priced = any(row.dollars_per_hour is not None for row in found)
    cells = {**_CELLS, **(_PRICED if priced else _UNPRICED)}
    return Sheet("", tuple(cells), [tuple(cell(row) for cell in cells.values()) for row in found], tight=True)


def _known(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "-" if value is None else text(value)


_seconds, _dollars = _known(seconds_text), _known(lambda value: f"{value:,.4g}")
_number = _known(lambda value: decimal_text(value, "").rstrip())
_CELLS: dict[str, Callable[[OnGpu], str]] = {
    "GPU": lambda row: row.gpu.id,
    "|fits": lambda row: _FITS[row.memory.fits],
    ">expected": lambda row: _seconds(row.calibrated and row.calibrated.seconds),
    ">90 % of runs": lambda row: range_of(row.calibrated) or "-",
    ">at least": lambda row: _seconds(row.time and row.time.seconds),
    ">tokens/s": lambda row: _number(row.tokens_per_second),
}
_UNPRICED: dict[str, Callable[[OnGpu], str]] = {">memory": lambda row: _share(row)}
_PRICED: dict[str, Callable[[OnGpu], str]] = {
    ">$/h": lambda row: _dollars(row.dollars_per_hour),
    ">$/Mtok": lambda row: _dollars(row.dollars_per_million_tokens),
}


def _share(row: OnGpu) -> str:
    memory = row.memory
    return percent_text(memory.device_bytes, memory.capacity_bytes) if memory.capacity_bytes else "-"
