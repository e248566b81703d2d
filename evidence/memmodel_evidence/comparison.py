"""Recorded tables against the model: a row's harness on recording tensors, replayed through the allocator.

A prediction is exact where the table's own format prints it as the text in the table: there is no tolerance.
Means over iterations are compared alike, since every measured iteration uses the same bytes (`steady`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from memmodel import recording
from memmodel.allocator import CachingAllocator
from memmodel.cublas import workspace
from memmodel.program import Program
from memmodel.replay import Replay, Usage, replay
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.records import Row, Table, rows, tables

# What a column holds: a phase of the harness, and which of its statistics.
READINGS: dict[str, tuple[str, Callable[[Usage], int]]] = {
    "mem_after_inputs": ("forward", lambda usage: usage.allocated_start),
    "mem_before_backward": ("backward", lambda usage: usage.allocated_start),
    "saved": ("forward", lambda usage: usage.allocated_end - usage.allocated_start),
    "peak_fwd": ("forward", lambda usage: usage.allocated_peak),
    "peak_bwd": ("backward", lambda usage: usage.allocated_peak),
    "peak_total": ("backward", lambda usage: usage.allocated_peak),  # since mem_before_backward was read
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One number of a table and its prediction in bytes."""

    run: Row
    column: str
    printed: str
    predicted: int
    table: Table

    @property
    def exact(self) -> bool:
        """Whether the table would print the prediction just so."""
        return self.table.printed(self.predicted) == self.printed

    @property
    def residual(self) -> float:
        """Printed less predicted, in bytes; printing rounds, so an exact row has one too."""
        return float(self.printed) * self.table.unit_bytes - self.predicted

    def __str__(self) -> str:
        as_printed = self.table.printed(self.predicted)
        predicted = f"{as_printed} ({self.predicted} bytes)"
        return f"{self.run}, {self.column}: printed {self.printed}, predicted {predicted}"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A column of a table: rows, exact rows, and the largest difference from a printed number in bytes."""

    table: str
    column: str
    rows: int
    exact: int
    worst_residual: float


def comparison(run: Row, program_of: Callable[[Row], Program] | None = None) -> list[Comparison]:
    """Every number of a row beside its prediction; none where the row ran out of memory.

    `program_of` runs the row's harness: on recording tensors (`recorded`), or otherwise (`memmodel_evidence.traced`).
    """
    if not run.printed:
        return []
    table, replayed = tables()[run.table], replayed_run(run, program_of=program_of)
    return [Comparison(run, c, text, predicted(replayed, c), table) for c, text in run.printed.items()]


def predicted(replayed: Replay, column: str) -> int:
    """A column's prediction in bytes: that of the last measured iteration."""
    phase, statistic = READINGS[column]
    return statistic(replayed.last(phase))


def steady(replayed: Replay, column: str) -> bool:
    """Whether all measured iterations use the same bytes, so that their mean is the value of each."""
    phase, statistic = READINGS[column]
    return len({statistic(usage) for name, usage in replayed.phases if name == phase}) == 1


def replayed_run(run: Row, capacity: int | None = None, program_of: Callable[[Row], Program] | None = None) -> Replay:
    """A row's program on the caching allocator, with its table's cuBLAS workspaces; `capacity` in bytes."""
    table = tables()[run.table]
    gemms = workspace(table.torch, table.compute_capability)
    return replay((program_of or recorded)(run), CachingAllocator(capacity), gemms)


def recorded(run: Row) -> Program:
    """The program of a row's harness."""
    with recording.Tape(sites=False) as tape:
        HARNESSES[run.table](recording, run, tape.mark)
    return tape.program


def accuracy() -> list[Accuracy]:
    """Every column of every table, in the tables' order."""
    return list(_accuracy())


def _accuracy() -> Iterator[Accuracy]:
    columns: dict[tuple[str, str], list[Comparison]] = {}
    for run in rows():
        for compared in comparison(run):
            columns.setdefault((run.table, compared.column), []).append(compared)
    for (table, column), found in columns.items():
        worst = max((c.residual for c in found), key=abs)
        yield Accuracy(table, column, len(found), sum(c.exact for c in found), worst)
