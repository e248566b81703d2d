"""The runs on record: our own, and other people's as they printed them, each with its origin.

Tables of attention's memory have shapes (batch, seq, d), in fp32 and without heads.
"""

from functools import cache
from pathlib import Path

from memmodel_validate.ledger import Ledger, Run, Source, read
from memmodel_validate.validation_runs import shipped_runs

DATA = Path(__file__).parent / "data"
COLUMNS = ("mem_after_inputs", "mem_before_backward", "saved", "peak_fwd", "peak_bwd", "peak_total")


@cache
def _on_record() -> Ledger:
    return read(*sorted((DATA / "ledger").glob("*.jsonl")), onto=shipped_runs())


def everything(*ledgers: str) -> Ledger:
    """Every record of the repository (our own runs, recorded tables, published figures), then those of more files."""
    return read(*ledgers, onto=_on_record()) if ledgers else _on_record()


@cache
def tables() -> dict[str, Source]:
    """The sources that say how their memory was printed, by name."""
    return {name: source for name, source in everything().sources.items() if "memory_format" in source.protocol}


def printed(run: Run) -> dict[str, str]:
    """The text in each column of memory of a table's row; none where it ran out of memory."""
    return {column: run.measured[column].printed for column in COLUMNS if column in run.measured}


@cache
def rows() -> tuple[Run, ...]:
    """The rows of all tables: those with memory, and those that ran out of it."""
    return tuple(run for run in everything().runs if run.source in tables() and (printed(run) or run.out_of_memory))
