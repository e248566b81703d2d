"""Micro-batches through pipeline stages: which runs when, and how long a step of them takes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memmodel.models.layout import Layout


class Action(NamedTuple):
    """A forward ("F") or backward ("B") of one micro-batch through one of a rank's chunks of layers."""

    kind: str
    chunk: int
    micro_batch: int


class Cost(NamedTuple):
    """Seconds of a chunk's forward and backward of one micro-batch."""

    forward: float
    backward: float


def order(layout: Layout, stage: int, micro_batches: int) -> list[Action]:
    """The actions of a rank of a stage, one after the other.

    "gpipe": all forwards, then all backwards (Huang et al., 2019). "1f1b": as few forwards ahead as keep the stages
    busy (Narayanan et al., 2019). "interleaved": the same with several chunks of layers a rank (Narayanan et al.,
    2021, section 2.2; torch/distributed/pipelining/schedules.py, ScheduleInterleaved1F1B).
    """
    chunks, stages = layout.virtual_stages, layout.pp
    group = layout.microbatch_group or stages
    places = _places(chunks, group, micro_batches)
    forwards = [Action("F", *place) for place in places]
    backwards = [Action("B", chunks - 1 - chunk, m) for chunk, m in places]
    if layout.schedule == "gpipe":
        ahead = len(forwards)
    elif chunks == 1:  # the first micro-batch passes that many stages before its backward returns
        ahead = min(stages - stage - 1, len(forwards))
    else:
        ahead = min((chunks - 1) * group + 2 * (stages - stage - 1), len(forwards))
    steady = len(forwards) - ahead
    mixed = [action for pair in zip(forwards[ahead:], backwards, strict=False) for action in pair]
    return [*forwards[:ahead], *mixed, *backwards[steady:]]


def shown_micro_batches(layout: Layout, stage: int, micro_batches: int) -> int:
    """The fewest micro-batches with which a stage reaches all that it ever holds at a time: others repeat these.

    In "1f1b" the second backward, which adds to gradients, comes with all forwards ahead.
    """
    if layout.schedule == "gpipe":
        return micro_batches
    return min(micro_batches, 3 * layout.pp if layout.virtual_stages > 1 else layout.pp - stage + 1)


def _places(chunks: int, group: int, micro_batches: int) -> list[tuple[int, int]]:
    """(chunk, micro-batch) in the order of forwards: groups of so many micro-batches, chunk by chunk."""
    group = group if chunks > 1 else micro_batches
    return [
        (chunk, m)
        for start in range(0, micro_batches, group)
        for chunk in range(chunks)
        for m in range(start, min(start + group, micro_batches))
    ]


def makespan(layout: Layout, costs: Sequence[Sequence[Cost]], micro_batches: int, sending: float = 0.0) -> float:
    """Seconds from the first forward to the last backward of all stages.

    `costs`: of each rank of a pipeline, of each of its chunks. `sending`: seconds that a micro-batch takes between
    ranks, while both compute.
    """
    orders = [order(layout, stage, micro_batches) for stage in range(layout.pp)]
    done: dict[tuple[int, Action], float] = {}
    places, clocks = [0] * layout.pp, [0.0] * layout.pp
    # Each stage runs its list as far as what it needs is there; the next round comes back to those that wait.
    while any(place < len(actions) for place, actions in zip(places, orders, strict=True)):
        for stage, actions in enumerate(orders):
            while places[stage] < len(actions):
                action = actions[places[stage]]
                ready = _ready(layout, stage, action, done, sending)
                if ready is None:
                    break
                cost = costs[stage][action.chunk]
                seconds = cost.forward if action.kind == "F" else cost.backward
                clocks[stage] = done[stage, action] = max(clocks[stage], ready) + seconds
                places[stage] += 1
    return max(clocks)


def _ready(
    layout: Layout, stage: int, action: Action, done: Mapping[tuple[int, Action], float], sending: float
) -> float | None:
    """When what an action needs is there; None while it is not known."""
    forward = action.kind == "F"
    number = action.chunk * layout.pp + stage + (-1 if forward else 1)  # of the stage before, or after
    if forward and number < 0:
        return 0.0
    if not forward and number == layout.stages:
        return done.get((stage, action._replace(kind="F")))
    before = done.get((number % layout.pp, action._replace(chunk=number // layout.pp)))
    return None if before is None else before + sending
