"""Today's model against every record: counts, exact ones, and errors by GPU and quantity.

Memory is exact or not: a printed number counts where the model prints the same digits, an own run where its bytes
are equal. Times are judged only on rows that no constant was fitted to, beside the datasheet's roofline on those rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from memmodel.errors import UsageError, unknown
from memmodel.program import Program
from memmodel_validate import own
from memmodel_validate.comparison import Comparison, comparison
from memmodel_validate.fit import FITS, FITTED_N, KERNELS, Fit, calibration_of
from memmodel_validate.implementations import IMPLEMENTATIONS
from memmodel_validate.ledger import Ledger, Run, Source
from memmodel_validate.programs import launches
from memmodel_validate.records import rows
from memmodel_validate.times import PHASES, Timed, machine_of, predicted_seconds, program_or_reason, times
from memmodel_validate.verdict import Verdict

SHORTEST_KERNEL = 100e-6  # seconds: below it the host, the launch and L2 decide, which no table here calibrates
SHORT = f"naive attention of kernels under {SHORTEST_KERNEL * 1e6:.0f} us on average: launches and L2 decide"
QUANTITIES = ("memory", "CPU time", "naive time", "flash forward time", "flash backward time", "flash step time")


@dataclass(frozen=True, slots=True)
class Judged:
    """One recorded number beside the model's.

    Attributes:
        gpu: as the source names it. quantity: of QUANTITIES. subject: table or implementation. exact: for memory.
        error: |predicted / measured - 1|. what: the row in words.
        roofline: the error of the datasheet's roofline; None where the GPU is not known.
    """

    gpu: str
    quantity: str
    subject: str
    error: float
    what: str
    exact: bool | None = None
    roofline: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Errors of a group: how many, how many exact, mean, median, 90th percentile, worst and which row that is."""

    gpu: str
    quantity: str
    subject: str
    count: int
    exact: int | None
    mean: float
    median: float
    p90: float
    worst: float
    worst_row: str
    roofline: float | None  # median error of the datasheet's roofline on the same rows


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
    judged = [*_memory(ledger), *_own(ledger), *_times(ledger, left_out)]
    return Accuracy(tuple(judged), left_out)


def _memory(ledger: Ledger) -> Iterator[Judged]:
    for row in rows():
        if row.table in ledger.sources:
            for compared in comparison(row):
                yield _memory_row(compared)


def _memory_row(compared: Comparison) -> Judged:
    printed = float(compared.printed) * compared.table.unit_bytes
    error = 0.0 if compared.exact else abs(compared.predicted / printed - 1)
    source = compared.table.source
    return Judged(source.gpu, "memory", source.name, error, str(compared), compared.exact)


def _own(ledger: Ledger) -> Iterator[Judged]:
    """Our own runs: bytes are equal or not, and so is the longest sequence; times by the calibration made with them."""
    for name, source in ledger.sources.items():
        for verdict in own.verdicts(ledger.of(name), source) if own.is_own(source) else ():
            yield from _own_memory(verdict, source)
            yield from _own_times(verdict, source)


def _own_memory(verdict: Verdict, source: Source) -> Iterator[Judged]:
    found = [(row.quantity, row.measured, row.predicted) for row in verdict.memory]
    if verdict.boundary and verdict.expected.boundary:
        found += zip(("longest", "first that fails"), verdict.boundary, verdict.expected.boundary, strict=True)
    if verdict.events is not None:
        found.append(("events", verdict.events.measured, verdict.events.equal))
    for quantity, measured, predicted in found:
        if measured is not None and predicted is not None:
            error = abs(predicted / measured - 1) if measured else float(predicted != measured)
            what = f"{verdict.trial.name}, {quantity}: measured {measured}, predicted {predicted}"
            machine, subject = own.machine_name(source), f"own runs, torch {source.environment['torch']}"
            yield Judged(machine, "memory", subject, error, what, measured == predicted)


def _own_times(verdict: Verdict, source: Source) -> Iterator[Judged]:
    flash = "flash" in verdict.trial.implementation
    for timing in verdict.times:
        on_gpu = f"flash {timing.quantity.replace('_', ' ')}" if flash else "naive time"
        quantity = "CPU time" if source.gpu_id == "cpu" else on_gpu
        if timing.ratio is not None and timing.predicted is not None:
            seconds = f"measured {timing.measured * 1e3:.4g} ms, predicted {timing.predicted * 1e3:.4g} ms"
            what = f"{verdict.trial.name}, {timing.quantity}: {seconds}"
            subject = f"own runs, torch {source.environment['torch']}"
            yield Judged(own.machine_name(source), quantity, subject, abs(timing.ratio - 1), what)


