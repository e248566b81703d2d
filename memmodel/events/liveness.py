"""Live bytes: the storages alive after each event of a program, and those that autograd saves.

`states` is the one fold over events. Peaks, saved bytes, accounts, pictures and closed forms read the states that it
yields. Bytes are raw (the allocator model alone rounds them) and may be ints, arrays or symbols.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from memmodel.events.program import Alloc, Event, Free, Launch, Mark, Program, Release, Save
from memmodel.sizes.dims import Dim, maximum

OUTSIDE_A_STEP = ("start", "inputs", "after")  # phases whose memory is no part of the step's peak


class State(NamedTuple):
    """The memory of a program after one of its events.

    `alive` and `kept` go on changing with the fold: copy what must last.

    Attributes:
        event: the event.
        phase: the phase that it belongs to; a mark belongs to the phase that it begins.
        live: bytes of the storages alive.
        born: the storage that the event allocates, if it is an allocation.
        died: the storage that the event frees, if it is a free.
        alive: storage -> its allocation, in order of birth.
        kept: storage -> number of autograd nodes that keep it for backward; the inputs, which the caller keeps anyway,
            are left out.
        place: that of the event in the program, from 0.
    """

    event: Event
    phase: str
    live: Dim
    born: Alloc | None
    died: Alloc | None
    alive: dict[int, Alloc]
    kept: dict[int, int]
    place: int

    @property
    def saved(self) -> Dim:
        """Bytes that autograd saves for backward, beyond the inputs."""
        return sum(self.saved_storages().values(), start=0)

    def saved_storages(self) -> dict[int, Dim]:
        """Storage -> bytes, for those that autograd saves for backward, beyond the inputs."""
        return {key: self.alive[key].nbytes for key in self.kept}


def states(
    program: Program,
    nbytes: Callable[[Alloc], Any] = attrgetter("nbytes"),
    nothing: Any = 0,
    every: bool = True,
) -> Iterator[State]:
    """The state after each event.

    Args:
        program: the events.
        nbytes: the size of an allocation, in whatever `live` is to add up; its bytes by default.
        nothing: the size of no storages at all.
        every: without it, the states after allocations and marks alone: one of them is the peak.
    """
    alive: dict[int, Alloc] = {}
    kept: dict[int, int] = {}
    inputs: set[int] = set()
    live, phase = nothing, "start"
    make: Callable[[type[State], Any], State] = tuple.__new__  # half the time of State(...), for every event
    for index, event in enumerate(program.events):
        born: Alloc | None = None
        died: Alloc | None = None
        if type(event) is Launch:  # `is`: a step of a model has a hundred thousand events
            pass
        elif type(event) is Alloc:
            born = alive[event.key] = event
            live = live + nbytes(event)
            if phase == "inputs":
                inputs.add(event.key)
        elif type(event) is Free:
            died = alive.pop(event.key)
            live = live - nbytes(died)
            kept.pop(event.key, None)  # a free without a release: its graph is gone, or its operator freed it
        elif type(event) is Save:
            if event.key not in inputs:
                kept[event.key] = kept.get(event.key, 0) + 1
        elif type(event) is Release:
            nodes = kept.pop(event.key, 0)
            if nodes > 1:
                kept[event.key] = nodes - 1
        elif type(event) is Mark:
            phase = event.phase
        if every or born is not None or type(event) is Mark:
            yield make(State, (event, phase, live, born, died, alive, kept, index))


def uncounted(birth: Alloc) -> int:
    """0 bytes for every storage: adding symbols is slow, and some readers need only which storages are alive."""
    return 0


class Summary(NamedTuple):
    """Peaks, and whether the steps can repeat.

    Attributes:
        peaks: the most live bytes within each phase (its last occurrence), and as "peak" within the last step.
        closed: whether the steps leave nothing behind and take nothing away: only then can they repeat as they are.
    """

    peaks: dict[str, Dim]
    closed: bool


def summary(program: Program) -> Summary:
    """Peaks by phase, and whether the steps can repeat, in one fold."""
    peaks: dict[str, Dim] = {}
    before: set[int] | None = None
    alive: dict[int, Alloc] = {}
    for now in states(program, every=False):
        if now.born is not None:
            peaks[now.phase] = maximum(peaks.get(now.phase, 0), now.live)
        else:
            peaks[now.phase], alive = now.live, now.alive
            if now.phase == "forward" and before is None:
                before = set(alive)
    step = [peak for phase, peak in peaks.items() if phase not in OUTSIDE_A_STEP]
    return Summary({**peaks, "peak": reduce(maximum, step)} if step else peaks, before == alive.keys())


def phase_peaks(program: Program) -> dict[str, Dim]:
    """The most live bytes within each phase (its last occurrence), and as "peak" within the last step."""
    return summary(program).peaks


def moments(program: Program, scratch: bool = True) -> list[Dim]:
    """The live bytes after marks and allocations of the last step, as `summary` has it: the largest is the peak.

    `scratch`: whether that of reductions is counted too, which few sizes need.
    """
    found: dict[str, list[Dim]] = {}
    for now in states(program if scratch else program.without_shared_scratch(), every=False):
        if type(now.event) is Mark:
            found[now.phase] = [now.live]
        else:
            found.setdefault(now.phase, []).append(now.live)
    return of_a_step(found)


def of_a_step(moments: Mapping[str, Iterable[Dim]]) -> list[Dim]:
    """The moments of the phases of a step, from those of each phase."""
    return [live for phase, of_phase in moments.items() if phase not in OUTSIDE_A_STEP for live in of_phase]


def saved_storages(program: Program) -> dict[int, Dim]:
    """Storage -> bytes, for those that autograd saves at the end of the last forward, beyond the inputs."""
    start = step_start(program)
    marks = (now for now in states(program, uncounted, every=False) if type(now.event) is Mark and now.place > start)
    after = next(marks, None)
    return {} if after is None else after.saved_storages()


def saved_bytes(program: Program) -> Dim:
    """Bytes that autograd saves at the end of the last forward, beyond the inputs."""
    return sum(saved_storages(program).values(), start=0)


def at_peak(program: Program, peak: int | None = None) -> tuple[int, frozenset[int]]:
    """(index of the event, storages alive) at the first peak of the last step. Sizes must be ints.

    `peak`: its bytes, which are looked for first where they are not known.
    """
    start, phases = step_start(program), set(step_phases(program))
    if peak is None:
        peak = max(now.live for now in states(program, every=False) if now.place >= start and now.phase in phases)
    for now in states(program, every=False):
        if now.live == peak and now.place >= start and now.phase in phases:
            return now.place, frozenset(now.alive)
    return at_peak(program)  # a phase that only earlier steps have was the peak


def step_start(program: Program) -> int:
    """The index of the last step's first event: the last mark of "forward"."""
    return max(i for i, event in enumerate(program.events) if type(event) is Mark and event.phase == "forward")


