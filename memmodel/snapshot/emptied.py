"""Which of the memory that a recorded run gave back to the driver was given back by its program.

The allocator empties its cache itself when it runs out. That follows from its settings, so under other settings it is
left to the model. `torch.cuda.empty_cache()` is the program's own and happens under any settings.
"""

from typing import Any

from memmodel.snapshot.snapshot import GROW, OUT_OF_MEMORY, SHRINK, Snapshot


def emptied_by_program(snapshot: Snapshot) -> set[int]:
    """The last event of each run of segments given back in which the program emptied the cache.

    Where a stack names empty_cache it did. Else the event that follows decides: the allocator gives memory back only
    to ask the driver again, so a new segment or an out-of-memory error comes next; anything else was the program.
    """
    found = set()
    named = False
    events = snapshot.events
    for index, event in enumerate(events):
        if event.action not in SHRINK:
            named = False
            continue
        named = named or _names_empty_cache(snapshot.frames[index])
        following = events[index + 1].action if index + 1 < len(events) else ""
        if following not in SHRINK and (named or following not in (*GROW, OUT_OF_MEMORY)):
            found.add(index)
    return found


def _names_empty_cache(frames: Any) -> bool:
    names = [frame.get("name") for frame in frames if isinstance(frame, dict)] if isinstance(frames, list) else []
    return any(isinstance(name, str) and ("empty_cache" in name or "emptyCache" in name) for name in names)