def _times(ledger: Ledger, left_out: Counter[str]) -> Iterator[Judged]:
    for run in ledger.runs:
        timed = list(times(run))
        if not timed:
            continue
        source = ledger.sources[run.source]
        if own.is_own(source):
            continue
        fit = _fit_of(run, source)
        program, reason = program_or_reason(run, source)
        for one in timed:
            skipped = reason or _not_judged(one, fit, source)
            if not skipped and program is not None and fit is not None:
                judged = _judged(one, program, source, fit)
                skipped = "" if judged else SHORT
                if judged:
                    yield judged
            if skipped:
                left_out[skipped] += 1


def _not_judged(timed: Timed, fit: Fit | None, source: Source) -> str:
    """Why a time is not judged; empty where it is."""
    if fit is None:
        return "no calibration is fitted to its table or kernel"
    if fit.trains_on(timed):
        return "constants are fitted to it"
    if fit.flash and not source.gpu_id:
        return "its GPU is not stated"
    if not fit.flash and f"matmul.{timed.run.case['dtype']}" not in calibration_of(fit.name).constants:
        return "no constants are fitted to its type on its GPU"
    if not fit.flash and timed.run.case["seq"] < FITTED_N:
        return f"naive attention below n = {FITTED_N}: dispatch and L2 decide"
    if fit.flash and timed.phase != "forward" and not IMPLEMENTATIONS[fit.implementation].backward:
        return "this kernel's backward is not known"
    return ""


def _judged(timed: Timed, program: Program, source: Source, fit: Fit) -> Judged | None:
    predicted = predicted_seconds(program, timed.phase, source, machine_of(source, calibration_of(fit.name)))
    if not fit.flash and predicted < SHORTEST_KERNEL * len(launches(program, PHASES[timed.phase][0])):
        return None
    quantity = f"flash {timed.phase} time" if fit.flash else "naive time"
    what = f"{timed.run}, {timed.phase}: measured {timed.seconds * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms"
    error = abs(predicted / timed.seconds - 1)
    return Judged(source.gpu, quantity, _subject(timed.run), error, what, None, _plain(timed, program, source))


def _subject(run: Run) -> str:
    """The kernel of a published figure, the table of another."""
    return run.implementation if run.implementation in KERNELS else run.source


def _plain(timed: Timed, program: Program, source: Source) -> float | None:
    """The error of the datasheet's roofline; None where the GPU or one of its rates is not known."""
    try:
        return abs(predicted_seconds(program, timed.phase, source, machine_of(source, None)) / timed.seconds - 1)
    except UsageError:
        return None


def _fit_of(run: Run, source: Source) -> Fit | None:
    """The fit that a run is judged by: that of its table, or of its kernel, on its GPU if there is one."""
    fits = [fit for fit in FITS if fit.judges(run)]
    return next((fit for fit in fits if fit.gpu == source.gpu_id), fits[0] if fits else None)


def summaries(judged: Iterable[Judged], by_subject: bool = True) -> list[Summary]:
    """Judged numbers by quantity, GPU and subject; or by quantity alone."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for one in judged:
        key = (one.quantity, one.gpu, one.subject) if by_subject else (one.quantity, "all", "")
        groups.setdefault(key, []).append(one)
    return [
        _summary(key, found) for key, found in sorted(groups.items(), key=lambda item: QUANTITIES.index(item[0][0]))
    ]


def _summary(key: tuple[str, str, str], found: Sequence[Judged]) -> Summary:
    errors = [one.error for one in found]
    exact = [one.exact for one in found if one.exact is not None]
    plain = [one.roofline for one in found if one.roofline is not None]
    worst = max(found, key=lambda one: one.error)
    quantity, gpu, subject = key
    return Summary(
        gpu,
        quantity,
        subject,
        len(found),
        sum(exact) if exact else None,
        fmean(errors),
        median(errors),
        percentile(errors, 0.9),
        worst.error,
        worst.what,
        median(plain) if plain else None,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, linear between them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
