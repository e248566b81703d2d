"""Recorded tables of memory: a row's harness on recording tensors, replayed through the allocator.

A prediction is exact where the table's own format prints it as the text in the table: there is no tolerance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from memmodel import recording
from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.events.program import Program
from memmodel.events.replay import Replay, Usage, replay
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.harnesses.script import Row
from memmodel_evidence.records import printed, tables
from memmodel_validate.ledger import UNITS, Run, Source

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
class Printed:
    """One number of a table, as text, and its prediction in bytes."""

    table: Source
    row: Row
    column: str
    text: str
    predicted: int

    @property
    def unit_bytes(self) -> int:
        """Bytes per printed unit."""
        return int(UNITS[self.table.protocol["memory_unit"]][1])

    @property
    def as_text(self) -> str:
        """The prediction as the table's script would have printed it."""
        return format(self.predicted / self.unit_bytes, self.table.protocol["memory_format"])

    @property
    def exact(self) -> bool:
        """Whether the table would print the prediction just so."""
        return self.as_text == self.text

    def __str__(self) -> str:
        row = f"batch {self.row.batch}, seq {self.row.seq}, d {self.row.d}"
        predicted = f"{self.as_text} ({self.predicted} bytes)"
        return f"{self.table.name}, {row}, {self.column}: printed {self.text}, predicted {predicted}"


def row_of(run: Run) -> Row:
    """The sizes of a table's row."""
    return Row(run.case["batch"], run.case["seq"], run.case["head_dim"])


def numbers(run: Run, replayed: Replay | None = None) -> Iterator[Printed]:
    """Every number of a row beside its prediction: of the harness on recording tensors, or another replay of it."""
    table, row, texts = tables()[run.source], row_of(run), printed(run)
    if texts:
        found = replayed or replayed_row(table, recorded(run.source, row))
        for column, text in texts.items():
            yield Printed(table, row, column, text, readings(found, column)[-1])


def readings(replayed: Replay, column: str) -> list[int]:
    """A column's bytes in each measured iteration: all are equal, so the last is their mean, which tables print."""
    phase, statistic = READINGS[column]
    return [statistic(usage) for name, usage in replayed.phases if name == phase]


def replayed_row(table: Source, program: Program, capacity: int | None = None) -> Replay:
    """A harness's program on the caching allocator, with its table's cuBLAS workspaces; `capacity` in bytes."""
    gemms = workspace(table.environment["torch"], compute_capability(table))
    return replay(program, CachingAllocator(capacity), gemms)


def compute_capability(table: Source) -> tuple[int, int]:
    """Of a table's GPU; it decides the cuBLAS workspaces."""
    major, minor = map(int, table.environment["compute_capability"].split("."))
    return major, minor


def recorded(table: str, row: Row) -> Program:
    """The program of a table's harness; tables with the same script share it."""
    harness: Any = HARNESSES[table]
    return _recorded(getattr(harness, "func", harness), tuple(getattr(harness, "keywords", {}).items()), row)


@cache
def _recorded(harness: Callable[..., None], options: tuple[tuple[str, object], ...], row: Row) -> Program:
    with recording.Tape(sites=False) as tape:
        harness(recording, row, tape.mark, **dict(options))
    return tape.program
