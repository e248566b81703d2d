"""`--explain`: every number with its formula, its inputs and their sources."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from memmodel.attention.case import Case
from memmodel.base.units import bytes_text, decimal_text, formula_text, number_text, seconds_text
from memmodel.prediction import Prediction, Report, Time
from memmodel.report.sheet import Bullets, Sheet, below
from memmodel.report.tables import account, verdicts
from memmodel.timing import Ceiling, KernelTime

if TYPE_CHECKING:
    from memmodel.closed_forms import Formulas


def explanation(report: Report, forms: Sequence["Formulas | None"]) -> Group:
    """The whole report, number by number; `forms` are the closed forms of each prediction, or None."""
    parts: list[Any] = [
        Text(f"{report.gpu.name}: {report.predictions[0].case.describe()}", style="bold"),
        Text(),
    ]
    parts += verdicts(report)
    for prediction, form in zip(report.predictions, forms, strict=True):
        parts += [Text(f"\n{prediction.title}", style="bold underline"), *_memory(prediction, report, form)]
        parts += map(below, (Bullets("Work", _work(prediction, form)), account(prediction, most=None)))
        parts += map(below, _kernel_tables(prediction))
    parts += map(below, (Bullets("Rates", _rates(report)), Bullets("Assumed", report.assumptions)))
    return Group(*parts)


def _memory(prediction: Prediction, report: Report, form: "Formulas | None") -> Iterator[Any]:
    memory, case = prediction.memory, prediction.case
    context = "not known for this GPU"
    if memory.context_bytes is not None:
        low, high = (bytes_text(x) for x in memory.context_bytes)
        context = f"{low} to {high}: {report.gpu.source('context_high')}"
    capacity = "not known"
    if memory.capacity_bytes:
        capacity = f"{memory.capacity_bytes:,} B, as torch reports it: {report.gpu.source('capacity')}"
    tensors = ", ".join(f"{name} {bytes_text(peak)}" for name, peak in memory.phase_peaks.items())
    branch = form.winning(case) if form else None
    peak = _number(memory.live_peak_bytes, "B", form, branch and branch.expression, case)
    yield Bullets(
        "Memory",
        [
            f"live peak {peak}: the most bytes of tensors alive at once ({tensors}), counted by running the "
            "algorithm's code on tensors without data",
            f"saved {_number(memory.saved_bytes, 'B', form, form and form.saved, case)}: what autograd's rules keep of "
            "them at the end of forward",
            f"allocated peak {memory.allocated_peak_bytes:,} B: the same requests in the caching allocator's blocks, "
            f"with cuBLAS workspaces of {memory.workspace_bytes:,} B (by torch {case.torch} and GPU)",
            f"reserved peak {memory.reserved_peak_bytes:,} B: the segments that these blocks lie in, in the third step",
            f"outside the allocator: {context}",
            f"capacity: {capacity}",
        ],
    )


def _work(prediction: Prediction, form: "Formulas | None") -> list[str]:
    work, case = prediction.work, prediction.case
    flops = _number(int(work.flops), "FLOP", form, form and form.flops, case)
    traffic = _number(int(work.hbm_bytes), "B", form, form and form.hbm_bytes, case)
    return [
        f"{flops}: {work.matmul:,} of matrix products, {work.vector:,} of other arithmetic, {work.exp:,} exponentials; "
        "the sum over the kernels below, a multiply-add counted as two",
        f"HBM traffic {traffic}: each kernel's operands read once, its results written once",
        f"compulsory {prediction.compulsory_bytes:,} B: the step's inputs and outputs, each once",
        f"intensity {number_text(float(work.intensity))} FLOP/B: FLOP over HBM traffic",
    ]


def _number(value: int, unit: str, form: "Formulas | None", expression: Any, case: Case) -> str:
    """A number, with its formula if that gives the same value at these sizes."""
    if value == 0 or form is None or expression is None or form.value(expression, case) != value:
        return f"{value:,} {unit}"
    return f"{value:,} {unit} = {formula_text(expression)}"


def _kernel_tables(prediction: Prediction) -> Iterator[Any]:
    if prediction.time is None:
        yield Bullets("Kernels", prediction.notes)
    for time in (prediction.time, prediction.calibrated):
        if time is not None:
            yield _kernels(time)


def _kernels(time: Time) -> Sheet:
    """Every kernel with every ceiling, and the seconds beside them."""
    title = "Kernels by the datasheet" if time.basis == "datasheet" else f"Kernels as calibrated ({time.basis})"
    return Sheet(
        f"{title}: the slowest ceiling of each, and what comes on top",
        ("kernel", ">time", "limited by", "every ceiling: amount / rate"),
        [(k.name, seconds_text(k.seconds), k.binding.name, "\n".join(_ceilings(k))) for k in time.kernels],
    )


def _ceilings(kernel: KernelTime) -> Iterator[str]:
    for c in kernel.ceilings:
        amount = "" if c.name == "launch" else f"{decimal_text(c.amount, _unit(c.name))} / {_rate(c)} = "
        yield f"{c.name} {amount}{seconds_text(c.seconds)}"
    yield from (f"+ {name} {seconds_text(seconds)}" for name, seconds in kernel.beside.items() if seconds)


_UNITS = {
    **dict.fromkeys(("HBM", "L2", "loads in flight", "shared memory"), "B"),
    **dict.fromkeys(("exp units", "exp and fp32 units"), "exp"),
}


def _unit(ceiling: str) -> str:
    return _UNITS.get(ceiling, "FLOP")


def _rate(c: Ceiling) -> str:
    """A ceiling's rate with its unit; a launch has the time that it takes."""
    return seconds_text(c.seconds) if c.name == "launch" else decimal_text(c.rate, f"{_unit(c.name)}/s")


def _rates(report: Report) -> list[str]:
    """Each rate that a ceiling uses, with its source; by basis, so that listed and measured ones stay apart."""
    found: dict[str, None] = {}
    for prediction in report.predictions:
        for time in (prediction.time, prediction.calibrated):
            for kernel in time.kernels if time else ():
                for c in kernel.ceilings:
                    found[f"{c.name}: {_rate(c)} ({c.source})"] = None
    return sorted(found)
