"""The time of a step on many GPUs: kernels and collectives of each stage on their streams, then stages side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

from memmodel.events.communication import Collective, collectives
from memmodel.events.program import COLLECTIVE, Event, Launch, Mark, Program
from memmodel.gpus.links import Node
from memmodel.models.layout import Rank
from memmodel.models.schedule import Cost, makespan
from memmodel.models.setting import ModelCase
from memmodel.prediction import Time
from memmodel.timing import Machine, kernel_time
from memmodel.timing.collectives import collective_time
from memmodel.timing.intervals import factor_of, kind_of, origin_of
from memmodel.timing.overlap import Streams

Recorded = Callable[[ModelCase], Program]
Peers = Callable[[tuple[int, ...]], tuple[int, ...]]  # who takes part in a collective, from what its launch says
_BY_MICRO_BATCH = ("forward", "backward")


class Run(NamedTuple):
    """Seconds of kernels on their streams.

    Attributes:
        computing: of kernels, or of the host's dispatch of them where that takes longer.
        communicating: of collectives, one after the other. exposed: of these, what no kernel hides.
    """

    computing: float = 0.0
    communicating: float = 0.0
    exposed: float = 0.0

    @property
    def seconds(self) -> float:
        """Until all is over."""
        return self.computing + self.exposed

    def __add__(self, other: "Run") -> "Run":  # type: ignore[override]
        return Run(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: float) -> "Run":  # type: ignore[override]
        return Run(*(a * times for a in self))


class StageRuns(NamedTuple):
    """A stage's forward and backward of a micro-batch, the same of the last one, and what follows the last backward.

    In the last backward gradients are reduced over ranks with other batches, where they are not sharded (FSDP reduces
    them after each).
    """

    each: Mapping[str, Run]
    last: Mapping[str, Run]
    after: Run

    def of_step(self, micro_batches: int) -> dict[str, Run]:
        """Seconds by phase of a step of so many micro-batches."""
        found = {phase: self.each[phase] * (micro_batches - 1) + self.last[phase] for phase in _BY_MICRO_BATCH}
        return {**found, "optimizer": self.after}


class StepTime(NamedTuple):
    """Seconds of a step on many GPUs; the parts are those of the stage that is busy longest.

    Attributes:
        seconds: computing, exposed and bubble.
        low, high: between which 90 % of such runs are expected; None for a bound.
        computing, communicating, exposed: as in `Run`. bubble: waiting for other stages.
        phases: of computing and exposed: "forward" and "backward" of all micro-batches, and "optimizer".
        collectives: of the step. basis: as in `memmodel.prediction.Time`.
    """

    seconds: float
    low: float | None
    high: float | None
    computing: float
    communicating: float
    exposed: float
    bubble: float
    phases: dict[str, float]
    collectives: tuple[Collective, ...]
    basis: str

    @property
    def overlapped(self) -> float:
        """Communication that kernels hide."""
        return self.communicating - self.exposed

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of the step by what takes them, most first."""
        parts = {"kernels": self.computing, "communication": self.exposed, "bubble": self.bubble}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    def as_time(self, calibration: str) -> Time:
        """The step as a `Time`, whose shares are its parts; `calibration` names the rates."""
        parts, ends = self.parts, (self.low, self.high)
        return Time(self.seconds, self.phases, next(iter(parts)), parts, (), self.basis, calibration, *ends)


