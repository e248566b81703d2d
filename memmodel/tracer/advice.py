"""Advice: changes to the code that lower a step's live peak, each tried before it is given.

Two changes are made to the recorded events, whose peak is then read again:
- a storage that only a Python name holds past its last use is freed there (`del`, or the name bound again);
- an elementwise operator whose operand is used last by it, and is not saved for backward, writes into that operand.

Others need another trace (`retraced.py`): the function checkpointed, attention by the library's operator, softmax by
the library's where the code writes it out (`by_hand.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memmodel.events.liveness import at_peak, phase_peaks, places
from memmodel.events.origin import origin
from memmodel.events.program import Alloc, Event, Free, Mark, Program, Save

_IN_PLACE = {  # operators whose gradient needs neither operand nor result, where the other operand is a number or mask
    "div": "/=",
    "mul": "*=",
    "add": "+=",
    "sub": "-=",
    "masked_fill": ".masked_fill_(...)",
    "neg": ".neg_()",
}
_LEAST = 0.005  # of the peak: smaller savings are not worth a line


@dataclass(frozen=True, slots=True)
class Advice:
    """One change to the code.

    Attributes:
        change: what to write, and on which line.
        live_peak_bytes: the peak with the change.
        less_bytes: by how much that is lower.
        verified: "on the events" or "by a trace".
    """

    change: str
    live_peak_bytes: int
    less_bytes: int
    verified: str


def advice(program: Program, labels: Mapping[int, str], last_use: Mapping[int, int]) -> list[Advice]:
    """The changes to the events that lower the peak, by how much they do.

    Args:
        program: the events, whose sizes are ints.
        labels: storage -> its name in the code.
        last_use: storage -> place among the events where an operator last touched it.
    """
    before = phase_peaks(program)["peak"]
    held = _Held(program, labels, last_use)
    early = list(held.past_use())
    changes = [(change, held.freed_early({key: use})) for change, key, use in early]
    if len(early) > 1:
        together = held.freed_early({key: use for _, key, use in early})
        changes.append((f"each of these {len(early)} names: del, or bound again", together))
    found: dict[str, Advice] = {}
    for change, events in (*changes, *held.merged()):
        after = phase_peaks(program._replace(events=events))["peak"]
        less = before - after
        if less > _LEAST * before and (change not in found or found[change].less_bytes < less):
            found[change] = Advice(change, after, less, "on the events")
    return sorted(found.values(), key=lambda a: -a.less_bytes)


class _Held:
    """The storages that Python alone holds at the peak, and the events without some of them."""

    def __init__(self, program: Program, labels: Mapping[int, str], last_use: Mapping[int, int]) -> None:
        self.events, self.labels, self.last_use = program.events, labels, last_use
        self.births, self.deaths = places(program)
        self.peak, alive = at_peak(program)
        saved = {event.key for event in program.events if isinstance(event, Save)}
        at_the_peak = [birth for birth in program.births() if birth.key in alive]
        self.results = [birth for birth in at_the_peak if birth.site]
        self.droppable = [birth for birth in at_the_peak if birth.role == "tensor" and birth.key not in saved]

    def past_use(self) -> Iterator[tuple[str, int, int]]:
        """(change, storage, place of its last use) of each that a name holds past its last use and past the peak."""
        end = max(i for i, e in enumerate(self.events) if isinstance(e, Mark) and e.phase == "after")
        for birth in self.droppable:
            key, place = birth.key, origin(birth.site)
            used, died = self.last_use.get(key, self.peak), self.deaths.get(key, 0)
            # what dies after `end` is the caller's result
            if place and used < self.peak < died < end and self.labels[key].isidentifier():
                change = f"line {place.line}: del {self.labels[key]} after its last use, or bind its name again"
                yield change, key, used

    def freed_early(self, uses: Mapping[int, int]) -> list[Event]:
        """The events with these storages freed right after their last use."""
        late = {self.deaths[key] for key in uses}
        events: list[Event] = []
        for index, event in enumerate(self.events):
            if index not in late:
                events.append(event)
            events += [Free(key) for key, use in uses.items() if use == index + 1]
        return events

    def merged(self) -> Iterator[tuple[str, list[Event]]]:
        """Each operator of `_IN_PLACE` whose operand of the same size is used last by it, writing into that operand.

        The peak falls only where both are alive there.
        """
        for result in self.results:
            place = origin(result.site)
            operand = next((x for x in self.droppable if self._could_hold(x, result)), None)
            if result.op in _IN_PLACE and operand is not None and place is not None:
                change = f"line {place.line}: in place ({_IN_PLACE[result.op]}) instead of a new"
                yield f"{change} {self.labels[result.key]}", self._written_into(operand.key, result.key)

    def _could_hold(self, operand: Alloc, result: Alloc) -> bool:
        """Whether an operand can hold the result: of the same size and type, and used last by the operator."""
        born = self.births[result.key]
        return (
            self.births[operand.key] < born <= self.last_use.get(operand.key, -1) <= born + 3
            and operand.nbytes == result.nbytes
            and operand.dtype == result.dtype
        )

    def _written_into(self, operand: int, result: int) -> list[Event]:
        """The events where a result takes its operand's storage and dies when the result did."""
        gone = {self.births[result], self.deaths.get(operand)}
        kept = (event for index, event in enumerate(self.events) if index not in gone)
        return [
            event._replace(key=operand)  # type: ignore[call-arg]
            if getattr(event, "key", None) == result
            else event
            for event in kept
        ]
