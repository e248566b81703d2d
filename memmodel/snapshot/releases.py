"""Memory that a recorded run returned to the driver, by its program or by the allocator.

The allocator returns memory only after the driver refused a request. Other settings would change when, so that a replay
leaves this to the model; and the refused request bounds the memory there was. The program returns memory by
`torch.cuda.empty_cache()`, under any settings.
"""

from collections.abc import Iterator
from itertools import groupby, islice, takewhile
from typing import Any, NamedTuple

from memmodel.snapshot.history import History
from memmodel.snapshot.snapshot import GROW, OUT_OF_MEMORY, Snapshot


class Release(NamedTuple):
    """Consecutive events that return segments: the first, the last, and whether the program asked for it."""

    first: int
    last: int
    by_program: bool


class Capacity(NamedTuple):
    """Bounds of the bytes that the allocator could get in the recorded run; the upper one is None if not known."""

    at_least_bytes: int
    at_most_bytes: int | None


def releases(snapshot: Snapshot) -> list[Release]:
    """Each run of consecutive returned segments, and who returned them.

    If a stack names empty_cache, it was the program. Else the next event decides: the allocator returns memory only to
    ask the driver again, so that a new segment or an out-of-memory error follows; otherwise it was the program.
    """
    events = snapshot.events
    found = []
    for _, adjacent in groupby(enumerate(snapshot.given_back), key=lambda numbered: numbered[1] - numbered[0]):
        run = [index for _, index in adjacent]
        following = events[run[-1] + 1].action if run[-1] + 1 < len(events) else ""
        named = any(_names_empty_cache(snapshot.frames[index]) for index in run)
        found.append(Release(run[0], run[-1], named or following not in (*GROW, OUT_OF_MEMORY)))
    return found


def retries(snapshot: Snapshot) -> int:
    """How many times the allocator released its whole cache to make room, also before each out-of-memory error.

    With max_split_size it first gives back unsplittable blocks alone, which PyTorch counts as no retry.
    """
    events, config = snapshot.events, snapshot.config
    made_room = (r for r in releases(snapshot) if not r.by_program and events[r.last + 1].action in GROW)
    whole = (not all(config.unsplittable(event.size) for event in events[r.first : r.last + 1]) for r in made_room)
    return sum(whole) + len(snapshot.device_free)


def _names_empty_cache(frames: Any) -> bool:
    names = [frame.get("name") for frame in frames if isinstance(frame, dict)] if isinstance(frames, list) else []
    return any(isinstance(name, str) and ("empty_cache" in name or "emptyCache" in name) for name in names)


def known_capacity(snapshot: Snapshot, usage: History) -> Capacity | None:
    """The capacity, from requests that the driver refused and the free bytes in its errors; None if it refused none."""
    refused = list(_refused(snapshot, usage))
    if not refused and not snapshot.device_free:
        return None
    # An error says how much the driver had left, which makes the capacity exact, unless other processes took or left
    # some of it between two errors; a release only bounds it from above.
    left = [usage.reserved[index] + free for index, free in snapshot.device_free.items()]
    at_least = max(min(left, default=0), *usage.reserved)
    at_most = max(left) if left else min(refused) - 1
    return Capacity(at_least, at_most if at_most >= at_least else None)


def _refused(snapshot: Snapshot, usage: History) -> Iterator[int]:
    """For each refused request, the bytes that would have been reserved with it.

    After a release the allocator repeats the request. With expandable segments part of it may have been granted before,
    so that this is an upper bound.
    """
    events = snapshot.events
    for release in () if snapshot.settings.collects_garbage else releases(snapshot):
        grown = takewhile(lambda event: event.action in GROW, islice(events, release.last + 1, None))
        asked = sum(event.size for event in grown)
        if asked and not release.by_program:
            yield usage.reserved[release.first] + asked
