"""Whole models and their steps, judged: what `memmodel accuracy` says of them.

"model memory": numbers that scripts printed, digit by digit. "step memory" and "step time": published steps, generation
and losses, and steps of Megatron-LM on eight GPUs; "compiled step time": steps of compiled layers, which the time model
takes for eager ones.
"""

from collections.abc import Iterator

from memmodel.gpus import load_gpu
from memmodel_evidence import models, steps, whole_models
from memmodel_validate.comparison import Comparison

MEGATRON = "Megatron-LM on 8 GPUs"


def judge_models() -> Iterator[Comparison]:
    """Every number of a whole model or of its step; seconds of work."""
    yield from printed()
    yield from published()
    yield from _of_megatron()


def printed() -> Iterator[Comparison]:
    """The numbers of scripts that train or run a whole model."""
    for number in whole_models.numbers():
        measured = number.run.measured[number.quantity].value
        source = number.source
        yield Comparison(
            source.gpu, "model memory", source.name, str(number), measured, number.predicted, "B", number.exact
        )


def published() -> Iterator[Comparison]:
    """Published memory and speed."""
    runs = models.runs()
    for name in runs:
        found = models.figure(name)
        gpu = load_gpu(runs[name]["gpu"]).name
        what = f"{name}: measured {found.measured / 2**30:.2f} GiB, predicted {found.predicted / 2**30:.2f} GiB"
        yield Comparison(gpu, "step memory", found.source, what, found.measured, found.predicted, "B")
    for speed in models.speeds():
        quantity = "compiled step time" if speed.compiled else "step time"
        what = f"{speed.name}: measured {speed.measured:.3f} s, predicted {speed.predicted:.3f} s"
        yield Comparison(
            load_gpu(speed.gpu).name, quantity, speed.name.split()[0], what, speed.measured, speed.predicted, "s",
            low=speed.low, high=speed.high,
        )  # fmt: skip


def _of_megatron() -> Iterator[Comparison]:
    """Peaks of every rank, allocated and reserved, and the time of every case's step."""
    gpu, timed = load_gpu(steps.GPU).name, set[str]()
    for row in (*steps.dense(), *steps.mixtures()):
        where = f"{row.case}, rank {row.rank}"
        for kind, measured, predicted in zip(
            ("allocated", "reserved"), (row.allocated, row.reserved), steps.peaks(row), strict=True
        ):
            what = f"{where}, {kind}: measured {measured / 2**10:.2f} GiB, predicted {predicted / 2**10:.2f} GiB"
            mib = 2**20
            yield Comparison(gpu, "step memory", MEGATRON, what, measured * mib, predicted * mib, "B")
        if row.case not in timed:
            timed.add(row.case)
            took, predicted = row.milliseconds, steps.milliseconds(row)
            what = f"{row.case}: measured {took / 1e3:.3f} s, predicted {predicted / 1e3:.3f} s"
            yield Comparison(gpu, "step time", MEGATRON, what, took / 1e3, predicted / 1e3, "s")
