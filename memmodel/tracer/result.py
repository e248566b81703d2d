"""The result of a trace, as frozen data that renders itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memmodel.gpus import Gpu
from memmodel.prediction import Memory, Time
from memmodel.program import Program
from memmodel.timeline import TensorRecord
from memmodel.tracer.advice import Advice
from memmodel.tracer.closed import Forms
from memmodel.tracer.compiled import Graphs
from memmodel.tracer.lines import Line
from memmodel.tracer.memory import Largest
from memmodel.work import Work

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, slots=True)
class Trace:
    """The memory, work and time of one step of a user's function.

    Attributes:
        title: the function's name. step: inference, forward, train or own. inputs: as written. sizes: of the letters.
        gpu, memory, work: as in a prediction. time: the datasheet's lower bound, None where a rate is not known.
        calibrated: the time to expect, None without a calibration of the GPU.
        program: the events. tensors: the account of the last step. lines: that make the peak, most first.
        forms: closed forms, None where there are none. why_no_forms: then, why.
        advice: changes that lower the peak, each verified on the events or by a trace. largest: size that fits.
            unknown: operator -> what is not known about it. notes: what else to know.
        graphs: what torch.compile made of it; None where it is traced as eager code.
    """

    title: str
    step: str
    inputs: tuple[str, ...]
    sizes: dict[str, int]
    gpu: Gpu
    memory: Memory
    work: Work
    time: Time | None
    calibrated: Time | None
    program: Program
    tensors: tuple[TensorRecord, ...]
    lines: tuple[Line, ...]
    forms: Forms | None
    why_no_forms: str
    advice: tuple[Advice, ...]
    largest: Largest | None
    unknown: dict[str, str]
    operators: int
    notes: tuple[str, ...]
    graphs: Graphs | None = None

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form."""
        from memmodel.report.trace import trace_dict

        return trace_dict(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from memmodel.report.trace import trace_parts

        yield from trace_parts(self)

    def __str__(self) -> str:
        from memmodel.report.tables import text

        return text(self)

    def _repr_html_(self) -> str:
        from memmodel.report.tables import html

        return html(self)
