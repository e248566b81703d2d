"""Memory that a recorded run gave back to the driver: by its program or by the allocator, and what that tells.

The allocator gives memory back only when the driver has refused it some. That follows from its settings, so under other
settings it is left to the model; and what was refused bounds the memory there was. `torch.cuda.empty_cache()` is the
program's own and happens under any settings.
"""

from collections.abc import Iterator
from itertools import groupby, islice, takewhile
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

    at_least_bytes: int
    at_most_bytes: int | None


def releases(snapshot: Snapshot) -> list[Release]:
    """Each run of segments given back.

    Where a stack names empty_cache the program did it. Else the event that follows decides: the allocator gives memory
    back only to ask the driver again, so a new segment or an out-of-memory error comes next; anything else was the
    program.
    """
    events = snapshot.events
    given_back = [index for index, event in enumerate(events) if event.action in SHRINK]
    found = []
    for _, adjacent in groupby(enumerate(given_back), key=lambda numbered: numbered[1] - numbered[0]):
        run = [index for _, index in adjacent]
        following = events[run[-1] + 1].action if run[-1] + 1 < len(events) else ""
        named = any(_names_empty_cache(snapshot.frames[index]) for index in run)
        found.append(Release(run[0], run[-1], named or following not in (*GROW, OUT_OF_MEMORY)))
    return found


def retries(snapshot: Snapshot) -> int:
    """How often the allocator released its cache to make room; before an out-of-memory error it did so too."""
    made_room = (not r.by_program and snapshot.events[r.last + 1].action in GROW for r in releases(snapshot))
    return sum(made_room) + len(snapshot.device_free)


def _names_empty_cache(frames: Any) -> bool:
    names = [frame.get("name") for frame in frames if isinstance(frame, dict)] if isinstance(frames, list) else []
    return any(isinstance(name, str) and ("empty_cache" in name or "emptyCache" in name) for name in names)


def known_capacity(snapshot: Snapshot, usage: History) -> Capacity | None:
    """What the driver gave and refused; None where it refused nothing. An out-of-memory error says what it had left."""
    refused = list(_refused(snapshot, usage))
    if not refused and not snapshot.device_free:
        return None
    left = [usage.reserved[index] + free for index, free in snapshot.device_free.items()]
    at_least = max(*left, *usage.reserved)
    at_most = at_least if left else min(refused) - 1
    return Capacity(at_least, at_most if at_most >= at_least else None)


def _refused(snapshot: Snapshot, usage: History) -> Iterator[int]:
    """What would have been reserved with the memory that the driver refused.

    After a release the allocator asks once more for what it did not get. With expandable segments part of it may have
    been given before, so this is a bound.
    """
    events = snapshot.events
    for release in () if snapshot.settings.collects_garbage else releases(snapshot):
        grown = takewhile(lambda event: event.action in GROW, islice(events, release.last + 1, None))
        asked = sum(event.size for event in grown)
        if asked and not release.by_program:
            yield usage.reserved[release.first] + asked
