"""Recorded runs as points of a roofline: what they did per byte and per second, beside what is predicted for them."""

from collections.abc import Iterator

from memmodel.case import Case
from memmodel.dtypes import dtype
from memmodel.errors import UsageError
from memmodel.pictures.roofline import MeasuredPoint
from memmodel.timing.known import community
from memmodel.work import Work
from memmodel_validate.ledger import Run
from memmodel_validate.programs import launches, program_of
from memmodel_validate.records import shipped
from memmodel_validate.times import PHASES, Timed, machine_of, predicted_seconds, times


def measured_points(gpu_id: str, case: Case) -> tuple[list[MeasuredPoint], list[str]]:
    """The shipped records of a GPU with the case's head dim, mask and bytes of dtype; and what to say about them."""
    ledger = shipped()
    runs = [run for run in ledger.runs if ledger.sources[run.source].gpu_id == gpu_id]
    alike = [run for run in runs if _alike(run, case)]
    points = [point for run in alike for timed in times(run) for point in _points(timed)]
    sources = dict.fromkeys(run.source for run in alike if list(times(run)))
    if points:
        return points, [f"from {source}" for source in sources]
    return [], [f"of {len(runs)} runs on record on this GPU, none has a time for this head dim, mask and dtype"]


def _alike(run: Run, case: Case) -> bool:
    found = run.case
    return (
        found.get("head_dim") == case.head_dim
        and found.get("mask") == case.mask.name
        and dtype(found.get("dtype", "fp64")).itemsize == case.dtype.itemsize
    )


def _points(timed: Timed) -> Iterator[MeasuredPoint]:
    """The point of a time; none where the run's program is not known, or its GPU lacks a rate."""
    source = shipped().sources[timed.run.source]
    machine = machine_of(source, community(source.gpu_id))
    try:
        program = program_of(timed.run, source)
        predicted = predicted_seconds(program, timed.phase, source, machine)
    except UsageError:
        return
    work = sum((launch.work for launch in launches(program, PHASES[timed.phase][0])), start=Work())
    what = f"{timed.run}, {timed.phase}"
    flops, moved = float(work.flops), float(work.hbm_bytes)
    yield MeasuredPoint(timed.run.implementation, what, flops, flops / moved, timed.seconds, predicted)
