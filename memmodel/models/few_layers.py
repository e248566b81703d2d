"""The live peak of a step of many layers and micro-batches, from one recording of few.

What a layer in the middle of the recording allocates and frees, each layer more does again in the same place; what a
forward leaves for its backward, each further micro-batch in flight leaves again. So the live bytes at a moment are
those recorded, and multiples of what such stretches of events before it leave.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, groupby

from memmodel.events.groups import COMMUNICATION, groups_of
from memmodel.events.liveness import of_a_step
from memmodel.events.program import Alloc, Event, Free, Mark
from memmodel.expansion import Recording

Stretch = tuple[int, int]  # of events: the place of the first, and that after the last


class FewLayers:
    """A recorded step of few layers.

    Args:
        recording: of sizes that are ints.
        repeated: the layers of the period in the middle that stands for more of them; none by default.
        coming: bytes between stages that each micro-batch gets in backward: one in flight does not hold them yet.
    """

    def __init__(self, recording: Recording, repeated: range = range(0), coming: int = 0) -> None:
        self.coming = coming
        self.program, self._actions = recording.program, recording.actions
        sizes = {birth.key: int(birth.nbytes) for birth in self.program.births()}
        self._changes = [_change(event, sizes) for event in self.program.events]
        self._live = list(accumulate(self._changes, initial=0))
        self._periods = list(_within(recording, repeated)) if repeated else []
        self._places = of_a_step(_places(self.program.events))

    def moments(self, periods: int = 0, in_flight: int = 0) -> list[int]:
        """Live bytes where they can be the peak, with so many more periods of layers, and micro-batches in flight."""
        changes = [0] * (1 + len(self._live))
        for (start, end), times, (since, until) in self._repeats(periods, in_flight):
            left = times * (self._live[end] - self._live[start])
            changes[since] += left
            changes[until] -= left
        since, until = self._held(in_flight)
        changes[since] -= in_flight * self.coming
        changes[until] += in_flight * self.coming
        more = list(accumulate(changes))
        return [self._live[place] + more[place] for place in self._places]

    def groups(self, moment: int, periods: int = 0, in_flight: int = 0) -> dict[str, int]:
        """The bytes of each group that are alive at one of these moments."""
        place, groups, found = self._places[moment], self._groups, dict[str, int]()
        repeats = self._repeats(periods, in_flight)
        there = [(stretch, times) for stretch, times, (since, until) in repeats if since <= place < until]
        for (start, end), times in [((0, place), 1), *there]:
            for event, change in zip(self.program.events[start:end], self._changes[start:end], strict=True):
                if isinstance(event, Alloc | Free):
                    group = groups[event.key]
                    found[group] = found.get(group, 0) + times * change
        since, until = self._held(in_flight)
        if since <= place < until:
            found[COMMUNICATION] = found.get(COMMUNICATION, 0) - in_flight * self.coming
        return found

    @cached_property
    def _groups(self) -> dict[int, str]:
        return groups_of(self.program, self.program.births())

    def _held(self, in_flight: int) -> Stretch:
        """Where micro-batches in flight are there: from the second forward to the last backward."""
        return (self._actions[1] + 1, self._actions[-1] + 1) if in_flight else (0, 0)

    def _repeats(self, periods: int, in_flight: int) -> Iterator[tuple[Stretch, int, Stretch]]:
        """Stretches of events, how often each runs beside the recorded time, and where what that leaves is there."""
        first, second = (self._actions[1], self._actions[2]) if in_flight else (0, 0)
        held = self._held(in_flight)
        for start, end in self._periods if periods else ():
            # In the stretch recorded, that which holds most of all: the last one, or the first where they let go.
            since = start + 1 if self._live[end] > self._live[start] else end
            yield (start, end), periods, (since, len(self._live))
            if first <= start < second:
                yield (start, end), periods * in_flight, held
        if in_flight:
            yield (first, second), in_flight, held


def _change(event: Event, sizes: dict[int, int]) -> int:
    """The bytes that an event adds to those alive."""
    return sizes[event.key] if type(event) is Alloc else -sizes[event.key] if type(event) is Free else 0


def _places(events: Sequence[Event]) -> dict[str, list[int]]:
    """The places after the marks and allocations of each phase, as `events.liveness.summary` looks at them."""
    found: dict[str, list[int]] = {"": []}
    current = found[""]
    for place, event in enumerate(events, 1):
        if type(event) is Mark:
            current = found[event.phase] = [place]
        elif type(event) is Alloc:
            current.append(place)
    return found


def _within(recording: Recording, layers: range) -> Iterator[Stretch]:
    """The stretches of events of these layers."""
    numbered = enumerate(recording.layer_of_each())
    for inside, pairs in groupby(numbered, key=lambda pair: pair[1] in layers):
        if inside:
            places = [place for place, _ in pairs]
            yield places[0], places[-1] + 1
