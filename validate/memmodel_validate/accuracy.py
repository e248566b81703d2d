"""Today's model against every record: counts, exact ones, and errors by GPU and quantity.

Memory is exact or not: a printed number counts where the model prints the same digits, an own run where its bytes
are equal. Times are judged only on rows that no constant was fitted to, beside the datasheet's roofline on those rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memmodel.errors import unknown
from memmodel_validate import own
from memmodel_validate.comparison import Comparison, comparison
from memmodel_validate.judged import Judged
from memmodel_validate.ledger import Ledger, Source
from memmodel_validate.records import rows
from memmodel_validate.time_accuracy import judged_times
from memmodel_validate.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Every judged number, and what of the ledger was not judged, by reason."""

    judged: tuple[Judged, ...]
    left_out: Counter[str]

    def only(self, gpu: str | None, quantity: str | None) -> "Accuracy":
        """The part of a GPU (its name contains the text) and a quantity (its name does). Raises UsageError for none."""
        found = self.judged
        for kind, text, name_of in (("GPU on record", gpu, _gpu), ("quantity on record", quantity, _quantity)):
            if text is not None:
                kept = tuple(j for j in found if _folded(text) in _folded(name_of(j)))
                if not kept:
                    raise unknown(kind, text, {name_of(j) for j in found})
                found = kept
        whole = len(found) == len(self.judged)
        return Accuracy(found, self.left_out if whole else Counter())


def _gpu(one: Judged) -> str:
    return one.gpu


def _quantity(one: Judged) -> str:
    return one.quantity


def _folded(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def accuracy(ledger: Ledger) -> Accuracy:
    """Judge a ledger."""
    left_out: Counter[str] = Counter()
    judged = [*_memory(ledger), *_own(ledger, left_out), *judged_times(ledger, left_out)]
    return Accuracy(tuple(judged), left_out)


def _memory(ledger: Ledger) -> Iterator[Judged]:
    for row in rows():
        if row.table in ledger.sources:
            for compared in comparison(row):
                yield _memory_row(compared)


def _memory_row(compared: Comparison) -> Judged:
    printed = float(compared.printed) * compared.table.unit_bytes
    source = compared.table.source
    return Judged(source.gpu, "memory", source.name, str(compared), printed, compared.predicted, "B", compared.exact)


def _own(ledger: Ledger, left_out: Counter[str]) -> Iterator[Judged]:
    """Our own runs: bytes are equal or not, and so is the longest sequence; times by the calibration made with them."""
    for name, source in ledger.sources.items():
        for verdict, plain in own.verdicts(ledger.of(name), source) if own.is_own(source) else ():
            yield from _own_memory(verdict, source)
            yield from _own_times(verdict, plain, source)
            unknown_times = sum(timing.predicted is None for timing in verdict.times)
            if unknown_times:
                left_out[f"own runs: {verdict.expected.no_time}"] += unknown_times


def _own_memory(verdict: Verdict, source: Source) -> Iterator[Judged]:
    found = [(row.quantity, row.measured, row.predicted, "B") for row in verdict.memory]
    if verdict.boundary and verdict.expected.boundary:
        ends = zip(("longest", "first that fails"), verdict.boundary, verdict.expected.boundary, strict=True)
        found += [(*end, "") for end in ends]
    if verdict.events is not None:
        found.append(("events", verdict.events.measured, verdict.events.equal, ""))
    for quantity, measured, predicted, unit in found:
        if measured is not None and predicted is not None:
            what = f"{verdict.trial.name}, {quantity}: measured {measured}, predicted {predicted}"
            machine, subject = own.machine_name(source), f"own runs, torch {source.environment['torch']}"
            yield Judged(machine, "memory", subject, what, measured, predicted, unit, measured == predicted)


def _own_times(verdict: Verdict, plain: Mapping[str, float], source: Source) -> Iterator[Judged]:
    flash = "flash" in verdict.trial.implementation
    for timing in verdict.times:
        on_gpu = f"flash {timing.quantity.replace('_', ' ')}" if flash else "naive time"
        quantity = "CPU time" if source.gpu_id == "cpu" else on_gpu
        if timing.predicted is not None:
            seconds = f"measured {timing.measured * 1e3:.4g} ms, predicted {timing.predicted * 1e3:.4g} ms"
            what = f"{verdict.trial.name}, {timing.quantity}: {seconds}"
            subject = f"own runs, torch {source.environment['torch']}"
            roofline = abs(plain[timing.quantity] / timing.measured - 1) if timing.quantity in plain else None
            machine = own.machine_name(source)
            yield Judged(machine, quantity, subject, what, timing.measured, timing.predicted, "s", None, roofline)
