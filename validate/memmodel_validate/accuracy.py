"""Today's model against runs on record: counts, exact numbers, and errors by GPU and quantity.

Memory is exact or not: a printed number counts where the model prints the same digits, a run of ours where its bytes
are equal. Times are judged only on rows that no constant was fitted to, beside the datasheet's roofline on those rows.

Our own runs are judged anew each time. Other people's need their scripts, which are in the repository (`evidence/`)
and not in the package: in a checkout they are judged anew, elsewhere `data/accuracy.jsonl.gz` says how they were at
release. A test of the repository holds that file to what the evidence computes. Steps of whole models take long to
trace: everywhere `data/models.jsonl` says how they were at release.
"""

import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import msgspec

from memmodel import __version__
from memmodel.pictures.page import Known
from memmodel_validate.comparison import Accuracy, Comparison, summaries
from memmodel_validate.ledger import read
from memmodel_validate.validation_runs import DATA, is_validation, judge_runs, shipped_runs

EVIDENCE = "memmodel_evidence"  # by name: the evidence imports this package, never the other way round
AT_RELEASE = DATA / "accuracy.jsonl.gz"
MODELS_AT_RELEASE = DATA / "models.jsonl"


def accuracy(*ledgers: str) -> Accuracy:
    """Judge the shipped runs and those in the given ledgers. Raises UsageError for a damaged file."""
    if find_spec(EVIDENCE) is not None:
        found: Accuracy = import_module(f"{EVIDENCE}.judging").accuracy(*ledgers)
        return found
    ledger = read(*ledgers, onto=shipped_runs())
    others = sum(not is_validation(ledger.sources[run.source]) for run in ledger.runs)
    needs_checkout = Counter({"other people's runs: only a checkout of the repository can judge them": others})
    return at_release()[0] + judge_runs(ledger) + models_at_release() + Accuracy((), +needs_checkout)


class _Header(msgspec.Struct):
    """The first line of the file: database ids of the GPUs by their names on record, and what was not judged."""

    gpu_ids: dict[str, str]
    left_out: dict[str, int]


@cache
def at_release() -> tuple[Accuracy, dict[str, str]]:
    """The judgement of other people's runs at release, and the database ids of their GPUs by name."""
    first, *lines = gzip.decompress(AT_RELEASE.read_bytes()).splitlines()
    header = msgspec.json.decode(first, type=_Header)
    decode = msgspec.json.Decoder(Comparison).decode
    note = f"other people's runs were compared when memmodel {__version__} was released; a checkout compares them anew"
    return Accuracy(tuple(map(decode, lines)), Counter(header.left_out), (note,)), header.gpu_ids


@cache
def models_at_release() -> Accuracy:
    """The judgement of whole models and their steps at release."""
    decode = msgspec.json.Decoder(Comparison).decode
    return Accuracy(tuple(map(decode, MODELS_AT_RELEASE.read_bytes().splitlines())), Counter())


def release_lines(found: Accuracy, gpu_ids: dict[str, str]) -> Iterator[bytes]:
    """The lines of the file that `at_release` reads."""
    yield msgspec.json.encode(_Header(gpu_ids, dict(found.left_out)))
    yield from map(msgspec.json.encode, found.comparisons)


def known_accuracy(gpu_id: str, algorithms: Iterable[str]) -> list[Known]:
    """Recorded errors of memory, and of the times of such algorithms: on one GPU, and on all."""
    kinds = {"memory", *("flash" if name.startswith("flash") else "naive" for name in algorithms)}
    kinds |= {name for name in algorithms if name == "compiled"}
    ours, (others, gpu_ids) = shipped_runs(), at_release()
    gpu_ids = gpu_ids | {source.gpu: source.gpu_id for source in ours.sources.values()}
    judged = [one for one in (others + judge_runs(ours)).comparisons if one.quantity.split()[0] in kinds]
    here = [one for one in judged if gpu_ids.get(one.gpu) == gpu_id]
    return [*_known(here, "this GPU"), *_known(judged, "all GPUs")]


def _known(judged: list[Comparison], where: str) -> Iterator[Known]:
    for found in summaries(judged, by_subject=False):
        yield Known(found.quantity, where, found.count, found.exact, found.median, found.p90, found.worst)
