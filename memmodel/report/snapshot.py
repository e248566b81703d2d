"""A replayed snapshot as tables, and as a dict for JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memmodel.report.tables import bullets
from memmodel.snapshot.fragmentation import Fragmentation
from memmodel.snapshot.history import History
from memmodel.snapshot.owners import CodeLine, Owner
from memmodel.snapshot.releases import Capacity
from memmodel.snapshot.runs import BEFORE_THE_FIRST, RanOut, Run
from memmodel.snapshot.study import Study
from memmodel.units import bytes_text, percent_text

SCHEMA = 1
_STEPS = 54  # columns of the sparkline: with its labels it fills 80
_POINTS = 200  # of the timeline in JSON
_ROWS_SHOWN = 12  # lines of code in the account
_BARS = "▁▂▃▄▅▆▇█"


def snapshot_parts(study: Study) -> Iterator[Any]:
    """The screen, part by part."""
    snapshot = study.snapshot
    counts = f"device {snapshot.device}, {len(snapshot.events)} events, {snapshot.allocations} requests"
    yield Text.assemble((_printable(snapshot.path.replace("\\", "/").rpartition("/")[2]), "bold"), f": {counts}")
    yield from _verdicts(study)
    if snapshot.events:
        yield Text()
        yield from _sparklines(study.history)
    for part in (replay_table(study.runs), owners_table(study), fragmentation_table(study.pools)):
        yield Padding(part, (1, 0, 0, 0))
    if study.out_of_memory:
        yield Text()
        yield bullets("Out of memory when recorded", [_out_of_memory(*found) for found in study.out_of_memory])
    if study.notes:
        yield Text()
        yield bullets("Notes", [escape(_printable(note)) for note in study.notes])


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
    least, most = bytes_text(capacity.at_least), capacity.at_most
    if most is None:
        return f"at least {least}"
    return least if most == capacity.at_least else f"{least} to {bytes_text(most)}"


def _ran_out(out: RanOut) -> str:
    """The request that did not fit, in words."""
    when = "before the first event" if out.event == BEFORE_THE_FIRST else f"at event {out.event}"
    held = f"{bytes_text(out.allocated_bytes)} allocated and {bytes_text(out.reserved_bytes)} reserved"
    return f"{when} {bytes_text(out.requested_bytes)} are asked for with {held}"


def _out_of_memory(out: RanOut, free: int) -> str:
    return f"{_ran_out(out)}; the driver had {bytes_text(free)} left"


def _sparklines(course: History) -> Iterator[Text]:
    """Largest allocated and reserved bytes by step, on one scale, and where the peak is."""
    top = max(course.reserved)
    steps = _steps(len(course.allocated), _STEPS)
    for name, values in (("allocated", course.allocated), ("reserved", course.reserved)):
        bars = "".join(_bar(max(values[start:end]), top) for start, end in steps)
        yield Text(f"{name:9} {bars} {bytes_text(max(values))}")
    at = next(column for column, (_, end) in enumerate(steps) if course.peak < end)
    label = f"peak {_when(course.peak)}"
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


def replay_table(runs: Sequence[Run]) -> Table:
    """The recording beside its replays."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("in the recorded window", no_wrap=True)
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_row("blocks at its start", *(run.start for run in runs))
    table.add_row("allocated peak", *(bytes_text(run.allocated_peak_bytes) for run in runs))
    table.add_row("reserved peak", *(bytes_text(run.reserved_peak_bytes) for run in runs))
    table.add_row("reserved at the end", *(bytes_text(run.reserved_end_bytes) for run in runs))
    table.add_row("segments at the end", *(f"{run.end.segments}" for run in runs))
    table.add_row("free at the end", *(bytes_text(run.end.free_bytes) for run in runs))
    table.add_row("largest free block", *(bytes_text(run.end.largest_free_bytes) for run in runs))
    table.add_row("cache released to make room", *(f"{run.retries}" for run in runs))
    if any(run.fits is not None for run in runs[1:]) or not runs[0].fits:
        table.add_row("fits", *(_fits(run) for run in runs))
    return table


