"""A step of a whole model: the verdict, what fills its peak by group, its time, and changes that lower its memory."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from memmodel.base.units import bytes_text, decimal_text, number_text, percent_text, seconds_text
from memmodel.events.groups import ACTIVATIONS, COMMUNICATION, GRADIENTS, OPTIMIZER, PARAMETERS, by_kind
from memmodel.models.capacity import ModelThreshold
from memmodel.models.letters import ModelFormulas, in_words
from memmodel.models.results import ModelPrediction, ModelReport
from memmodel.models.serving import Serving
from memmodel.models.setting import ModelCase
from memmodel.models.step_time import StepTime
from memmodel.report.groups import group_table
from memmodel.report.rows import interval_text
from memmodel.report.sheet import Bullets, Phrases, Sheet, below
from memmodel.report.tables import in_words_of, mitigations, verdict

if TYPE_CHECKING:
    from memmodel.tracer.against import Against

_MODULES = 12  # of Hugging Face's, that keep most
_NOTHING = 1e-9  # seconds: sums that cancel


def model_parts(report: ModelReport) -> Iterator[Any]:
    """The first screen, part by part."""
    prediction = report.prediction
    yield Text.assemble((report.gpu.name, "bold"), f": {prediction.case.arch.name}, {prediction.case.describe()}")
    yield _of_parameters(prediction)
    yield Text()
    yield verdict(prediction.memory, f"{prediction.title} ")
    if len(prediction.ranks) > 1:
        yield below(rank_table(prediction))
    yield below(group_table(prediction.memory, prediction.formulas))
    yield Text(peak_words(prediction))
    yield below(time_table(report))
    if report.serving:
        yield below(serving_table(report.serving, prediction.case))
    if report.mitigations:
        yield below(mitigations(report))
    yield below(Bullets("Assumed", report.assumptions))
    if prediction.notes:
        yield Bullets("Notes", prediction.notes)


def prediction_parts(prediction: ModelPrediction) -> Iterator[Any]:
    """What fills the peak of one prediction."""
    yield group_table(prediction.memory, prediction.formulas)


def peak_words(prediction: ModelPrediction) -> str:
    """Where the peak is, and what the letters of its formulas stand for."""
    letters = in_words(prediction.formulas.values())
    return f"The peak is {prediction.peak.words}." + (f" Letters: {letters}." if letters else "")


def _of_parameters(prediction: ModelPrediction) -> Phrases:
    total = sum(prediction.parameters.values())
    parts = [f"{part} {percent_text(count, total)}" for part, count in prediction.parameters.items()]
    return Phrases(f"{total:,} parameters:", parts, "dim")


def rank_table(prediction: ModelPrediction) -> Sheet:
    """What fills the peak of the ranks of each kind, in GiB; the fullest is marked."""
    kinds = (PARAMETERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, COMMUNICATION)
    rows = []
    digits = 2 if all(one.memory.reserved_peak_bytes < 100 * 2**30 for one in prediction.ranks) else 1
    for one in prediction.ranks:
        memory, groups = one.memory, by_kind(one.memory.groups)
        sizes = [groups.get(kind, 0) for kind in kinds]
        rest = memory.allocated_peak_bytes - sum(sizes)
        found = (*sizes, rest, memory.allocated_peak_bytes, memory.reserved_peak_bytes)
        mark = "*" if one.rank == prediction.case.rank else ""
        rows.append((f"{one.title}{mark}", f"{one.ranks:,}", *(f"{size / 2**30:,.{digits}f}" for size in found)))
    columns = ("|GiB", ">ranks", ">weights", ">grads", ">optim", ">activ", ">comm", ">rest", ">peak", ">reserved")
    return Sheet("What fills the peak of each rank (* the fullest, described below)", columns, rows)


def time_table(report: ModelReport) -> Sheet:
    """The step's work, its time, and what that makes of the GPU."""
    prediction = report.prediction
    time, expected, efficiency = prediction.time, prediction.calibrated, prediction.efficiency
    # On many GPUs the work is that of one rank.
    here = " on this GPU" if prediction.case.layout.world > 1 else ""
    rows = [
        ("FLOP", f"{decimal_text(prediction.work.flops, 'FLOP')}{here}; {_needed(prediction)}"),
        ("HBM traffic", f"{bytes_text(prediction.work.hbm_bytes)}{here}"),
        ("time, at least", seconds_text(time.seconds) if time else "-"),
    ]
    if expected:
        rows.append(("time, expected", seconds_text(expected.seconds)))
    if interval := interval_text(expected):
        rows.append(("90 % of runs", interval))
    best = expected or time
    if prediction.step:
        rows += _of_many(prediction.step)
    if best and len(best.phases) > 1:
        rows.append(("of which", ", ".join(f"{name} {seconds_text(one)}" for name, one in best.phases.items())))
    if efficiency:
        rows.append(("tokens a second", f"{number_text(efficiency.tokens_per_second)}{'' if expected else ' at most'}"))
        if efficiency.mfu is not None:
            rows.append(("MFU", f"{100 * efficiency.mfu:.1f} %{'' if expected else ' at most'}"))
    if best:
        rows.append(("limited by", f"{best.binding} ({percent_text(best.shares[best.binding], best.seconds)})"))
    return Sheet("", ("|one step", ""), [(name, in_words_of(report.gpu, cell)) for name, cell in rows])


