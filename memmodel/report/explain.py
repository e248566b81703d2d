"""`--explain`: every number with its formula, its inputs and where they come from."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from memmodel.prediction import Prediction, Report
from memmodel.report.tables import account_table, bullets, verdicts
from memmodel.roofline import LAUNCH_SECONDS
from memmodel.units import bytes_text, decimal_text, seconds_text


def explanation(report: Report) -> Group:
    """The whole report, number by number."""
    parts: list[Any] = [
        Text(f"{report.gpu.name}: {report.predictions[0].case.describe()}", style="bold"),
        Text(),
    ]
    parts += verdicts(report)
    for prediction in report.predictions:
        parts += [Text(f"\n{prediction.title}", style="bold underline"), *_memory(prediction, report)]
        parts += [Text(), account_table(prediction, rows=None), Text(), _kernels(prediction)]
    parts += [Text(), bullets("Rates", _rates(report)), Text(), bullets("Assumed", report.assumptions)]
    return Group(*parts)


def _memory(prediction: Prediction, report: Report) -> Iterator[Any]:
    memory = prediction.memory
    context = "not known for this GPU"
    if memory.context_bytes is not None:
        low, high = (bytes_text(x) for x in memory.context_bytes)
        context = f"{low} to {high}: {report.gpu.source('context_high')}"
    capacity = "not known"
    if memory.capacity_bytes:
        capacity = f"{memory.capacity_bytes:,} B, as torch reports it: {report.gpu.source('capacity')}"
    tensors = ", ".join(f"{name} {bytes_text(peak)}" for name, peak in memory.phase_peaks.items())
    yield bullets(
        "Memory",
        [
            f"live peak {memory.live_peak_bytes:,} B: the most bytes of tensors alive at once ({tensors}), "
            "counted by running the algorithm's code on tensors without data",
            f"saved {memory.saved_bytes:,} B: what autograd's rules keep of them at the end of forward",
            f"allocated peak {memory.allocated_peak_bytes:,} B: the same requests in the caching allocator's blocks, "
            f"with cuBLAS workspaces of {memory.workspace_bytes:,} B (by torch {prediction.case.torch} and GPU)",
            f"reserved peak {memory.reserved_peak_bytes:,} B: the segments that these blocks lie in, in the third step",
            f"outside the allocator: {context}",
            f"capacity: {capacity}",
        ],
    )


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
