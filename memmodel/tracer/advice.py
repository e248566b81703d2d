"""Changes that lower a step's peak, each applied to the events (or traced again) and its saving read off.

On the events: a storage that Python alone still holds when nothing uses it any more dies at its last use (`del`, or the
name bound again); an elementwise operator whose operand dies there, and which autograd did not keep, writes into it.
By a trace: the function checkpointed, attention by the library's operator, and softmax that the code writes out by the
library's (`by_hand.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memmodel.origin import origin
from memmodel.program import Alloc, Event, Free, Mark, Program, Release, Save
from memmodel.tracer.lines import at_peak
from memmodel.tracer.memory import live_peak

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
    """One change: what to write and where, the live peak then, and how it was verified."""

    change: str
    live_peak_bytes: int
    less_bytes: int
    verified: str


def advice(program: Program, labels: Mapping[int, str], last_use: Mapping[int, int]) -> list[Advice]:
    """What the events say would help, most first. `last_use`: storage -> place among the events of its last use."""
    before = live_peak(program)
    found: dict[str, Advice] = {}
    early = _past_use(program, labels, last_use)
    changes = [(change, _freed_early(program, {key: use})) for change, key, use in early]
    if len(early) > 1:
        together = _freed_early(program, {key: use for _, key, use in early})
        changes.append((f"each of these {len(early)} names: del, or bound again", together))
    for change, events in (*changes, *_merged(program, labels, last_use)):
        after = live_peak(Program(events, program.names, program.gradients))
        less = before - after
        if less > _LEAST * before and (change not in found or found[change].less_bytes < less):
            found[change] = Advice(change, after, less, "on the events")
    return sorted(found.values(), key=lambda a: -a.less_bytes)


def _held_by_python(program: Program) -> dict[int, Alloc]:
    """Storages of the last step alive at its peak that are no inputs and that autograd does not keep."""
    _, keys = at_peak(program)
    saved = {e.key for e in program.events if isinstance(e, Save)}
    alive = set(keys) - saved
    return {
        e.key: e for e in program.events if isinstance(e, Alloc) and e.key in alive and e.role == "tensor" and e.site
    }


def _past_use(program: Program, labels: Mapping[int, str], last_use: Mapping[int, int]) -> list[tuple[str, int, int]]:
    """(change, storage, place of its last use) of each that a name holds past its last use and past the peak."""
    peak, _ = at_peak(program)
    end = max(i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "after")
    freed = {e.key: i for i, e in enumerate(program.events[:end]) if isinstance(e, Free)}  # later: the caller's
    found = []
    for key, alloc in _held_by_python(program).items():
        used, place = last_use.get(key, peak), origin(alloc.site)
        if used < peak < freed.get(key, 0) and place is not None and labels[key].isidentifier():
            found.append(
                (f"line {place.line}: del {labels[key]} after its last use, or bind its name again", key, used)
            )
    return found


def _freed_early(program: Program, uses: Mapping[int, int]) -> list[Event]:
    """The events with these storages freed right after their last use."""
    events: list[Event] = []
    for index, event in enumerate(program.events):
        if not (isinstance(event, Free) and event.key in uses):
            events.append(event)
        events += [Free(key) for key, use in uses.items() if use == index + 1]
    return events


def _merged(
    program: Program, labels: Mapping[int, str], last_use: Mapping[int, int]
) -> Iterator[tuple[str, list[Event]]]:
    """Each operator of `_IN_PLACE` whose operand of the same size is used last by it, writing into that operand."""
    saved = {e.key for e in program.events if isinstance(e, Save)}
    alive = set(at_peak(program)[1])  # the peak falls only where both are alive there
    births = {e.key: i for i, e in enumerate(program.events) if isinstance(e, Alloc)}
    allocs = {e.key: e for e in program.events if isinstance(e, Alloc) and e.key in alive}
    for key, alloc in allocs.items():
        if alloc.op not in _IN_PLACE or alloc.site is None:
            continue
        operand = next(
            (
                k
                for k, other in allocs.items()
                if k != key
                and births[k] < births[key]
                and births[key] <= last_use.get(k, -1) <= births[key] + 3
                and other.nbytes == alloc.nbytes
                and other.dtype == alloc.dtype
                and other.role == "tensor"
                and k not in saved
            ),
            None,
        )
        place = origin(alloc.site)
        if operand is None or place is None:
            continue
        events = [
            e
            for e in program.events
            if not (isinstance(e, Alloc) and e.key == key) and not (isinstance(e, Free) and e.key == operand)
        ]
        events = [_renamed(e, key, operand) for e in events]
        yield f"line {place.line}: in place ({_IN_PLACE[alloc.op]}) instead of a new {labels[key]}", events


def _renamed(event: Event, key: int, to: int) -> Event:
    if isinstance(event, Free | Save | Release) and event.key == key:
        return event._replace(key=to)
    return event
