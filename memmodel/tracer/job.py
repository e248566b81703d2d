"""A job: a function to trace with its sizes, GPU and torch version; it runs the step until that is steady."""

from collections.abc import Mapping
from dataclasses import dataclass

from memmodel.allocator import AllocatorConfig
from memmodel.cublas import parse_torch_version
from memmodel.gpus import Gpu
from memmodel.timing import Calibration, Machine
from memmodel.tracer.compiled import Chip, Graphs
from memmodel.tracer.watch.run import Setting, Traced, traced


@dataclass(frozen=True, slots=True)
class Job:
    """A function to trace, and the machine that its memory is predicted for.

    Attributes:
        setting: the function and how it runs.
        sizes: letter -> size.
        gpu, version, config: the GPU, torch's version and the allocator's settings.
        compiled: whether the function is passed to torch.compile.
    """

    setting: Setting
    sizes: dict[str, int]
    gpu: Gpu
    version: str
    config: AllocatorConfig | None
    compiled: bool = False

    def machine(self, rates: Calibration | None) -> Machine:
        """The GPU for the time model, with a calibration's rates or the datasheet's alone."""
        return Machine(self.gpu, rates, torch=parse_torch_version(self.version))

    def steady(self) -> tuple[Traced, Graphs | None]:
        """The steady step at the sizes asked for; after torch.compile, with what it compiled."""
        return self._run(self.setting, self.sizes)

    def run(self, setting: Setting, sizes: Mapping[str, int]) -> Traced:
        """The steady step of another function or of other sizes."""
        return self._run(setting, sizes)[0]

    def _run(self, setting: Setting, sizes: Mapping[str, int]) -> tuple[Traced, Graphs | None]:
        if not self.compiled:
            return _steady(setting, sizes), None
        from memmodel.tracer.compiled.run import steady_compiled

        return steady_compiled(setting, sizes, Chip(setting.backends.arch, self.gpu.sm_count))


def _steady(setting: Setting, sizes: Mapping[str, int]) -> Traced:
    """The step once where it leaves nothing behind, else three times over: its caches are filled by the last.

    A rank's is never alone: FSDP2 and DistributedDataParallel set themselves up in the first.
    """
    return traced(setting._replace(iterations=3, until_it_repeats=True), sizes)
