"""Memory that a recorded run gave back to the driver: by its program or by the allocator, and what that tells.

The allocator gives memory back only when the driver has refused it some. That follows from its settings, so under other
settings it is left to the model; and what was refused bounds the memory there was. `torch.cuda.empty_cache()` is the
program's own and happens under any settings.
"""

from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple

from memmodel.snapshot.history import History
from memmodel.snapshot.snapshot import GROW, OUT_OF_MEMORY, SHRINK, Snapshot


class Release(NamedTuple):
    """Segments given back one after the other: the first event and the last, and whether the program asked for it."""

    first: int
    last: int
    by_program: bool


class Capacity(NamedTuple):
    """Bytes that the allocator could get in the recorded run: at least, and at most (None: not known)."""

    at_least: int
    at_most: int | None


def releases(snapshot: Snapshot) -> list[Release]:
    """Each run of segments given back.

    Where a stack names empty_cache the program did it. Else the event that follows decides: the allocator gives memory
    back only to ask the driver again, so a new segment or an out-of-memory error comes next; anything else was the
    program.
    """
    found: list[Release] = []
    first: int | None = None
    named = False
    for index, event in enumerate(snapshot.events):
        if event.action in SHRINK:
            first = index if first is None else first
            named = named or _names_empty_cache(snapshot.frames[index])
        elif first is not None:
            found.append(Release(first, index - 1, named or event.action not in (*GROW, OUT_OF_MEMORY)))
            first, named = None, False
    if first is not None:
        found.append(Release(first, len(snapshot.events) - 1, by_program=True))
    return found


def retries(snapshot: Snapshot) -> int:
    """How often the allocator released its cache to make room; before an out-of-memory error it did so too."""
    made_room = (not r.by_program and snapshot.events[r.last + 1].action in GROW for r in releases(snapshot))
    return sum(made_room) + len(snapshot.device_free)


def _names_empty_cache(frames: Any) -> bool:
    names = [frame.get("name") for frame in frames if isinstance(frame, dict)] if isinstance(frames, list) else []
    return any(isinstance(name, str) and ("empty_cache" in name or "emptyCache" in name) for name in names)


def known_capacity(snapshot: Snapshot, course: History) -> Capacity | None:
    """What the driver gave and refused; None where it refused nothing. An out-of-memory error says what it had left."""
    refused = list(_refused(snapshot, course))
    if not refused and not snapshot.device_free:
        return None
    left = [course.reserved[index] + free for index, free in snapshot.device_free.items()]
    at_least = max(*left, *course.reserved)
    at_most = at_least if left else min(refused) - 1
    return Capacity(at_least, at_most if at_most >= at_least else None)


def _refused(snapshot: Snapshot, course: History) -> Iterator[int]:
    """What would have been reserved with the memory that the driver refused.

    After a release the allocator asks once more for what it did not get. With expandable segments part of it may have
    been given before, so this is a bound.
    """
    events = snapshot.events
    for release in () if snapshot.settings.collects_garbage else releases(snapshot):
        grown = takewhile(lambda event: event.action in GROW, islice(events, release.last + 1, None))
        asked = sum(event.size for event in grown)
        if asked and not release.by_program:
            yield course.reserved[release.first] + asked
