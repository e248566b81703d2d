"""Kernels on several streams: when all of them are over, and how much of the communication others hide.

A stream runs what is put on it in order; a `Wait` makes one wait for what is on another at that moment. Kernels on
different streams are taken to run side by side at full speed: that NCCL's kernels take SMs and bandwidth from others is
not modelled.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from memmodel.events.program import COLLECTIVE, Event, Launch, Wait


class Overlap(NamedTuple):
    """Kernels on their streams.

    Attributes:
        seconds: from the first start to the last end.
        computing: the same without collectives.
        communicating: of all collectives, one after the other.
    """

    seconds: float
    computing: float
    communicating: float

    @property
    def exposed(self) -> float:
        """Communication that nothing hides: what the collectives make the whole longer."""
        return self.seconds - self.computing


def overlap(events: Sequence[Event], seconds: Callable[[Launch], float]) -> Overlap:
    """The kernels among these events, each taking so many seconds."""
    whole = end(events, seconds)
    # Exposed is what collectives add to the end, so the same streams are timed once more without them.
    computing = end(events, lambda launch: 0.0 if launch.kind == COLLECTIVE else seconds(launch))
    collectives = (event for event in events if isinstance(event, Launch) and event.kind == COLLECTIVE)
    return Overlap(whole, computing, sum(map(seconds, collectives)))


def end(events: Iterable[Event], seconds: Callable[[Launch], float]) -> float:
    """When the last kernel is over."""
    over: dict[int, float] = {}  # stream -> when what is on it is over
    for event in events:
        if isinstance(event, Launch):
            over[event.stream] = over.get(event.stream, 0.0) + seconds(event)
        elif isinstance(event, Wait):
            over[event.stream] = max(over.get(event.stream, 0.0), over.get(event.other, 0.0))
    return max(over.values(), default=0.0)
