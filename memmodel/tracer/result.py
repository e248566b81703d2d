"""The result of a trace, as frozen data that renders itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import DEFAULT_TORCH
from memmodel.base.errors import UsageError
from memmodel.base.rendering import Renderable, rendered
from memmodel.events.account import TensorRecord
from memmodel.events.communication import Collective
from memmodel.events.liveness import last_step
from memmodel.events.program import Mark, Program
from memmodel.events.work import Work
from memmodel.gpus import Gpu
from memmodel.prediction import AttentionKernel, Memory, Time
from memmodel.step import usage_by_event
from memmodel.tracer.advice import Advice
from memmodel.tracer.compiled import Graphs
from memmodel.tracer.formulas.closed import Forms
from memmodel.tracer.lines import SourceLine
from memmodel.tracer.ranks import RankUsage

if TYPE_CHECKING:
    from memmodel.pictures.timeline import Timeline


class Largest(NamedTuple):
    """The largest value of a letter that fits, and the next, which does not; 0 where none does, None where all do."""

    over: str
    largest: int
    first_failing: int | None


@dataclass(frozen=True, slots=True)
class Trace(Renderable):
    """The memory, work and time of one step of a user's function.

    Attributes:
        title: the function's name. step: inference, forward, train or own. inputs: as written. sizes: of the letters.
        gpu, memory, work: as in a prediction. time: the datasheet's lower bound, None where a rate is not known.
        calibrated: the time to expect, None without a calibration of the GPU.
        program: the events. tensors: the account of the last step. lines: that make the peak, most first.
        forms: closed forms, None where there are none. why_no_forms: then, why.
        advice: changes that lower the peak, each verified on the events or by a trace. largest: size that fits.
            unknown: operator -> what is not known about it. notes: what else to know.
        attention: the kernels that calls of scaled_dot_product_attention take.
        torch, config: the version and the allocator's settings that memory is for.
        ranks: of many GPUs, the memory of all, the fullest first, whose trace this is; else none.
        communication: the collectives of a step.
        host_peak_bytes: of copies of the GPU's tensors on the host, at most.
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
    lines: tuple[SourceLine, ...]
    forms: Forms | None
    why_no_forms: str
    advice: tuple[Advice, ...]
    largest: Largest | None
    unknown: dict[str, str]
    operators: int
    notes: tuple[str, ...]
    attention: tuple[AttentionKernel, ...] = ()
    graphs: Graphs | None = None
    torch: str = DEFAULT_TORCH
    config: AllocatorConfig | None = None
    ranks: tuple[RankUsage, ...] = ()
    communication: tuple[Collective, ...] = ()
    host_peak_bytes: int = 0

    @property
    def described(self) -> str:
        """The function, how it ran and its sizes, in words."""
        sizes = [f"{x}={n}" for x, n in self.sizes.items()]
        return ", ".join((self.title, self.step, *(["compiled"] if self.graphs else []), *sizes))

    def timeline(self) -> "Timeline":
        """The picture of what is in memory through the last step."""
        from memmodel.pictures.timeline import timeline_of

        step = last_step(self.program)
        usage = usage_by_event(self.program, self.torch, self.gpu, self.memory, self.config)
        own = len(step.events) - step.events.index(Mark("forward"))
        return timeline_of(step, usage[-own:], self.memory, self.gpu, self.title, self.described)

    def row(self) -> dict[str, Any]:
        """The sizes, and what they take: a row of a sweep."""
        return {
            **self.sizes,
            "live_peak_bytes": self.memory.live_peak_bytes,
            "allocated_peak_bytes": self.memory.allocated_peak_bytes,
            "reserved_peak_bytes": self.memory.reserved_peak_bytes,
            "saved_bytes": self.memory.saved_bytes,
            "fits": self.memory.fits,
            "flops": int(self.work.flops),
            "hbm_bytes": int(self.work.hbm_bytes),
        }

    def latex(self) -> str:
        """The closed forms as LaTeX, an equation a line. Raises UsageError where there are none."""
        if self.forms is None:
            raise UsageError(f"{self.title}: no formulas: {self.why_no_forms}")
        return str(rendered("latex", self.forms))
