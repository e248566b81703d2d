"""Layouts of a model on a number of GPUs: those that fit, fastest first, and what limits each."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from memmodel.base.units import bytes_text, number_text
from memmodel.models.fit import FitReport, TriedLayout
from memmodel.report.sheet import Bullets, Sheet, below

_SHOWN, _SHOWN_OTHERS = 10, 3
_WIDE = 12  # columns that 80 characters hold two spaces apart


def fit_parts(report: FitReport) -> Iterator[Any]:
    """The first screen, part by part."""
    yield Text.assemble(
        (report.gpu.name, "bold"), f", {report.gpus:,} of them: {report.case.arch.name}, {report.case.describe()}"
    )
    yield Text()
    tried = len(report.fitting) + len(report.others)
    verdict = f"{len(report.fitting)} of {tried} layouts fit" if report.fitting else f"none of {tried} layouts fits"
    yield Text(verdict, style="bold")
    if report.fitting:
        yield below(_table("Fastest first", report.fitting[:_SHOWN], report.gpus))
    if report.others:
        yield below(_without_room(report.others[:_SHOWN_OTHERS]))
    yield below(Bullets("Assumed", report.assumptions))


def _table(title: str, layouts: Sequence[TriedLayout], gpus: int) -> Sheet:
    names = _varied(layouts)
    columns = (*(f">{name}" for name in names), ">memory", ">tokens/s", ">MFU", ">comm", ">bubble")
    rows = [
        (
            *(_value(one, name) for name in names),
            f"{'' if one.exact else '~'}{bytes_text(one.peak_bytes)}",
            number_text(one.tokens_per_second / gpus),
            "-" if one.mfu is None else f"{100 * one.mfu:.0f} %",
            f"{100 * one.time.exposed / one.time.seconds:.0f} %",
            f"{100 * one.time.bubble / one.time.seconds:.0f} %",
        )
        for one in layouts
    ]
    words = f"{title}; tokens/s of a GPU, exposed communication and bubble of the step"
    return Sheet(words, columns, rows, tight=len(columns) > _WIDE)


def _without_room(layouts: Sequence[TriedLayout]) -> Sheet:
    names = _varied(layouts)
    rows = [(*(_value(one, name) for name in names), bytes_text(one.peak_bytes), one.limits) for one in layouts]
    return Sheet("Nearest to fitting", (*(f">{name}" for name in names), ">memory", "mostly"), rows)


_FIELDS = {
    **{"tp": "tp", "pp": "pp", "cp": "cp", "ep": "ep", "dp": "dp", "shard": "dp_shard", "zero": "zero"},
    "micro": "",
}


def _varied(layouts: Sequence[TriedLayout]) -> list[str]:
    """The parts of a layout that one of them has: flags by their names, micro-batches, what is recomputed."""
    found = [name for name in _FIELDS if name != "zero" and any(_value(one, name) != "1" for one in layouts)]
    if "shard" in found:
        found.insert(found.index("shard") + 1, "zero")
    return [*found, "ckpt"]


def _value(one: TriedLayout, name: str) -> str:
    if name == "ckpt":
        return one.case.checkpoint
    return f"{one.case.microbatches if name == 'micro' else getattr(one.case.layout, _FIELDS[name])}"