def _of_many(step: StepTime) -> Iterator[tuple[str, str]]:
    """What a step on many GPUs is made of, beside its kernels."""
    hidden = f", {seconds_text(step.overlapped)} hidden behind kernels" if step.overlapped > _NOTHING else ""
    yield "communication", f"{seconds_text(step.exposed)} exposed ({percent_text(step.exposed, step.seconds)}){hidden}"
    if step.bubble:
        yield "pipeline bubble", f"{seconds_text(step.bubble)} ({percent_text(step.bubble, step.seconds)})"


def against_parts(report: ModelReport, found: "Against") -> Iterator[Any]:
    """Our step's live peak beside that of Hugging Face's class, by group and by part, and what its modules keep."""
    case = report.prediction.case
    yield Text.assemble((report.gpu.name, "bold"), f": {case.arch.name}, {case.describe()}")
    yield Text()
    rows = [(kind, *_both(ours, theirs)) for kind, (ours, theirs) in found.kinds.items()]
    rows.append(("live peak", *_both(found.ours, found.theirs)))
    yield Sheet("What fills the live peaks", ("|group", ">ours", f">{found.title}", ">differs"), rows, total=True)
    rows = [(part, *_both(ours, theirs)) for part, (ours, theirs) in found.parts.items()]
    yield below(Sheet("Kept for backward, by part", ("|part", ">ours", f">{found.title}", ">differs"), rows))
    kept = sorted(found.modules.items(), key=lambda one: -one[1])
    if kept:
        shown = [(group, bytes_text(nbytes)) for group, nbytes in kept[:_MODULES]]
        yield below(Sheet(f"What modules of {found.title} keep at its peak", ("module", ">bytes"), shown))
    yield below(Bullets("Assumed", [*report.assumptions, *found.notes]))


def _both(ours: int, theirs: int) -> tuple[str, str, str]:
    share = f"{100 * (ours / theirs - 1):+.2f} %" if theirs else "-"
    return bytes_text(ours), bytes_text(theirs), "same" if ours == theirs else share


def formula_parts(found: ModelFormulas) -> Iterator[Any]:
    """What is kept for backward, and what is alive at the peak, in letters."""
    sizes = ", ".join(f"{letter} = {value}" for letter, value in found.values.items())
    yield Text.assemble((found.model, "bold"), f": {found.phase}, {found.dtype}, {sizes}")
    for title, formulas in (("Kept for backward", found.saved), ("At the live peak", found.peak)):
        if formulas:
            yield below(Sheet(title, ("|group", "bytes"), list(formulas.items())))


def model_threshold_table(thresholds: Sequence[ModelThreshold]) -> Sheet:
    """The largest batch or sequences that fit, by GPU."""
    first = thresholds[0]
    rows = [
        (
            t.gpu.id,
            f"{t.largest:,}",
            _first_failing(t),
            bytes_text(t.memory.allocated_peak_bytes) if t.memory else "-",
            bytes_text(t.memory.reserved_peak_bytes) if t.memory else "-",
        )
        for t in thresholds
    ]
    title = f"the largest {first.over} that fits: {first.case.arch.name}, {first.case.describe(without=first.over)}"
    return Sheet(title, ("|GPU", ">largest", ">first that fails", ">allocated", ">reserved"), rows)


def _first_failing(found: ModelThreshold) -> str:
    if found.first_failing is not None:
        return f"{found.first_failing:,}"
    ends = found.over == "seq" and found.case.arch.most_tokens is not None
    return "none: positions end" if ends else "none"


def serving_table(serving: Serving, case: ModelCase) -> Sheet:
    """What a token and a sequence take, how much fits, and the times of a prompt and a token."""
    made_for = f" (the model is made for {case.arch.max_pos:,})"
    rows = [
        ("weights", f"{bytes_text(serving.weight_bytes)}, {number_text(serving.bits)} bits a parameter"),
        ("cache, one more token", bytes_text(serving.token_bytes)),
        (f"cache, {case.seq:,} token{'s' * (case.seq != 1)}", bytes_text(serving.sequence_bytes)),
    ]
    longest = serving.longest_context
    if longest is not None:
        beyond = made_for if longest > case.arch.max_pos else ""
        rows.append((f"longest context, batch {case.batch}", f"{longest:,} tokens{beyond}" if longest else "none fits"))
    if serving.most_sequences is not None:
        rows.append((f"sequences of {case.seq:,}", f"{serving.most_sequences:,}"))
    for name, seconds in (
        (f"prompts of {case.seq:,}, first token", serving.first_token_seconds),
        ("a token, eager", serving.token_seconds),
        ("a token, kernels alone", serving.graph_seconds),
    ):
        rows += [(name, seconds_text(seconds))] if seconds is not None else []
    return Sheet("Serving", ("|", ""), rows)


def _needed(prediction: ModelPrediction) -> str:
    """The FLOP that the step needs of a GPU; of several, on average."""
    gpus = prediction.case.layout.world
    return f"{decimal_text(prediction.model_flops / gpus, 'FLOP')}{' a GPU' if gpus > 1 else ''} by weights and scores"
