"""The timeline picture: live bytes after each allocation and free of one step, stacked by tensor."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from memmodel.algorithms import algorithm
from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import Case
from memmodel.base.rendering import Drawing
from memmodel.events.groups import group_of, kind_of
from memmodel.events.liveness import OUTSIDE_A_STEP, State, states
from memmodel.events.origin import names
from memmodel.events.program import Alloc, Launch, Mark, Program, Save
from memmodel.gpus import Gpu
from memmodel.models.program import program_of
from memmodel.models.setting import ModelCase
from memmodel.prediction import Memory
from memmodel.recorder import record
from memmodel.step import device_of, memory_of, usage_by_event

NAMED = 7  # tensors with their own band, besides the inputs: more colours are not distinct


class Moment(NamedTuple):
    """The state after an event, in bytes: `what` happened in which phase."""

    phase: str
    what: str
    live_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class Band:
    """A layer of the stack: live bytes of its tensors at each moment, and those of them saved for backward.

    `kind` is "inputs", "tensor" (those of one name) or "rest" (all others).
    """

    name: str
    kind: str
    live_bytes: tuple[int, ...]
    saved_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline(Drawing):
    """One step on one GPU.

    Attributes:
        gpu: its name. title: the algorithm or function for people. case: what runs, in words.
        configuration: of a built-in algorithm; None for a traced function. memory: the prediction's figures, in bytes.
        moments: in order. bands: lowest first; at each moment their bytes add up to the live ones.
        peak: index of the first moment with the most live bytes.
    """

    gpu: str
    title: str
    case: str
    configuration: Case | None
    memory: Memory
    moments: tuple[Moment, ...]
    bands: tuple[Band, ...]
    peak: int

    @property
    def backward(self) -> int | None:
        """The first moment of backward; None where there is none."""
        return next((i for i, moment in enumerate(self.moments) if moment.phase == "backward"), None)

    @property
    def at_peak(self) -> Moment:
        """The moment of the peak."""
        return self.moments[self.peak]


def model_timeline(case: ModelCase, gpu: Gpu, config: AllocatorConfig | None = None) -> Timeline:
    """The picture of a whole model's step on a GPU: a band for each group that the bytes belong to."""
    case = replace(case, device=device_of(gpu))
    program = program_of(case)
    memory = memory_of(program, case.torch, gpu, config)
    usage = usage_by_event(program, case.torch, gpu, memory, config)
    saved = {event.key for event in program.events if isinstance(event, Save)}
    inputs = program.inputs()
    labels = {birth.key: kind_of(group_of(program, birth.key, saved, inputs)) for birth in program.births()}
    words = f"{case.phase}, batch {case.batch}, seq {case.seq}"
    return timeline_of(program._replace(names=labels), usage, memory, gpu, case.arch.name, words)


