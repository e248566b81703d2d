"""Predicted against measured, as points: every number that `memmodel accuracy` judges, from the rows that it judges."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from memmodel_validate.judged import Judged

_TIME = re.compile(r"measured (\S+) ms, predicted (\S+) ms$")
_PRINTED = re.compile(r"printed (\S+), predicted (\S+) \((\d+) bytes\)$")
_BYTES = re.compile(r"measured (\d+), predicted (\d+)$")


class Pair(NamedTuple):
    """One number measured and predicted: bytes of memory, seconds of the other quantities."""

    quantity: str
    gpu: str
    measured: float
    predicted: float


def pairs(judged: Iterable[Judged]) -> Iterator[Pair]:
    """The pairs of judged numbers; counts of events and lengths of sequences are no bytes and are left out."""
    for one in judged:
        time, printed, plain = (pattern.search(one.what) for pattern in (_TIME, _PRINTED, _BYTES))
        if time is not None:
            yield Pair(one.quantity, one.gpu, float(time[1]) * 1e-3, float(time[2]) * 1e-3)
        elif printed is not None:
            unit = int(printed[3]) / float(printed[2]) if float(printed[2]) else 1.0  # bytes of one printed unit
            yield Pair(one.quantity, one.gpu, float(printed[1]) * unit, float(printed[3]))
        elif plain is not None and one.quantity == "memory" and int(plain[1]) >= _LEAST:
            yield Pair(one.quantity, one.gpu, float(plain[1]), float(plain[2]))


_LEAST = 512  # bytes: the allocator's smallest block


def accuracy_picture(judged: Iterable[Judged], kind: str) -> bytes:
    """The picture of them as an "svg" or a "png"."""
    from memmodel.report.plot_accuracy import accuracy_drawn

    found: dict[str, list[tuple[float, float]]] = {}
    for pair in pairs(judged):
        found.setdefault(pair.quantity, []).append((pair.measured, pair.predicted))
    return accuracy_drawn(found, kind)
