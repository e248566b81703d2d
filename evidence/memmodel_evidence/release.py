"""What the package ships of the evidence. `python -m memmodel_evidence.release` writes it anew.

How other people's runs are judged (`memmodel accuracy` of a package without their scripts), and recorded runs as points
of a roofline picture; and how whole models and their steps are judged. Written after a change of the model; tests hold
the files to what is computed.
"""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from memmodel.base.dtypes import dtype
from memmodel.base.errors import UsageError
from memmodel.events.work import Work
from memmodel.pictures.roofline import MeasuredPoint
from memmodel.timing.known import community
from memmodel_evidence.graphs import compiled_for
from memmodel_evidence.judging import others_on_record
from memmodel_evidence.models_judging import judge_models
from memmodel_evidence.programs import launches, program_of
from memmodel_evidence.records import everything
from memmodel_evidence.serving import kernel_tables
from memmodel_evidence.times import PHASES, machine_of, predicted_seconds, times
from memmodel_validate.accuracy import AT_RELEASE, MODELS_AT_RELEASE, release_lines
from memmodel_validate.ledger import Run, Source
from memmodel_validate.measured_points import POINTS, Recorded


def accuracy_lines() -> Iterator[bytes]:
    """The file of `memmodel_validate.accuracy.at_release`."""
    return release_lines(others_on_record(), gpu_ids())


def gpu_ids() -> dict[str, str]:
    """The database ids of the GPUs on record, by their names there."""
    recorded = {source.gpu: source.gpu_id for source in everything().sources.values()}
    return recorded | {table.gpu.name: table.gpu.id for table in kernel_tables()}


def points() -> Iterator[Recorded]:
    """Every time on record whose program is known, on GPUs of the database."""
    ledger = everything()
    for run in ledger.runs:
        source = ledger.sources[run.source]
        if source.gpu_id not in ("", "cpu") and {"head_dim", "mask", "dtype"} <= run.case.keys():
            yield from _points(run, source)


def _points(run: Run, source: Source) -> Iterator[Recorded]:
    """The points of a run; none where its program is not known, or its GPU lacks a rate."""
    machine, case = machine_of(source, community(source.gpu_id)), run.case
    machine = machine._replace(compiled_for=compiled_for(run, source))
    for timed in times(run):
        try:
            program = program_of(run, source)
            predicted = predicted_seconds(program, timed.phase, source, machine)
        except UsageError:
            return
        work = sum((launch.work for launch in launches(program, PHASES[timed.phase][0])), start=Work())
        flops, intensity = float(work.flops), float(work.flops) / float(work.hbm_bytes)
        what = f"{run}, {timed.phase}"
        point = MeasuredPoint(run.implementation, what, flops, intensity, timed.seconds, predicted)
        itemsize = dtype(case["dtype"]).itemsize
        yield Recorded(source.gpu_id, case["head_dim"], case["mask"], itemsize, source.name, point)


def write(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file of lines, compressed where its name says so; the same lines give the same bytes."""
    text = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


if __name__ == "__main__":
    write(AT_RELEASE, accuracy_lines())
    write(POINTS, map(msgspec.json.encode, points()))
    write(MODELS_AT_RELEASE, map(msgspec.json.encode, judge_models()))
