"""The timeline picture: live bytes after each allocation and free of one step, stacked by tensor."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from memmodel.algorithms import algorithm, record
from memmodel.allocator import AllocatorConfig
from memmodel.case import Case
from memmodel.gpus import Gpu
from memmodel.origin import names
from memmodel.prediction import Memory
from memmodel.program import Alloc, Free, Launch, Mark, Program, Release, Save
from memmodel.shown import Drawing
from memmodel.step import memory_of, usage_by_event

NAMED = 7  # tensors with a band of their own, besides the inputs: more colours cannot be told apart


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
    """Tensors of one name, as a layer of the stack: at each moment its bytes, and those of them kept for backward.

    `kind` is "inputs", "tensor" or "rest" (everything that has no band of its own).
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


def timeline(case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> Timeline:
    """The picture of a checked case (see `memmodel.predictor.cases_of`) on a GPU."""
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
    walk = _Walk(step, usage)
    moments = tuple(walk.moments())
    peak = max(range(len(moments)), key=lambda i: moments[i].live_bytes)
    return Timeline(gpu.name, title, case, configuration, memory, moments, tuple(_bands(walk)), peak)


_INPUTS = ""  # stands for the names of all inputs


class _Walk:
    """One pass over the step: what happened at each moment, and by how much each name's bytes changed there.

    `usage` is (allocated, reserved) at each event from the "forward" mark on.
    """

    def __init__(self, program: Program, usage: Sequence[tuple[int, int]]) -> None:
        self.labels = names(program)
        self.inputs: list[int] = []
        self.sizes: dict[int, int] = {}
        self.holds: dict[int, int] = {}
        self.live: dict[str, dict[int, int]] = {}  # name -> moment -> change of bytes
        self.saved: dict[str, dict[int, int]] = {}
        self.events: list[tuple[str, str, tuple[int, int]]] = []  # phase, what, usage
        self._walk(program, usage)

    def _walk(self, program: Program, usage: Sequence[tuple[int, int]]) -> None:
        phase, position = "inputs", -1
        for event in program.events:
            if isinstance(event, Mark):
                phase = event.phase
                position = 0 if phase == "forward" else position
            if phase == "after":
                return
            what = self._apply(event, phase)
            if position < 0:
                continue
            if isinstance(event, Launch) and usage[position][0] > usage[position - 1][0]:
                what = f"workspace of {event.name} is taken"
            if what:
                self.events.append((phase, what, usage[position]))
            position += 1

    def _apply(self, event: Any, phase: str) -> str:
        """Note what an event changes, from the moment that begins with it on; what it is in words, if it is one."""
        now = len(self.events)
        if isinstance(event, Mark):
            return f"{phase} begins"
        if isinstance(event, Alloc):
            self.sizes[event.key] = int(event.nbytes)
            if phase == "inputs":
                self.inputs.append(event.key)
            self._change(self.live, event.key, now, 1)
            return f"{self.labels[event.key]} is made"
        if isinstance(event, Free):
            if self.holds.pop(event.key, 0):
                self._change(self.saved, event.key, now, -1)
            self._change(self.live, event.key, now, -1)
            return f"{self.labels[event.key]} is freed"
        if isinstance(event, Save):
            self.holds[event.key] = self.holds.get(event.key, 0) + 1
            if self.holds[event.key] == 1:  # kept from the moment on in which it was made
                self._change(self.saved, event.key, max(now - 1, 0), 1)
        elif isinstance(event, Release):
            self.holds[event.key] -= 1
            if not self.holds[event.key]:
                self._change(self.saved, event.key, now, -1)
        return ""

    def _change(self, changes: dict[str, dict[int, int]], key: int, moment: int, sign: int) -> None:
        own = key in self.inputs
        if own and changes is self.saved:
            return  # the caller keeps it anyway
        of_name = changes.setdefault(_INPUTS if own else self.labels[key], {})
        of_name[moment] = of_name.get(moment, 0) + sign * self.sizes[key]

    def levels(self, changes: dict[str, dict[int, int]], shown: Iterable[str]) -> tuple[int, ...]:
        """Bytes of some names together, at each moment."""
        total: dict[int, int] = {}
        for name in shown:
            for moment, change in changes.get(name, {}).items():
                total[moment] = total.get(moment, 0) + change
        return tuple(accumulate(total.get(moment, 0) for moment in range(len(self.events))))

    def moments(self) -> Iterator[Moment]:
        """The step, moment by moment."""
        live, saved = self.levels(self.live, self.live), self.levels(self.saved, self.saved)
        for i, (phase, what, usage) in enumerate(self.events):
            yield Moment(phase, what, live[i], *usage, saved[i])


def _bands(walk: _Walk) -> Iterator[Band]:
    """Inputs lowest, then what is kept for backward, then the other large tensors, then the rest."""
    tensors = [name for name in walk.live if name != _INPUTS]
    largest = sorted(tensors, key=lambda name: -_most(walk.live[name]))
    shown = largest[:NAMED] if len(largest) > NAMED + 1 else largest
    stacked = sorted((name for name in tensors if name in shown), key=lambda name: name not in walk.saved)
    yield _band(walk, ", ".join(walk.labels[key] for key in walk.inputs), "inputs", [_INPUTS])
    for name in stacked:
        yield _band(walk, name, "tensor", [name])
    rest = [name for name in tensors if name not in shown]
    if rest:
        yield _band(walk, f"{len(rest)} more tensors", "rest", rest)


def _most(changes: dict[int, int]) -> int:
    """The most bytes that changes add up to."""
    return max(accumulate(change for _, change in sorted(changes.items())))


def _band(walk: _Walk, name: str, kind: str, shown: Sequence[str]) -> Band:
    return Band(name, kind, walk.levels(walk.live, shown), walk.levels(walk.saved, shown))