def _fits(run: Run) -> str:
    if run.fits is None:
        return "unknown"
    out = run.ran_out
    if out is None:
        return "yes"
    return "NO, at its start" if out.event == BEFORE_THE_FIRST else f"NO, at event {out.event}"


def owners_table(study: Study) -> Group:
    """What is in use at the peak, by line of code."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("bytes", "share", "blocks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    peak = max(study.history.allocated)
    shown, rest = study.owners[:_ROWS_SHOWN], study.owners[_ROWS_SHOWN:]
    for owner in shown:
        table.add_row(*_account_row(owner.nbytes, owner.blocks, peak), Text(_printable(_short(owner.where))))
    if rest:
        more = f"{len(rest)} more"
        table.add_row(*_account_row(sum(o.nbytes for o in rest), sum(o.blocks for o in rest), peak), more)
    table.add_row(*_account_row(peak, sum(o.blocks for o in study.owners), peak), "together", style="bold")
    title = "What fills the allocated peak" if study.snapshot.events else "What is in use"
    return _titled(f"{title}, by line of code", table)


def _account_row(nbytes: int, blocks: int, peak: int) -> tuple[str, str, str]:
    return bytes_text(nbytes), percent_text(nbytes, peak), f"{blocks}"


def _short(where: CodeLine) -> str:
    """A line of code with the last two parts of its path."""
    if not where.filename:
        return where.function
    parts = where.filename.replace("\\", "/").split("/")
    return f"{'/'.join(parts[-2:])}:{where.line} {where.function}"


def fragmentation_table(pools: Sequence[Fragmentation]) -> Group:
    """What is free at the end, by pool."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("pool", no_wrap=False)
    for name in ("segments", "reserved", "free", "largest free block", "inactive split"):
        table.add_column(name, justify="right")
    for pool in pools:
        sizes = (pool.reserved_bytes, pool.free_bytes, pool.largest_free_bytes, pool.inactive_split_bytes)
        style = "bold" if pool.pool == "all" else ""
        table.add_row(pool.pool, f"{pool.segments}", *(bytes_text(size) for size in sizes), style=style)
    return _titled("Free at the end, by pool", table)


def _titled(title: str, table: Table) -> Group:
    """A table below its title, which may be wider."""
    return Group(Text(title, style="bold"), table)


def _printable(text: str) -> str:
    """Text of a file that is not trusted, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def snapshot_dict(study: Study) -> dict[str, Any]:
    """The same as a dict; its keys are in docs/replay.md."""
    snapshot, course = study.snapshot, study.history
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
            "event": course.peak - 1,
            "allocated_bytes": course.allocated[course.peak],
            "reserved_bytes": course.reserved[course.peak],
        },
        "timeline": [_point(course, start, end) for start, end in _steps(len(course.allocated), _POINTS)],
        "account": [_owner(owner) for owner in study.owners],
        "fragmentation": [asdict(pool) for pool in study.pools],
        "capacity": study.capacity
        and {"at_least_bytes": study.capacity.at_least, "at_most_bytes": study.capacity.at_most},
        "out_of_memory": [asdict(out) | {"device_free_bytes": free} for out, free in study.out_of_memory],
        "courses": [asdict(run) for run in study.runs],
        "notes": list(study.notes),
    }


def _point(course: History, start: int, end: int) -> dict[str, int]:
    """The largest values of a range of events; entry 0 precedes event 0."""
    return {
        "first_event": start - 1,
        "allocated_bytes": max(course.allocated[start:end]),
        "reserved_bytes": max(course.reserved[start:end]),
    }


def _capacity(capacity: Capacity | None) -> dict[str, int | None] | None:
    return capacity and {"at_least_bytes": capacity.at_least, "at_most_bytes": capacity.at_most}


def _owner(owner: Owner) -> dict[str, Any]:
    filename, line, function = owner.where
    return {
        "bytes": owner.nbytes,
        "blocks": owner.blocks,
        "file": filename or None,
        "line": line if filename else None,
        "function": function,
    }
