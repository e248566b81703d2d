"""`--explain`: every number with its formula, its inputs and where they come from."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from memmodel.case import Case
from memmodel.prediction import Prediction, Report
from memmodel.report.tables import account_table, bullets, verdicts
from memmodel.roofline import LAUNCH_SECONDS
from memmodel.units import bytes_text, decimal_text, seconds_text

if TYPE_CHECKING:
    from memmodel.closed_forms import Formulas


def explanation(report: Report, forms: Sequence["Formulas | None"]) -> Group:
    """The whole report, number by number; `forms` are the closed forms of each prediction, where there are any."""
    parts: list[Any] = [
        Text(f"{report.gpu.name}: {report.predictions[0].case.describe()}", style="bold"),
        Text(),
    ]
    parts += verdicts(report)
    for prediction, form in zip(report.predictions, forms, strict=True):
        parts += [Text(f"\n{prediction.title}", style="bold underline"), *_memory(prediction, report, form)]
        parts += [Text(), bullets("Work", _work(prediction, form))]
        parts += [Text(), account_table(prediction, rows=None), Text(), _kernels(prediction)]
    parts += [Text(), bullets("Rates", _rates(report)), Text(), bullets("Assumed", report.assumptions)]
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
    yield bullets(
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
        f"intensity {float(work.intensity):.4g} FLOP/B: FLOP over HBM traffic",
    ]


def _number(value: int, unit: str, form: "Formulas | None", expression: Any, case: Case) -> str:
    """A number and, where there is one that holds at these sizes, its formula."""
    if value == 0 or form is None or expression is None or form.value(expression, case) != value:
        return f"{value:,} {unit}"
    from memmodel.report.formulas import plain

    return f"{value:,} {unit} = {plain(expression)}"


def _kernels(prediction: Prediction) -> Table:
    table = Table(
        title=f"Kernels: the slowest ceiling of each, plus {seconds_text(LAUNCH_SECONDS)} for a launch",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for name in ("kernel", "time", "limited by", "every ceiling: amount / rate"):
        table.add_column(name, justify="right" if name == "time" else "left", overflow="fold")
    if prediction.time is None:
        table.add_row("-", "-", "-", "; ".join(prediction.notes))
        return table
    for kernel in prediction.time.kernels:
        ceilings = "\n".join(
            f"{c.name} {decimal_text(c.amount, _unit(c.name))} / {decimal_text(c.rate, _unit(c.name) + '/s')}"
            f" = {seconds_text(c.seconds)}"
            for c in kernel.ceilings
        )
        table.add_row(kernel.name, seconds_text(kernel.seconds), kernel.binding.name, ceilings)
    return table


def _unit(ceiling: str) -> str:
    return {"HBM": "B", "exp units": "exp"}.get(ceiling, "FLOP")


def _rates(report: Report) -> list[str]:
    found: dict[str, str] = {}
    for prediction in report.predictions:
        for kernel in prediction.time.kernels if prediction.time else ():
            for c in kernel.ceilings:
                found[c.name] = (
                    f"{c.name}: {decimal_text(c.rate, _unit(c.name) + '/s')} ({report.gpu.source(c.quantity)})"
                )
    return sorted(found.values())
