"""Whole models and their steps, judged: what `memmodel accuracy` says of them.

"model memory": numbers that scripts printed, digit by digit. "step memory", "step time, one GPU" and "step time":
published steps, generation and losses, and steps of Megatron-LM on eight GPUs.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from memmodel.gpus import Gpu, load_gpu
from memmodel_evidence import models, speeds, steps, whole_models
from memmodel_evidence.bands import factor_around
from memmodel_validate.comparison import Comparison

MEGATRON = "Megatron-LM on 8 GPUs"


def judge_models() -> Iterator[Comparison]:
    """Every number of a whole model or of its step; seconds of work."""
    yield from printed()
    yield from published()
    yield from _of_megatron()
    yield from _timed()


def printed() -> Iterator[Comparison]:
    """The numbers of scripts that train or run a whole model."""
    for number in whole_models.numbers():
        measured = number.run.measured[number.quantity].value
        source = number.source
        yield Comparison(
            source.gpu, "model memory", source.name, str(number), measured, number.predicted, "B", number.exact
        )


def published() -> Iterator[Comparison]:
    """Published memory."""
    runs = models.runs()
    for name, found in zip(runs, models.figures(), strict=True):
        gpu = load_gpu(runs[name]["gpu"]).name
        what = f"{name}: measured {found.measured / 2**30:.2f} GiB, predicted {found.predicted / 2**30:.2f} GiB"
        yield Comparison(gpu, "step memory", found.source, what, found.measured, found.predicted, "B")


def _of_megatron() -> Iterator[Comparison]:
    """Peaks of every rank, allocated and reserved."""
    gpu, mib = load_gpu(steps.GPU).name, 2**20
    for row in (*steps.dense(), *steps.mixtures()):
        where = f"{row.case}, rank {row.rank}"
        for kind, measured, predicted in zip(
            ("allocated", "reserved"), (row.allocated, row.reserved), steps.peaks(row), strict=True
        ):
            what = f"{where}, {kind}: measured {measured / 2**10:.2f} GiB, predicted {predicted / 2**10:.2f} GiB"
            yield Comparison(gpu, "step memory", MEGATRON, what, measured * mib, predicted * mib, "B")


class Step(NamedTuple):
    """A published step: whose table it is in, on which GPU, what it is, and its seconds, measured and predicted.

    `quantity`: "step time", and "step time, one GPU" without others.
    """

    table: str
    gpu: Gpu
    what: str
    measured: float
    predicted: float
    quantity: str = "step time"


def published_times() -> list[Step]:
    """The published steps of PyTorch's own libraries, on one GPU and on many, that no constant is fitted to."""
    found = [
        Step(one.name.split()[0], load_gpu(one.gpu), one.name, one.measured, one.predicted, "step time, one GPU")
        for one in models.speeds()
    ]
    found += [
        Step(row.table.split()[0], speeds.machine(row.gpu), str(row), row.seconds, speeds.predicted(row).seconds)
        for row in speeds.judged()
    ]
    return found


@cache
def timed_steps() -> tuple[Step, ...]:
    """Every published step that no constant is fitted to."""
    found = published_times()
    first = {row.case: row for row in reversed((*steps.dense(), *steps.mixtures()))}
    found += [
        Step(MEGATRON, load_gpu(steps.GPU), case, row.milliseconds / 1e3, steps.milliseconds(row) / 1e3)
        for case, row in sorted(first.items())
    ]
    return tuple(found)


def step_factor(without: str = "") -> float:
    """The factor around the expected time of a whole step that holds 9 of 10, by all tables or without one of them."""
    return factor_around(np.log([step.measured / step.predicted for step in timed_steps() if step.table != without]))


def _timed() -> Iterator[Comparison]:
    """The steps, each with an interval by the errors of other tables."""
    factors = {table: step_factor(table) for table in dict.fromkeys(step.table for step in timed_steps())}
    for step in timed_steps():
        what = f"{step.what}: measured {step.measured:.3f} s, predicted {step.predicted:.3f} s"
        low, high = step.predicted / factors[step.table], step.predicted * factors[step.table]
        yield Comparison(
            step.gpu.name, step.quantity, step.table, what, step.measured, step.predicted, "s",
            low=low, high=high,
        )  # fmt: skip
