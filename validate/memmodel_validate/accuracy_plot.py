"""Predicted against measured, as points: every number that `memmodel accuracy` judges, from the rows that it judges."""

from collections.abc import Iterable, Iterator

from memmodel_validate.judged import Judged

_LEAST = 512  # bytes: the allocator's smallest block


def plotted(judged: Iterable[Judged]) -> Iterator[Judged]:
    """Bytes and seconds; counts of events, lengths of sequences and memory below one block are left out."""
    return (one for one in judged if one.unit == "s" or (one.unit == "B" and one.measured >= _LEAST))


def accuracy_picture(judged: Iterable[Judged], kind: str) -> bytes:
    """The picture of them as an "svg" or a "png"."""
    from memmodel.report.plot_accuracy import accuracy_drawn

    found: dict[str, list[tuple[float, float]]] = {}
    for one in plotted(judged):
        found.setdefault(one.quantity, []).append((one.measured, one.predicted))
    return accuracy_drawn(found, kind)
