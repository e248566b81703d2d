"""Recorded memory of whole models: each row's script traced, replayed through the allocator, and printed as it printed.

`python -m memmodel_evidence.whole_models` compares every number; a trace takes seconds, so that what was traced is kept
in data/whole_models.json, which `--again` writes anew.
"""

import json
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import cache, lru_cache
from math import floor
from pathlib import Path
from typing import NamedTuple

from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import Workspace, parse_torch_version, workspace
from memmodel.events.liveness import phase_peaks
from memmodel.events.program import Alloc, Event, Free, Launch, Mark, Program, Release, Save
from memmodel.events.replay import Replay, replay
from memmodel.step import device_of
from memmodel_evidence.memory import compute_capability
from memmodel_evidence.records import DATA, everything
from memmodel_evidence.times import gpu_of
from memmodel_validate.ledger import UNITS, Run, Source

TRACED = DATA / "whole_models.json"
_FEW = 4  # checkpoints, or layers, that are traced
# Layers, width, inner width of the feed-forward, heads.
SIZES = {
    "small": (12, 768, 3072, 12),
    "medium": (24, 1024, 4096, 16),
    "large": (36, 1280, 5120, 20),
    "xl": (32, 2560, 10240, 32),
    "gpt-xl": (48, 1600, 6400, 25),
}


class Number(NamedTuple):
    """A printed number of a row, and the prediction in bytes."""

    source: Source
    run: Run
    quantity: str
    predicted: int

    @property
    def text(self) -> str:
        """As it was printed."""
        return self.run.measured[self.quantity].printed

    @property
    def as_text(self) -> str:
        """The prediction, as the script would have printed it."""
        printed = self.predicted / UNITS[self.run.measured[self.quantity].unit][1]
        if _of_a_picture(self.source):
            printed = floor(printed)
        return format(printed, self.source.protocol["model_format"])

    @property
    def exact(self) -> bool:
        """Whether the script would have printed the prediction just so."""
        return float(self.as_text) == float(self.text)

    @property
    def error(self) -> float:
        """|predicted / printed - 1|; 0 where it is exact."""
        return 0.0 if self.exact else abs(self.predicted / self.run.measured[self.quantity].value - 1)

    def __str__(self) -> str:
        return f"{self.run}, {self.quantity}: printed {self.text}, predicted {self.as_text} ({self.predicted} bytes)"


@cache
def runs() -> tuple[Run, ...]:
    """The rows of whole models that did not run out of memory."""
    sources = everything().sources
    return tuple(run for run in everything().runs if "model_format" in sources[run.source].protocol and run.measured)


def numbers() -> Iterator[Number]:
    """Every number of a row that was traced before."""
    known = json.loads(TRACED.read_text(encoding="utf-8"))
    for run in runs():
        for quantity, predicted in known.get(str(run), {}).items():
            yield Number(everything().sources[run.source], run, quantity, predicted)


def untraced() -> list[Run]:
    """The rows that no trace is kept of."""
    known = json.loads(TRACED.read_text(encoding="utf-8"))
    return [run for run in runs() if str(run) not in known]


def predicted(run: Run) -> dict[str, int]:
    """The bytes of each quantity of a row: its script is traced and replayed."""
    from memmodel_evidence.harnesses.model_steps import script_of

    source, script = everything().sources[run.source], script_of(run.source, run.case)
    program = _in_one_process([_program(name) for name in _process(run)])
    if _of_a_picture(source):
        return dict.fromkeys(run.measured, _requested_peak(program, _workspace(source)))
    found = _replayed(program, source, script.emptied)
    last = max(i for i, (name, _) in enumerate(found.phases) if name == "forward")
    phases = found.phases if script.whole_run else found.phases[last:]
    values = {
        "mem_after_inputs": phases[-1][1].allocated_end,
        "allocated_peak": max(usage.allocated_peak for _, usage in phases),
        "reserved_peak": max(usage.reserved_peak for _, usage in phases),
    }
    return {quantity: int(values[quantity]) for quantity in run.measured}


def _process(run: Run) -> list[str]:
    """The rows that ran in one process up to this one, in order, by name."""
    from memmodel_evidence.harnesses.model_steps import place_in_process

    mine = place_in_process(run.source, run.case)
    if mine is None:
        return [str(run)]
    places = {str(row): place_in_process(row.source, row.case) for row in runs()}
    return [name for place, name in sorted((place, name) for name, place in places.items() if place) if place <= mine]


