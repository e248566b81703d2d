"""The timeline picture: live bytes after each allocation and free of one step, stacked by tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from memmodel.algorithms import algorithm, record
from memmodel.allocator import AllocatorConfig
from memmodel.case import Case
from memmodel.fitting import memory
from memmodel.gpus import Gpu
from memmodel.origin import names
from memmodel.pictures.shown import Shown
from memmodel.pictures.usage import usage_by_event
from memmodel.prediction import Memory
from memmodel.program import Alloc, Free, Launch, Mark, Program, Release, Save

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
class Timeline(Shown):
    """One algorithm's step on one GPU.

    Attributes:
        gpu: its name. case: what runs. title: the algorithm for people. memory: the prediction's figures, in bytes.
        moments: in order. bands: lowest first; at each moment their bytes add up to the live ones.
        peak: index of the first moment with the most live bytes.
    """

    gpu: str
    case: Case
    title: str
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
    figures = memory(program, case, gpu, config)
    walk = _Walk(program, usage_by_event(program, case, gpu, figures, config))
    moments = tuple(walk.moments())
    peak = max(range(len(moments)), key=lambda i: moments[i].live_bytes)
    return Timeline(gpu.name, case, algorithm(case.algorithm).title, figures, moments, _bands(walk), peak)


class _Walk:
    """One pass over the step: what happened when, and every storage's bytes after it.

    `usage` is (allocated, reserved) at each event from the "forward" mark on.
    """

    def __init__(self, program: Program, usage: Sequence[tuple[int, int]]) -> None:
        self.labels = names(program)
        self.inputs: set[int] = set()
        self.sizes: dict[int, int] = {}
        self.holds: dict[int, int] = {}
        self.rows: list[dict[int, tuple[int, bool]]] = []  # storage -> bytes, and whether it is kept for backward
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
                self.rows.append({key: (size, self._kept(key)) for key, size in self.sizes.items()})
                self.events.append((phase, what, usage[position]))
            position += 1

    def moments(self) -> Iterator[Moment]:
        """The step, moment by moment."""
        for (phase, what, usage), row in zip(self.events, self.rows, strict=True):
            live = sum(size for size, _ in row.values())
            yield Moment(phase, what, live, *usage, sum(size for size, kept in row.values() if kept))

    def _kept(self, key: int) -> bool:
        return bool(self.holds.get(key)) and key not in self.inputs

    def _apply(self, event: Any, phase: str) -> str:
        """What happened to memory, in words; empty where nothing did."""
        if isinstance(event, Mark):
            return f"{phase} begins"
        if isinstance(event, Save | Release):
            self.holds[event.key] = self.holds.get(event.key, 0) + (1 if isinstance(event, Save) else -1)
            if isinstance(event, Save) and self.rows and self._kept(event.key):
                self.rows[-1][event.key] = self.sizes[event.key], True  # kept from the moment that it is made
        if isinstance(event, Alloc):
            self.sizes[event.key] = int(event.nbytes)
            if phase == "inputs":
                self.inputs.add(event.key)
            return f"{self.labels[event.key]} is made"
        if isinstance(event, Free):
            del self.sizes[event.key]
            return f"{self.labels[event.key]} is freed"
        return ""


def _bands(walk: _Walk) -> tuple[Band, ...]:
    """Inputs lowest, then what is kept for backward, then the other large tensors, then the rest."""
    layers: dict[str, list[int]] = {}
    for row in walk.rows:
        for key in row:
            if key not in walk.inputs:
                keys = layers.setdefault(walk.labels[key], [])
                if key not in keys:
                    keys.append(key)
    made = {name: _band(walk, name, "tensor", keys) for name, keys in layers.items()}
    largest = sorted(made, key=lambda name: -max(made[name].live_bytes))
    shown = largest[:NAMED] if len(largest) > NAMED + 1 else largest
    stacked = sorted((name for name in made if name in shown), key=lambda name: not any(made[name].saved_bytes))
    inputs = _band(walk, ", ".join(walk.labels[key] for key in sorted(walk.inputs)), "inputs", sorted(walk.inputs))
    rest = [key for name, keys in layers.items() if name not in shown for key in keys]
    others = [_band(walk, f"{len(layers) - len(shown)} more tensors", "rest", rest)] if rest else []
    return (inputs, *(made[name] for name in stacked), *others)


def _band(walk: _Walk, name: str, kind: str, keys: Sequence[int]) -> Band:
    found = [[row[key] for key in keys if key in row] for row in walk.rows]
    live = tuple(sum(size for size, _ in entries) for entries in found)
    return Band(name, kind, live, tuple(sum(size for size, kept in entries if kept) for entries in found))
