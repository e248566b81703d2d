"""How accurate the model is known to be for some algorithms: over all GPUs on record, and on one of them."""

from collections.abc import Iterable, Iterator

from memmodel.pictures.page import Known
from memmodel_validate.accuracy import accuracy
from memmodel_validate.judged import Judged, summaries
from memmodel_validate.records import shipped


def known_accuracy(gpu_id: str, algorithms: Iterable[str]) -> list[Known]:
    """Summaries of the shipped records of memory, and of the times of such algorithms."""
    kinds = {"memory", *("flash" if name.startswith("flash") else "naive" for name in algorithms)}
    kinds |= {name for name in algorithms if name == "compiled"}
    ledger = shipped()
    names = {source.gpu for source in ledger.sources.values() if source.gpu_id == gpu_id}
    judged = [one for one in accuracy(ledger).judged if one.quantity.split()[0] in kinds]
    return [*_known([j for j in judged if j.gpu in names], "this GPU"), *_known(judged, "all GPUs")]


def _known(judged: list[Judged], where: str) -> Iterator[Known]:
    for found in summaries(judged, by_subject=False):
        yield Known(found.quantity, where, found.count, found.exact, found.median, found.p90, found.worst)
