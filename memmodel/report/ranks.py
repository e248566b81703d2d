"""Real ranks beside the trace, as a table."""

from collections.abc import Sequence
from typing import Any

from memmodel.report.sheet import Sheet
from memmodel.units import bytes_text


def rank_results(results: Sequence[Any]) -> Sheet:
    """A row for each rank: its events, whether all are as traced, and its peaks in the second step."""
    rows = [
        (
            f"{x.case}, rank {x.rank}",
            f"{x.events:,}",
            "equal" if x.equal else x.difference,
            bytes_text(x.peak_bytes),
            bytes_text(x.predicted_peak_bytes),
        )
        for x in results
    ]
    columns = ("case", ">events", "as traced", ">peak", ">traced peak")
    return Sheet("Real ranks and their traces, two steps of training", columns, rows)