def step_phases(program: Program) -> list[str]:
    """The phases of a step, in order: "forward", and in training "backward", "optimizer"."""
    phases = dict.fromkeys(event.phase for event in program.events if type(event) is Mark)
    return [phase for phase in phases if phase not in OUTSIDE_A_STEP]


def step_launches(program: Program) -> tuple[Launch, ...]:
    """The kernels of the last step."""
    phases = program.phases()
    return tuple(e for phase in step_phases(program) for e in phases[phase] if isinstance(e, Launch))


def last_step(program: Program) -> Program:
    """The last step alone, with storages alive before it as inputs."""
    start = step_start(program)
    events = [Mark("inputs"), *alive_at(program, start).values(), *program.events[start:]]
    return program._replace(events=events)


def alive_at(program: Program, index: int) -> dict[int, Alloc]:
    """Storage -> its allocation, for those alive after the event at an index; -1 is the last."""
    place = index % len(program.events)
    return dict(next(islice(states(program, uncounted), place, None)).alive)


def places(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """Storage -> index of its allocation; and storage -> index of its free, for those freed."""
    births, deaths = dict[int, int](), dict[int, int]()
    for now in states(program, uncounted):
        if now.born:
            births[now.born.key] = now.place
        elif now.died:
            deaths[now.died.key] = now.place
    return births, deaths


def births_and_deaths(program: Program, nbytes: Callable[[Alloc], Any] = attrgetter("nbytes")) -> list[tuple[int, Any]]:
    """(storage, size) of each allocation and (storage, -1) of each free; storages are numbered in order of birth."""
    numbers: dict[int, int] = {}
    found: list[tuple[int, Any]] = []
    for now in states(program, uncounted):
        if now.born:
            numbers[now.born.key] = len(numbers)
            found.append((numbers[now.born.key], nbytes(now.born)))
        elif now.died:
            found.append((numbers[now.died.key], -1))
    return found
