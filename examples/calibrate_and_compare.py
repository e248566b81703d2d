"""A calibration held against recorded runs of its GPU: times by the datasheet, as calibrated, and as measured.

By default the calibration is the shipped one of an H20, fitted to other people's runs; rows that it was fitted to are
left out. To make your own takes about a minute on your machine: `memmodel calibrate -o mine.json`. Then

    python examples/calibrate_and_compare.py mine.json runs.jsonl

where `memmodel validate --ledger runs.jsonl` wrote the runs; without them those on record of the same GPU are taken.
"""

import sys
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from memmodel.timing.calibration import Calibration
from memmodel.timing.known import community, read_calibration
from memmodel_evidence.fits import fit_of
from memmodel_evidence.programs import program_of
from memmodel_evidence.records import everything
from memmodel_evidence.times import machine_of, predicted_seconds, times
from memmodel_validate.ledger import Ledger

IMPLEMENTATIONS = ("naive", "naive-by-hand", "FlashAttention-2")
SHORTEST = 8192  # of other people's runs: they are fitted at 4096


class Row(NamedTuple):
    """A recorded time and its two predictions, in seconds."""

    what: str
    measured: float
    datasheet: float
    calibrated: float


def rows(calibration: Calibration, ledger: Ledger) -> Iterator[Row]:
    """The recorded times on the calibration's GPU that it was not fitted to."""
    for run in ledger.runs:
        source = ledger.sources[run.source]
        if source.gpu_id != calibration.machine["gpu_id"] or run.implementation not in IMPLEMENTATIONS:
            continue
        fit = fit_of(run, source) if calibration.basis == "community" else None
        for timed in times(run):
            case = run.case
            if fit is not None and (fit.trains_on(timed) or case["seq"] < SHORTEST):
                continue
            program = program_of(run, source)
            by = [predicted_seconds(program, timed.phase, source, machine_of(source, c)) for c in (None, calibration)]
            what = f"{run.implementation} {timed.phase}, n {case['seq']}, d {case['head_dim']}, {case['dtype']}"
            yield Row(what, timed.seconds, *by)


def main(path: str | None = None, *ledgers: str) -> None:
    """A line for each recorded time, and the median error of both predictions."""
    calibration = read_calibration(path) if path else community("h20")
    assert calibration is not None
    found = list(rows(calibration, everything(*ledgers)))
    if not found:
        sys.exit(f"no time on record of {calibration.machine['gpu_id']}: give the ledger of `memmodel validate`")
    print(f"{calibration.name}, times in ms\n{'':44}measured       datasheet      calibrated")
    for what, measured, *predicted in found:
        cells = (f"{1e3 * seconds:8.3f} {seconds / measured - 1:+6.0%}" for seconds in predicted)
        print(f"{what:43} {1e3 * measured:8.3f}", *cells)
    for name in ("datasheet", "calibrated"):
        errors = [abs(getattr(row, name) / row.measured - 1) for row in found]
        print(f"{name}: median error {median(errors):.1%} of {len(errors)} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
