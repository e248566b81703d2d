"""A job: a function to trace with its sizes, GPU and torch version; it runs the step until that is steady."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import parse_torch_version
from memmodel.gpus import Gpu
from memmodel.timing import Calibration, Machine
from memmodel.tracer.alike import Alike, Known, extrapolated
from memmodel.tracer.compiled import Graphs
from memmodel.tracer.target import Script
from memmodel.tracer.watch.run import Setting, Traced, traced


class Steady(NamedTuple):
    """A steady step, the graphs that torch.compile made of it, and the few layers from which it is extrapolated."""

    traced: Traced
    graphs: Graphs | None = None
    alike: Alike | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A function to trace, and the machine that its memory is predicted for.

    Attributes:
        setting: the function and how it runs.
        sizes: letter -> size.
        gpu, version, config: the GPU, torch's version and the allocator's settings.
        compiled: whether the function is passed to torch.compile.
        say: called with what is traced next.
        known: of the layers of a script, which is run again as each rank.
    """

    setting: Setting
    sizes: dict[str, int]
    gpu: Gpu
    version: str
    config: AllocatorConfig | None
    compiled: bool = False
    say: Callable[[str], None] = lambda _: None
    known: Known = field(default_factory=Known)

    def machine(self, rates: Calibration | None) -> Machine:
        """The GPU for the time model, with a calibration's rates or the datasheet's alone."""
        return Machine(self.gpu, rates, torch=parse_torch_version(self.version))

    def steady(self) -> Steady:
        """The steady step at the sizes asked for."""
        return self._run(self.setting, self.sizes)

    def run(self, setting: Setting, sizes: Mapping[str, int]) -> Traced:
        """The steady step of another function or of other sizes."""
        return self._run(setting, sizes).traced

    def _run(self, setting: Setting, sizes: Mapping[str, int]) -> Steady:
        if not self.compiled:
            known = self.known if isinstance(setting.function, Script) else None
            alike = extrapolated(setting, lambda shorter: self._steady(shorter, sizes), known)
            return Steady(self._steady(setting, sizes) if alike is None else alike.whole, alike=alike)
        from memmodel.tracer.compiled.run import steady_compiled

        return Steady(*steady_compiled(setting, sizes, setting.chip))

    def _steady(self, setting: Setting, sizes: Mapping[str, int]) -> Traced:
        """The step once where it leaves nothing behind, else three times over: its caches are filled by the last.

        A rank's is never alone: FSDP2 and DistributedDataParallel set themselves up in the first.
        """
        kept = setting.layers.kept
        few = "" if kept is None else f", {kept} alike layers"
        self.say(f"tracing {', '.join(f'{x}={n}' for x, n in sizes.items())}{few}")
        return traced(setting._replace(iterations=3, until_it_repeats=True), sizes)