class Clock:
    """The seconds of kernels and collectives on a machine; equal ones are computed once.

    Args:
        machine: without measured rates, times are lower bounds.
        node: what joins its GPUs.
        place: 0, 1 or 2, for the fastest, the expected or the slowest host, kernels (by the factor of their interval)
            and links.
        peers: who takes part in a collective; those that its launch names, unless said.
        kernels: times known already, of clocks of the same machine and factor.
    """

    def __init__(
        self,
        machine: Machine,
        node: Node,
        place: int = 1,
        factor: float = 1.0,
        peers: Peers | None = None,
        kernels: dict[Launch, float] | None = None,
    ) -> None:
        self.machine, self.node, self.factor = machine, node, factor
        self.end = "at_least" if machine.calibration is None else ("low", "seconds", "high")[place]
        self.host = machine.hosts[place]
        self.peers = peers
        self._kernels: dict[Launch, float] = {} if kernels is None else kernels
        self._collectives: dict[Launch, float] = {}

    def seconds(self, launch: Launch) -> float:
        """Seconds of a kernel or a collective."""
        known = self._collectives if launch.kind == COLLECTIVE else self._kernels
        found = known.get(launch)
        if found is None:
            found = known[launch] = self._seconds(launch)
        return found

    def _seconds(self, launch: Launch) -> float:
        if launch.kind != COLLECTIVE:
            return self.factor * kernel_time(launch, self.machine).seconds
        if launch.name == "receive":  # while this rank sends, or in the time of another's send
            return 0.0
        ranks = self.peers(launch.ranks) if self.peers else launch.ranks
        nodes = len({rank // self.node.gpus for rank in ranks})  # ranks fill machines in order of their numbers
        time = collective_time(launch.name, max(len(ranks), 1), max(nodes, 1), float(launch.sizes[0]), self.node)
        found: float = getattr(time, self.end)
        return found

    def run(self, phase: str, streams: Streams) -> Run:
        """The times of these kernels, which wait for their launch by the host where that takes longer."""
        found = streams.overlapped(self.seconds)
        # No phase is over before the host has launched its last kernel.
        computing = max(found.computing, self.host.launched(phase, streams.kernels))
        return Run(computing, found.communicating, max(found.seconds, computing) - computing)


class Stage:
    """The events of a stage: of micro-batches in forward and backward, and after all of them."""

    def __init__(self, case: ModelCase, recorded: Recorded) -> None:
        # Without stages a second one too: the first makes gradients, those after it add to them.
        count = 1 if case.layout.pp > 1 else min(case.microbatches, 2)
        self.case = case
        self.program = recorded(replace(case, microbatches=count))
        runs: dict[str, list[list[Event]]] = {}
        for event in self.program.events:
            if isinstance(event, Mark):
                current: list[Event] = []
                runs.setdefault(event.phase, []).append(current)
            else:
                current.append(event)
        self.last = {phase: runs[phase][-1] for phase in _BY_MICRO_BATCH}
        self.each = {phase: self._without_sums(runs[phase][0]) for phase in _BY_MICRO_BATCH}
        self.after = [event for run in runs.get("optimizer", ()) for event in run]
        self._streams = [
            {phase: Streams(self._within(events)) for phase, events in of.items()} for of in (self.each, self.last)
        ]
        self._streams_after = Streams(self.after)

    def _without_sums(self, events: list[Event]) -> list[Event]:
        """Without collectives among ranks with other batches, where these reduce gradients after the last backward.

        Of several micro-batches without stages, the first is recorded as it is.
        """
        layout, rank = self.case.layout, self.case.rank
        if layout.pp == 1 or layout.fully_sharded:
            return events
        same_batch = set(layout.peers(rank, "tensor", "context", "stage"))
        return [
            event
            for event in events
            if not (isinstance(event, Launch) and event.kind == COLLECTIVE)
            or event.name == "all_to_all"  # of tokens to their experts
            or set(event.ranks) <= same_batch
        ]

    def runs(self, clock: Clock) -> StageRuns:
        """Their times, without transfers between stages, which `makespan` has."""
        each, last = ({phase: clock.run(phase, streams) for phase, streams in of.items()} for of in self._streams)
        return StageRuns(each, last, clock.run("optimizer", self._streams_after))

    def _within(self, events: list[Event]) -> list[Event]:
        layout, rank = self.case.layout, self.case.rank
        between = layout.peers(rank, "stage")
        return [event for event in events if not (isinstance(event, Launch) and event.ranks == between)]

    def launches(self, count: int) -> Iterator[Launch]:
        """The kernels and collectives of so many micro-batches, and of what follows."""
        parts = [(events, count - 1) for events in self.each.values()]
        parts += [(events, 1) for events in (*self.last.values(), self.after)]
        for events, times in parts:
            yield from [event for event in events if isinstance(event, Launch)] * times


def stages_of(case: ModelCase, recorded: Recorded) -> list[Stage]:
    """Every stage; `recorded` records the program of a rank. Those between the first and the last are alike."""
    last, found = case.layout.pp - 1, dict[int, Stage]()
    for rank in case.layout.kinds():
        alike = min(rank.stage, 1) if rank.stage < last else last
        if alike not in found:
            found[alike] = Stage(replace(case, rank=rank), recorded)
    return [found[min(stage, 1) if stage < last else last] for stage in range(case.layout.pp)]


def step_time(
    case: ModelCase, machine: Machine, node: Node, stages: Sequence[Stage], least: StepTime | None = None
) -> StepTime:
    """The time of a step of all ranks, from its stages. `least`: the lower bound, where it is known.

    Raises UsageError if the GPU's data lack a rate.
    """

    def at(place: int, factor: float = 1.0) -> tuple[StepTime, int]:
        clock = Clock(machine, node, place, factor)
        return combined(case, [stage.runs(clock) for stage in stages], node, machine.basis)

    found, busiest = at(1)
    found = found._replace(collectives=collectives(stages[busiest].launches(case.microbatches), node.gpus))
    if machine.calibration is None:
        return found
    launches = list(stages[busiest].program.launches())
    kernels = tuple(kernel_time(one, machine) for one in dict.fromkeys(launches) if one.kind != COLLECTIVE)
    factor = factor_of(kind_of(launches), origin_of(kernels), found.computing)
    least = least or step_time(case, Machine(machine.gpu), node, stages)
    ends = (at(0, 1 / factor)[0].seconds, at(2, factor)[0].seconds)
    return found._replace(low=max(ends[0], least.seconds), high=max(ends[1], found.seconds))


def combined(case: ModelCase, stages: Sequence[StageRuns], node: Node, basis: str) -> tuple[StepTime, int]:
    """The step of stages side by side, without its collectives; and which of them is busy longest."""
    layout, count = case.layout, case.microbatches
    steps = [stage.of_step(count) for stage in stages]
    busiest = max(range(len(stages)), key=lambda stage: sum(run.seconds for run in steps[stage].values()))
    phases, bubble = steps[busiest], 0.0
    if layout.pp > 1:
        chunks = layout.virtual_stages
        costs = [
            [Cost(*(stage.each[phase].seconds / chunks for phase in _BY_MICRO_BATCH))] * chunks for stage in stages
        ]
        # What the pipeline takes beyond the work of its busiest stage.
        busy = sum(stages[busiest].each[phase].seconds for phase in _BY_MICRO_BATCH) * count
        bubble = max(makespan(layout, costs, count, _sending(case, node)) - busy, 0.0)
    whole = reduce(Run.__add__, phases.values())
    seconds = {phase: run.seconds for phase, run in phases.items()}
    return StepTime(whole.seconds + bubble, None, None, *whole, bubble, seconds, (), basis), busiest


def _sending(case: ModelCase, node: Node) -> float:
    """Seconds that a micro-batch's residual stream takes to the next stage."""
    layout = case.layout
    machines = {layout.number(Rank(stage=stage)) // node.gpus for stage in (0, 1)}
    return collective_time("send", 2, len(machines), stream_bytes(case), node).seconds


def stream_bytes(case: ModelCase) -> float:
    """Bytes of a micro-batch's residual stream between stages."""
    layout = case.layout
    tokens = case.batch * case.seq // layout.cp // (layout.tp if layout.sequence_parallel else 1)
    return float(tokens * case.arch.hidden * (4 if case.autocast else case.dtype.itemsize))
