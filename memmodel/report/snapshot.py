"""A replayed snapshot as tables, and as a dict for JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from rich.text import Text

from memmodel.base.units import bytes_text, percent_text
from memmodel.report.sheet import Bullets, Sheet, below
from memmodel.snapshot.fragmentation import Fragmentation
from memmodel.snapshot.history import History
from memmodel.snapshot.owners import CodeLine, Owner
from memmodel.snapshot.releases import Capacity
from memmodel.snapshot.runs import BEFORE_THE_FIRST, RanOut, Run
from memmodel.snapshot.study import Study

SCHEMA = 1
_STEPS = 54  # columns of the sparkline: with its labels it fills 80
_POINTS = 200  # of the timeline in JSON
_ROWS_SHOWN = 12  # lines of code in the account
_BARS = "▁▂▃▄▅▆▇█"


def snapshot_parts(study: Study, stack: bool = False) -> Iterator[Any]:
    """The screen, part by part; `stack` shows the calls that led to each line."""
    snapshot = study.snapshot
    counts = f"device {snapshot.device}, {len(snapshot.events)} events, {snapshot.allocations} requests"
    yield Text.assemble((_printable(snapshot.path.replace("\\", "/").rpartition("/")[2]), "bold"), f": {counts}")
    yield from _verdicts(study)
    if snapshot.events:
        yield Text()
        yield from _sparklines(study.history)
    yield from map(below, (replay_table(study.runs), owners_table(study, stack), fragmentation_table(study.pools)))
    if study.out_of_memory:
        yield below(Bullets("Out of memory when recorded", [_out_of_memory(*found) for found in study.out_of_memory]))
    if study.notes:
        yield below(Bullets("Notes", [_printable(note) for note in study.notes]))


def _verdicts(study: Study) -> Iterator[Text]:
    """Whether the model chose the recorded addresses, and whether the run fits as asked for."""
    addresses = study.addresses
    if not study.snapshot.events:
        yield Text("no events are recorded: this is the memory when the file was written", style="yellow")
    elif addresses.first_different_event is None:
        yield Text(f"replayed as recorded: all {addresses.compared} addresses are the real allocator's", style="green")
    else:
        equal = f"{addresses.equal} of {addresses.compared} addresses are the real allocator's"
        first = f"the first other one at event {addresses.first_different_event}"
        yield Text(f"replayed as recorded: {equal}, {first}", "yellow")
    if study.capacity is not None:
        yield Text(f"the recorded run was at its limit: the allocator could get {_capacity_text(study.capacity)}")
    asked = study.runs[-1]
    if asked.capacity_bytes is not None and len(study.runs) > 1:
        room = bytes_text(asked.capacity_bytes)
        if asked.ran_out is None:
            yield Text(f"{asked.name}: fits in {room}", style="green")
        elif asked.fits is None and study.capacity is not None:
            room = _capacity_text(study.capacity)
            yield Text(f"{asked.name}: not known to fit, as there was {room}: {_ran_out(asked.ran_out)}", "yellow")
        else:
            yield Text(f"{asked.name}: does not fit in {room}: {_ran_out(asked.ran_out)}", style="red")


def _capacity_text(capacity: Capacity) -> str:
    """Bounds in words."""
    least, most = bytes_text(capacity.at_least_bytes), capacity.at_most_bytes
    if most is None:
        return f"at least {least}"
    return least if most == capacity.at_least_bytes else f"{least} to {bytes_text(most)}"


def _ran_out(out: RanOut) -> str:
    """The request that did not fit, in words."""
    when = "before the first event" if out.event == BEFORE_THE_FIRST else f"at event {out.event}"
    held = f"{bytes_text(out.allocated_bytes)} allocated and {bytes_text(out.reserved_bytes)} reserved"
    return f"{when} {bytes_text(out.requested_bytes)} are asked for with {held}"


def _out_of_memory(out: RanOut, free: int) -> str:
    return f"{_ran_out(out)}; the driver had {bytes_text(free)} left"


def _sparklines(usage: History) -> Iterator[Text]:
    """Largest allocated and reserved bytes by step, on one scale, and where the peak is."""
    top = max(usage.reserved)
    steps = _steps(len(usage.allocated), _STEPS)
    for name, values in (("allocated", usage.allocated), ("reserved", usage.reserved)):
        bars = "".join(_bar(max(values[start:end]), top) for start, end in steps)
        yield Text(f"{name:9} {bars} {bytes_text(max(values))}")
    at = next(column for column, (_, end) in enumerate(steps) if usage.peak < end)
    label = f"peak {_when(usage.peak)}"
    marked = f"{label} ^".rjust(at + 1) if at > len(label) else f"{' ' * at}^ {label}"
    yield Text(" " * 10 + marked, style="dim")


def _when(entry: int) -> str:
    """The event that an entry of the timeline follows."""
    return f"after event {entry - 1}" if entry else "before the first event"


def _steps(length: int, most: int) -> list[tuple[int, int]]:
    """At most `most` ranges of about the same length that cover `length` entries."""
    count = min(length, most)
    return list(pairwise(length * step // count for step in range(count + 1)))


def _bar(value: int, top: int) -> str:
    return " " if value <= 0 else _BARS[min(len(_BARS) - 1, value * len(_BARS) // max(top, 1))]


def replay_table(runs: Sequence[Run]) -> Sheet:
    """The recording beside its replays."""
    rows = [
        ("blocks at its start", *(run.start for run in runs)),
        ("allocated peak", *(bytes_text(run.allocated_peak_bytes) for run in runs)),
        ("reserved peak", *(bytes_text(run.reserved_peak_bytes) for run in runs)),
        ("reserved at the end", *(bytes_text(run.reserved_end_bytes) for run in runs)),
        ("segments at the end", *(f"{run.end.segments}" for run in runs)),
        ("free at the end", *(bytes_text(run.end.free_bytes) for run in runs)),
        ("largest free block", *(bytes_text(run.end.largest_free_bytes) for run in runs)),
        ("cache released to make room", *(f"{run.retries}" for run in runs)),
    ]
    if any(run.fits is not None for run in runs[1:]) or not runs[0].fits:
        rows.append(("fits", *map(_fits, runs)))
    return Sheet("", ("|in the recorded window", *(f">{run.name}" for run in runs)), rows, wrap=True)


def _fits(run: Run) -> str:
    if run.fits is None:
        return "unknown"
    out = run.ran_out
    if out is None:
        return "yes"
    return "NO, at its start" if out.event == BEFORE_THE_FIRST else f"NO, at event {out.event}"


def owners_table(study: Study, stack: bool = False) -> Sheet:
    """Bytes in use at the peak, by line of code; with `stack` each line with the calls that led there."""
    peak = max(study.history.allocated)
    shown, rest = study.owners[:_ROWS_SHOWN], study.owners[_ROWS_SHOWN:]
    rows: list[tuple[str, ...]] = [(*_account_row(o.nbytes, o.blocks, peak), *_places(o, stack)) for o in shown]
    if rest:
        counts = sum(o.nbytes for o in rest), sum(o.blocks for o in rest)
        rows.append((*_account_row(*counts, peak), f"{len(rest)} more", ""))
    rows.append((*_account_row(peak, sum(o.blocks for o in study.owners), peak), "together", ""))
    title = "What fills the allocated peak" if study.snapshot.events else "What is in use"
    columns: tuple[str, ...] = (">bytes", ">share", ">blocks", "where", "in a library")
    if not any(row[-1] for row in rows):
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    return Sheet(f"{title}, by line of code", columns, rows, total=True, wrap=stack)


def _places(owner: Owner, stack: bool) -> tuple[str, str]:
    """The user's line, or all calls; and the library's line that it calls."""
    if stack:
        return " < ".join(_printable(_short(line)) for line in owner.stack), ""
    return _printable(_short(owner.where)), _printable(_short(owner.library)) if owner.library else ""


def _account_row(nbytes: int, blocks: int, peak: int) -> tuple[str, str, str]:
    return bytes_text(nbytes), percent_text(nbytes, peak), f"{blocks}"


def _short(where: CodeLine) -> str:
    """A line of code with the last two parts of its path."""
    if not where.filename:
        return where.function
    parts = where.filename.replace("\\", "/").split("/")
    return f"{'/'.join(parts[-2:])}:{where.line} {where.function}"


def fragmentation_table(pools: Sequence[Fragmentation]) -> Sheet:
    """Free memory at the end, by pool, with the total last."""
    columns = ("pool", ">segments", ">reserved", ">free", ">largest free block", ">inactive split")
    rows = []
    for pool in pools:
        sizes = (pool.reserved_bytes, pool.free_bytes, pool.largest_free_bytes, pool.inactive_split_bytes)
        rows.append((pool.pool, f"{pool.segments}", *map(bytes_text, sizes)))
    return Sheet("Free at the end, by pool", columns, rows, total=pools[-1].pool == "all", wrap=True)


def _printable(text: str) -> str:
    """Text of an untrusted file, without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def snapshot_dict(study: Study) -> dict[str, Any]:
    """The study as a dict, with the keys documented in docs/replay.md."""
    snapshot, usage = study.snapshot, study.history
    return {
        "schema": SCHEMA,
        "snapshot": {
            "path": snapshot.path,
            "device": snapshot.device,
            "events": len(snapshot.events),
            "requests": snapshot.allocations,
            "blocks_before": study.before[0],
            "blocks_before_bytes": study.before[1],
        },
        "addresses": asdict(study.addresses),
        "peak": {
            "event": usage.peak - 1,
            "allocated_bytes": usage.allocated[usage.peak],
            "reserved_bytes": usage.reserved[usage.peak],
        },
        "timeline": [_point(usage, start, end) for start, end in _steps(len(usage.allocated), _POINTS)],
        "account": [_owner(owner) for owner in study.owners],
        "fragmentation": [asdict(pool) for pool in study.pools],
        "capacity": study.capacity and study.capacity._asdict(),
        "out_of_memory": [asdict(out) | {"device_free_bytes": free} for out, free in study.out_of_memory],
        "courses": [asdict(run) for run in study.runs],
        "notes": list(study.notes),
    }


def _point(usage: History, start: int, end: int) -> dict[str, int]:
    """The largest values of a range of events; entry 0 precedes event 0."""
    return {
        "first_event": start - 1,
        "allocated_bytes": max(usage.allocated[start:end]),
        "reserved_bytes": max(usage.reserved[start:end]),
    }


def _owner(owner: Owner) -> dict[str, Any]:
    return {
        "bytes": owner.nbytes,
        "blocks": owner.blocks,
        **_line(owner.where),
        "library": owner.library and _line(owner.library),
        "stack": [_line(line) for line in owner.stack],
    }


def _line(where: CodeLine) -> dict[str, Any]:
    filename, line, function = where
    return {"file": filename or None, "line": line if filename else None, "function": function}