def timeline(case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> Timeline:
    """The picture of a checked case (see `memmodel.cases.cases_of`) on a GPU."""
    program = record(case.lettered(), sites=True)
    figures = memory_of(program, case.torch, gpu, config)
    usage = usage_by_event(program, case.torch, gpu, figures, config)
    return timeline_of(program, usage, figures, gpu, algorithm(case.algorithm).title, case.describe(), case)


def timeline_of(
    step: Program,
    usage: Sequence[tuple[int, int]],
    memory: Memory,
    gpu: Gpu,
    title: str,
    case: str,
    configuration: Case | None = None,
) -> Timeline:
    """The picture of a program of one step, with (allocated, reserved) bytes at each event from "forward" on."""
    stack = _Stack(step, usage)
    moments = tuple(stack.moments())
    peak = max(range(len(moments)), key=lambda i: moments[i].live_bytes)
    return Timeline(gpu.name, title, case, configuration, memory, moments, tuple(_bands(stack)), peak)


_FEW = 6
_INPUTS = ""  # stands for the names of all inputs


_Changes = dict[str, dict[int, int]]  # name -> moment -> change of bytes


class _Stack:
    """The moments of a step, and the changes of each name's bytes at them.

    `usage` is (allocated, reserved) at each event from the "forward" mark on.
    """

    def __init__(self, program: Program, usage: Sequence[tuple[int, int]]) -> None:
        self.labels = names(program)
        self.inputs: dict[int, None] = {}
        self.live: _Changes = {}
        self.saved: _Changes = {}
        self.events: list[tuple[str, str, int, tuple[int, int]]] = []  # phase, what, live bytes, usage
        self._kept: set[int] = set()
        before, readings = (0, 0), iter(usage)
        for now in states(program):
            if now.phase == "after":
                break
            if now.phase == "inputs" and now.born:
                self.inputs[now.born.key] = None
            self._change(now)
            if now.phase not in OUTSIDE_A_STEP:
                reading = next(readings)
                what = self._what(now, reading[0] - before[0])
                if what:
                    self.events.append((now.phase, what, int(now.live), reading))
                before = reading

    def _what(self, now: State, taken: int) -> str:
        """The event in words; empty if it does not change the picture."""
        if isinstance(now.event, Mark):
            return f"{now.phase} begins"
        if now.born:
            return f"{self.labels[now.born.key]} is made"
        if now.died:
            return f"{self.labels[now.died.key]} is freed"
        return f"workspace of {now.event.name} is taken" if isinstance(now.event, Launch) and taken > 0 else ""

    def _change(self, now: State) -> None:
        """Record the change of live and saved bytes by an event, at the moment that begins with it."""
        moment, one = len(self.events), now.born or now.died
        if one:
            self._add(self.live, one, moment, 1 if now.born else -1)
        key: int = getattr(now.event, "key", -1)
        if (key in now.kept) != (key in self._kept):
            self._kept ^= {key}
            if key in now.kept:  # counts from the moment in which the tensor was made, just before
                self._add(self.saved, now.alive[key], max(moment - 1, 0), 1)
            else:
                self._add(self.saved, now.died or now.alive[key], moment, -1)

    def _add(self, changes: _Changes, storage: Alloc, moment: int, sign: int) -> None:
        of_name = changes.setdefault(_INPUTS if storage.key in self.inputs else self.labels[storage.key], {})
        of_name[moment] = of_name.get(moment, 0) + sign * int(storage.nbytes)

    def levels(self, changes: _Changes, shown: Iterable[str]) -> tuple[int, ...]:
        """Bytes of some names together, at each moment."""
        total = Counter[int]()
        for name in shown:
            total.update(changes.get(name, {}))
        return tuple(accumulate(total[moment] for moment in range(len(self.events))))

    def moments(self) -> Iterator[Moment]:
        """The step, moment by moment."""
        for (phase, what, live, usage), saved in zip(self.events, self.levels(self.saved, self.saved), strict=True):
            yield Moment(phase, what, live, *usage, saved)

    def most(self, name: str) -> int:
        """The most bytes of a name."""
        return max(accumulate(change for _, change in sorted(self.live[name].items())))

    def band(self, title: str, kind: str, shown: Sequence[str]) -> Band:
        """The bytes of some names together, at each moment."""
        return Band(title, kind, self.levels(self.live, shown), self.levels(self.saved, shown))


def _bands(stack: _Stack) -> Iterator[Band]:
    """Bands from the lowest: inputs, tensors saved for backward, other large tensors, the rest."""
    tensors = [name for name in stack.live if name != _INPUTS]
    largest = sorted(tensors, key=lambda name: -stack.most(name))
    shown = largest[:NAMED] if len(largest) > NAMED + 1 else largest  # "1 more tensor" would take its place
    of_inputs = dict.fromkeys(stack.labels[key] for key in stack.inputs)
    yield stack.band(_listed(list(of_inputs)), "inputs", [_INPUTS])
    for name in sorted((name for name in tensors if name in shown), key=lambda name: name not in stack.saved):
        yield stack.band(name, "tensor", [name])
    rest = [name for name in tensors if name not in shown]
    if rest:
        yield stack.band(f"{len(rest)} more tensors", "rest", rest)


def _listed(names: Sequence[str]) -> str:
    """Names with commas between them; of many the first few."""
    if len(names) <= _FEW:
        return ", ".join(names)
    return f"{', '.join(names[:_FEW])} and {len(names) - _FEW} more"
