"""The analysis of a recording: its peak, the lines that fill it, and replays under other settings."""

from dataclasses import dataclass, replace

from memmodel.base.errors import UsageError
from memmodel.snapshot.alloc_conf import AllocConf
from memmodel.snapshot.fragmentation import Fragmentation, by_pool
from memmodel.snapshot.history import History, Recorded, history, recorded_blocks
from memmodel.snapshot.owners import Owner, owners
from memmodel.snapshot.releases import Capacity, known_capacity
from memmodel.snapshot.runs import (
    Addresses,
    RanOut,
    Run,
    recorded_run,
    replay_exactly,
    replay_under,
    starts_as_recorded,
)
from memmodel.snapshot.snapshot import Snapshot
from memmodel.snapshot.unpickle import uncollected


@dataclass(frozen=True, slots=True)
class Study:
    """A snapshot with its account and replays.

    Attributes:
        history: bytes after each event. owners: of the bytes in use at its peak, the largest first.
        pools: free memory at the end. addresses: how many the exact replay got right.
        runs: the recording first, then its replays. capacity: of the recorded run, if it reached its limit.
        out_of_memory: each recorded error, and the bytes that the driver had left.
        before: blocks in use before the first event, and their bytes.
    """

    snapshot: Snapshot
    history: History
    owners: list[Owner]
    pools: list[Fragmentation]
    addresses: Addresses
    runs: list[Run]
    capacity: Capacity | None
    out_of_memory: list[tuple[RanOut, int]]
    before: tuple[int, int]
    notes: tuple[str, ...]


@uncollected()
def study(snapshot: Snapshot, conf: AllocConf | None = None, capacity: int | None = None) -> Study:
    """Read a snapshot's peak, replay it, and replay it under `conf` and with `capacity` bytes where they are given.

    Without a capacity, replays get that of the recorded run, if it ran out of memory or released its cache for room.
    Raises UsageError for a file that contradicts itself.
    """
    try:
        return _study(snapshot, conf, capacity)
    except (AssertionError, IndexError, KeyError, TypeError):  # contradictions take too many forms to check each
        raise UsageError(
            f"{snapshot.path}: its events and its segments contradict each other: "
            "give the file as torch.cuda.memory._dump_snapshot wrote it"
        ) from None


def _study(snapshot: Snapshot, conf: AllocConf | None, capacity: int | None) -> Study:
    exact, addresses, recorded = replay_exactly(snapshot, recorded_blocks(snapshot))
    usage = history(snapshot, recorded)
    pools = by_pool(snapshot)
    known = known_capacity(snapshot, usage)
    runs = [recorded_run(snapshot, usage, pools[-1]), exact]
    if conf is not None or capacity is not None:
        limits = known if capacity is None else Capacity(capacity, None)
        runs[1:] = _otherwise(snapshot, recorded, conf, limits)
    return Study(
        snapshot,
        usage,
        owners(snapshot, recorded, usage.peak),
        pools,
        addresses,
        runs,
        known,
        _out_of_memory(snapshot, usage),
        (len(recorded.start), usage.allocated[0]),
        (*snapshot.notes, *(conf.notes if conf else ())),
    )


def _otherwise(snapshot: Snapshot, recorded: Recorded, conf: AllocConf | None, limits: Capacity | None) -> list[Run]:
    """The replay as asked for; after one with the recorded settings and the same start, to compare like with like."""
    config = conf.config if conf else snapshot.config

    def within(name: str, same: bool, capacity: int | None) -> Run:
        settings = snapshot.config if same else config
        packed = config != snapshot.config or not starts_as_recorded(snapshot, settings, capacity)
        return replay_under(name, snapshot, recorded, settings, capacity, packed)

    names = [("replayed", True)] if config == snapshot.config else [("same settings", True), ("as asked", False)]
    runs = []
    for name, same in names:
        run = within(name, same, limits and limits.at_least_bytes)
        if run.fits is False and limits is not None and limits.at_most_bytes not in (None, limits.at_least_bytes):
            # It does not fit for certain only if it does not at the upper bound of the capacity either.
            most = within(name, same, limits.at_most_bytes)
            run = most if most.fits is False else replace(run, fits=None)
        runs.append(run)
    return runs


def _out_of_memory(snapshot: Snapshot, usage: History) -> list[tuple[RanOut, int]]:
    """Each recorded out-of-memory error, and the bytes that the driver had left."""
    return [
        (RanOut(index, snapshot.events[index].size, usage.allocated[index], usage.reserved[index]), free)
        for index, free in snapshot.device_free.items()
    ]
