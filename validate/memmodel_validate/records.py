"""Recorded runs of others: tables of attention's memory, as printed, each with where it is from.

Two CSV files: `attention_tables.csv` has a line per table (repository, path, commit, GPU, torch version, how
numbers were printed), `attention_runs.csv` a line per row of a table. Shapes are (batch, seq, d), in fp32 and
without heads.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from memmodel.errors import UsageError

DATA = Path(__file__).parent / "data"
COLUMNS = ("mem_after_inputs", "mem_before_backward", "saved", "peak_fwd", "peak_bwd", "peak_total")
_TABLE_FIELDS = (
    *("table", "repo", "path", "commit", "gpu", "gpu_id"),
    *("compute_capability", "torch", "unit_bytes", "format", "note"),
)
_RUN_FIELDS = ("table", "batch", "seq", "d", *COLUMNS, "oom")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table is from and how it was printed.

    Attributes:
        gpu_id: the database's id of a GPU with this one's capacity; empty where the GPU is not known.
        unit_bytes: bytes per printed unit: 1, 10^6, 2^20 or 2^30.
        format: the format specification that the script printed a number with.

    """

    name: str
    repo: str
    path: str
    commit: str
    gpu: str
    gpu_id: str
    compute_capability: tuple[int, int]
    torch: str
    unit_bytes: int
    format: str
    note: str

    def printed(self, nbytes: int) -> str:
        """`nbytes` as the table's script would have printed it."""
        return format(nbytes / self.unit_bytes, self.format)


@dataclass(frozen=True, slots=True)
class Run:
    """A row of a table: its shape and the text in each column it has; none where it ran out of memory."""

    table: str
    batch: int
    seq: int
    d: int
    printed: dict[str, str]
    out_of_memory: bool

    def __str__(self) -> str:
        return f"{self.table}, batch {self.batch}, seq {self.seq}, d {self.d}"


@cache
def tables() -> dict[str, Table]:
    """The tables, by name."""
    return {table.name: table for table in read_lines(DATA / "attention_tables.csv", _TABLE_FIELDS, _table)}


@cache
def runs() -> tuple[Run, ...]:
    """The rows of all tables."""
    return read_lines(DATA / "attention_runs.csv", _RUN_FIELDS, _run)


def read_lines(path: Path, fields: tuple[str, ...], parse: Callable[[dict[str, str]], T]) -> tuple[T, ...]:
    """Parse each line of a CSV file with the header `fields`. Raises UsageError that names file and line."""
    return parse_lines(path.read_text(encoding="utf-8"), str(path), fields, parse)


def parse_lines(text: str, name: str, fields: tuple[str, ...], parse: Callable[[dict[str, str]], T]) -> tuple[T, ...]:
    """`read_lines` of a text; `name` is what an error calls it."""
    header, *lines = list(csv.reader(text.splitlines())) or [[]]
    if tuple(header) != fields:
        raise UsageError(f"{name}, line 1: expected the columns {','.join(fields)}, not {','.join(header)}")
    parsed = []
    for number, values in enumerate(lines, start=2):
        try:
            parsed.append(parse(dict(zip(fields, values, strict=True))))
        except ValueError as error:
            raise UsageError(f"{name}, line {number}: {error}") from error
    return tuple(parsed)


def _table(line: dict[str, str]) -> Table:
    major, minor = map(int, line["compute_capability"].split("."))
    format(0.0, line["format"])  # a ValueError where it is no format
    return Table(
        name=line["table"],
        repo=line["repo"],
        path=line["path"],
        commit=line["commit"],
        gpu=line["gpu"],
        gpu_id=line["gpu_id"],
        compute_capability=(major, minor),
        torch=line["torch"],
        unit_bytes=int(line["unit_bytes"]),
        format=line["format"],
        note=line["note"],
    )


def _run(line: dict[str, str]) -> Run:
    printed = {column: line[column] for column in COLUMNS if line[column]}
    for text in printed.values():
        float(text)
    if line["oom"] not in ("0", "1") or (line["oom"] == "1") is bool(printed):
        raise ValueError("a row has numbers and oom 0, or no number and oom 1")
    shape = {name: int(line[name]) for name in ("batch", "seq", "d")}
    return Run(line["table"], **shape, printed=printed, out_of_memory=line["oom"] == "1")
