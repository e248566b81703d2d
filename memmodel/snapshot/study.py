"""Everything that one recording tells: its peak, what fills it, and how it would have gone otherwise."""

from dataclasses import dataclass

from memmodel.errors import UsageError
from memmodel.snapshot.account import Entry, account
from memmodel.snapshot.alloc_conf import AllocConf
from memmodel.snapshot.fragmentation import Fragmentation, fragmentation
from memmodel.snapshot.snapshot import OUT_OF_MEMORY, Snapshot
from memmodel.snapshot.timeline import Timeline, block_sizes, timeline
from memmodel.snapshot.what_if import (
    Landing,
    Outcome,
    RanOut,
    known_capacity,
    recorded,
    replay_exactly,
    replay_packed,
    replay_under,
    starts_as_recorded,
)


@dataclass(frozen=True, slots=True)
class Course:
    """One way that the run went or would have gone. `capacity` is in bytes; None is not known, and then so is `fits`.

    `start` says what was in use before the first event: "recorded", or its blocks "packed" anew.
    """

    name: str
    outcome: Outcome
    start: str
    capacity: int | None
    fits: bool | None


@dataclass(frozen=True, slots=True)
class Study:
    """A snapshot read, accounted for and replayed; `courses` has the recording first."""

    snapshot: Snapshot
    timeline: Timeline
    account: list[Entry]
    pools: list[Fragmentation]
    landing: Landing
    courses: list[Course]
    out_of_memory: list[tuple[RanOut, int]]
    before: tuple[int, int]
    notes: tuple[str, ...]


def study(snapshot: Snapshot, conf: AllocConf | None = None, capacity: int | None = None) -> Study:
    """Read a snapshot's peak, replay it, and replay it under `conf` and with `capacity` bytes where they are given.

    Without a capacity that of a recorded out-of-memory error is taken.
    """
    try:
        return _study(snapshot, conf, capacity)
    except (AssertionError, IndexError, KeyError, TypeError):  # in more ways than are worth a check each
        raise UsageError(
            f"{snapshot.path}: its events and its segments contradict each other: "
            "give the file as torch.cuda.memory._dump_snapshot wrote it"
        ) from None


def _study(snapshot: Snapshot, conf: AllocConf | None, capacity: int | None) -> Study:
    exact, landing, sizes = replay_exactly(snapshot, block_sizes(snapshot))
    course = timeline(snapshot, sizes)
    pools = fragmentation(snapshot)
    as_recorded = recorded(snapshot, course, pools[-1])
    courses = [
        Course("recorded", as_recorded, "recorded", None, as_recorded.ran_out is None),
        Course("replayed", exact, "recorded", None, None),
    ]
    notes = [*snapshot.notes, *(conf.notes if conf else ())]
    if conf is not None or capacity is not None:
        if capacity is None:
            capacity = known_capacity(snapshot, course)
        courses[1:] = _otherwise(snapshot, conf, capacity)
    return Study(
        snapshot,
        course,
        account(snapshot, sizes, course.peak),
        pools,
        landing,
        courses,
        _out_of_memory(snapshot, course),
        (len(sizes.start), course.allocated[0]),
        tuple(notes),
    )


def _otherwise(snapshot: Snapshot, conf: AllocConf | None, capacity: int | None) -> list[Course]:
    """The run as asked for; where its start is packed, also the recorded settings so, to compare like with like."""
    config = conf.config if conf else snapshot.config
    asked = replay_under(snapshot, config, capacity)
    if config == snapshot.config:
        start = "recorded" if starts_as_recorded(snapshot, config, capacity) else "packed"
        return [_course("replayed", asked, start, capacity)]
    control = replay_packed(snapshot, capacity)
    return [_course("same settings", control, "packed", capacity), _course("as asked", asked, "packed", capacity)]


def _course(name: str, outcome: Outcome, start: str, capacity: int | None) -> Course:
    return Course(name, outcome, start, capacity, None if capacity is None else outcome.ran_out is None)


def _out_of_memory(snapshot: Snapshot, course: Timeline) -> list[tuple[RanOut, int]]:
    """Each recorded out-of-memory error, and the bytes that the driver had left."""
    return [
        (RanOut(index, event.size, course.allocated[index], course.reserved[index]), snapshot.device_free[index])
        for index, event in enumerate(snapshot.events)
        if event.action == OUT_OF_MEMORY
    ]