def _in_one_process(programs: Sequence[Program]) -> Program:
    """The programs one after another: what one leaves is freed before the next, but for cuBLAS's workspaces."""
    events: list[Event] = []
    for program in programs:
        alive = dict.fromkeys(event.key for event in events if isinstance(event, Alloc))
        for event in events:
            if isinstance(event, Free):
                del alive[event.key]
        first = 1 + max((event.key for event in events if isinstance(event, Alloc)), default=-1)
        events += map(Free, alive)
        events += (x._replace(key=x.key + first) if isinstance(x, Alloc | Free) else x for x in program.events)
    return programs[-1]._replace(events=[event for event in events if not isinstance(event, Save | Release)])


@lru_cache(maxsize=8)  # a process has as many rows
def _program(name: str) -> Program:
    """The steps of a row's script, of which the last is steady; layers beyond the first few are like these."""
    (run, *_) = (run for run in runs() if str(run) == name)
    source = everything().sources[run.source]
    from memmodel.rules.sdpa import Backends
    from memmodel.tracer.growth import Growth
    from memmodel.tracer.specs import inputs_of
    from memmodel.tracer.watch.alike import AlikeLayers
    from memmodel.tracer.watch.run import Setting, traced
    from memmodel_evidence.harnesses.language_model import without_data
    from memmodel_evidence.harnesses.model_steps import script_of

    case, layers = run.case, SIZES[run.case["model"]][0]
    model, gpu = without_data(*SIZES[case["model"]], case["seq"], case.get("checkpoint", 0)), gpu_of(source)
    script = script_of(run.source, case)
    step = script.step(model, case)
    shape = f"{case['batch']},{case['seq']}:int64"
    major, minor = compute_capability(source)
    backends = Backends(10 * major + minor, parse_torch_version(source.environment["torch"]))
    setting = Setting(
        step, inputs_of({"tokens": shape, "targets": shape}), "own", device_of(gpu), backends,
        iterations=script.steps or 3, until_it_repeats=not script.steps,
    )  # fmt: skip
    period = case.get("checkpoint", 1)
    if _FEW * period >= layers:
        return _settled(traced(setting, {}).program)
    fewer, few = (traced(setting._replace(layers=AlikeLayers(kept=count * period)), {}) for count in (_FEW - 1, _FEW))
    return _settled(Growth(fewer, few).at(layers // period - _FEW)[0].program)


def _settled(program: Program) -> Program:
    """The program with at least three steps: a step that leaves nothing behind was traced once."""
    from memmodel.tracer.watch.once_more import Again

    while sum(isinstance(event, Mark) and event.phase == "forward" for event in program.events) < 3:
        program = Again(program, max(birth.key for birth in program.births())).program
    return program


def _replayed(program: Program, source: Source, emptied: bool) -> Replay:
    """The steps on the allocator, whose cache is emptied before a row of the same process, and before the last step."""
    names = [event.phase for event in program.events if isinstance(event, Mark)]
    starts = [i for i, name in enumerate(names, 1) if name == "inputs"]
    last = max(i for i, name in enumerate(names, 1) if name == "forward")
    return replay(program, _Emptied({*starts, last} if emptied else set()), _workspace(source))


def _workspace(source: Source) -> Workspace:
    return workspace(source.environment["torch"], compute_capability(source))


def _of_a_picture(source: Source) -> bool:
    return source.protocol.get("reading") == "whole marks of an axis"


def _requested_peak(program: Program, workspace: Workspace) -> int:
    """The most bytes requested at a time: pytorch.org/memory_viz adds those up, not blocks.

    Source: torch/utils/viz/MemoryViz.js, process_alloc_data: the sizes of events, and `requested_size` of older blocks.
    """
    kernels = (event for event in program.events if isinstance(event, Launch) and event.cublas)
    kept = {taken.name: taken.nbytes for kernel in kernels for taken in workspace.taken(kernel) if not taken.per_call}
    return int(phase_peaks(program)["peak"]) + sum(kept.values())


class _Emptied(CachingAllocator):
    """An allocator whose cache is given back before some phases, counted from 1."""

    def __init__(self, phases: Collection[int]) -> None:
        super().__init__(None)
        self.phases, self.phase = phases, 0

    def reset_peak(self) -> None:
        self.phase += 1
        if self.phase in self.phases:
            self.empty_cache()
        super().reset_peak()


def write(path: Path = TRACED) -> None:
    """Trace every row anew, and keep what was found."""
    found = {}
    for run in runs():
        found[str(run)] = predicted(run)
        path.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


def main() -> int:
    """Print every number that is not printed as measured, and how many are."""
    if "--again" in sys.argv:
        write()
    found = list(numbers())
    for number in found:
        if not number.exact:
            print(number)
    exact = sum(number.exact for number in found)
    for run in untraced():
        print(f"not traced: {run}")
    print(f"{exact} of {len(found)} numbers print as measured ({exact / len(found):.0%})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
