"""The runs on record, and tables of attention's memory among them: as their scripts printed it, each with its origin.

Shapes of these tables are (batch, seq, d), in fp32 and without heads.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from memmodel_validate.ledger import UNITS, Ledger, Source, read
from memmodel_validate.own import own_runs

DATA = Path(__file__).parent / "data"
COLUMNS = ("mem_after_inputs", "mem_before_backward", "saved", "peak_fwd", "peak_bwd", "peak_total")


@cache
def _on_record() -> Ledger:
    return read(*sorted((DATA / "ledger").glob("*.jsonl")), onto=own_runs())


def everything(*ledgers: str) -> Ledger:
    """Every record of the repository (our own runs, recorded tables, published figures), then those of more files."""
    return read(*ledgers, onto=_on_record()) if ledgers else _on_record()


@dataclass(frozen=True, slots=True)
class Table:
    """A source of memory figures, and how it printed them."""

    source: Source

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Of the GPU; it decides the cuBLAS workspaces."""
        major, minor = map(int, self.source.environment["compute_capability"].split("."))
        return major, minor

    @property
    def torch(self) -> str:
        """Version of PyTorch."""
        return self.source.environment["torch"]

    @property
    def unit_bytes(self) -> int:
        """Bytes per printed unit."""
        return int(UNITS[self.source.protocol["memory_unit"]][1])

    def printed(self, nbytes: int) -> str:
        """`nbytes` as the table's script would have printed it."""
        return format(nbytes / self.unit_bytes, self.source.protocol["memory_format"])


@dataclass(frozen=True, slots=True)
class Row:
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
    """The tables that say how their memory was printed, by name."""
    return {name: Table(source) for name, source in everything().sources.items() if "memory_format" in source.protocol}


@cache
def rows() -> tuple[Row, ...]:
    """The rows of all tables: those with memory, and those that ran out of it."""
    found = []
    for run in everything().runs:
        printed = {column: run.measured[column].printed for column in COLUMNS if column in run.measured}
        if run.source in tables() and (printed or run.out_of_memory):
            shape = (run.case["batch"], run.case["seq"], run.case["head_dim"])
            found.append(Row(run.source, *shape, printed=printed, out_of_memory=run.out_of_memory))
    return tuple(found)
