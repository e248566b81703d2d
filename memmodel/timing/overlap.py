"""Kernels on several streams: when all of them are over, and how much of the communication others hide.

A stream runs what is put on it in order; a `Wait` makes one wait for what is on another at that moment. Kernels on
different streams are taken to run side by side at full speed: that NCCL's kernels take SMs and bandwidth from others is
not modelled.
"""

from collections.abc import Callable, Sequence
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


class Streams:
    """Kernels on their streams in the order in which they are put there, with each different kernel once.

    Attributes:
        launches: the different ones. kernels: how many run, without collectives.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        known: dict[Launch, int] = {}
        numbers: dict[int, int] = {}  # by id: layers that are alike share their launches
        self._order: list[tuple[int, int]] = []  # (stream, kernel), or (stream, ~the stream that it waits for)
        for event in events:
            if type(event) is Launch:
                number = numbers.get(id(event))
                if number is None:
                    number = numbers[id(event)] = known.setdefault(event, len(known))
                self._order.append((event.stream, number))
            elif type(event) is Wait:
                self._order.append((event.stream, ~event.other))
        self.launches = tuple(known)
        self._collective = [launch.kind == COLLECTIVE for launch in self.launches]
        self.kernels = sum(number >= 0 and not self._collective[number] for _, number in self._order)

    def overlapped(self, seconds: Callable[[Launch], float]) -> Overlap:
        """Their times, each kernel taking so many seconds."""
        each = [seconds(launch) for launch in self.launches]
        alone = [0.0 if collective else one for one, collective in zip(each, self._collective, strict=True)]
        whole = self._end(each)
        # Exposed is what collectives add to the end, so the same streams are timed once more without them.
        communicating = sum(each[number] for _, number in self._order if number >= 0 and self._collective[number])
        return Overlap(whole, self._end(alone) if communicating else whole, communicating)

    def _end(self, each: Sequence[float]) -> float:
        """When the last kernel is over."""
        over: dict[int, float] = {0: 0.0}  # stream -> when what is on it is over
        for stream, number in self._order:
            if number >= 0:
                over[stream] = over.get(stream, 0.0) + each[number]
            else:
                over[stream] = max(over.get(stream, 0.0), over.get(~number, 0.0))
        return max(over.values())
