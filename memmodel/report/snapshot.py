"""A replayed snapshot as tables, and as a dict for JSON."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memmodel.report.tables import bullets
from memmodel.snapshot.account import CodeLine, Entry
from memmodel.snapshot.fragmentation import Fragmentation
from memmodel.snapshot.study import Course, Study
from memmodel.snapshot.timeline import Timeline
from memmodel.snapshot.what_if import BEFORE_THE_FIRST, RanOut
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
    yield Text()
    yield from _sparklines(study.timeline)
    for part in (replay_table(study.courses), account_table(study), fragmentation_table(study.pools)):
        yield Padding(part, (1, 0, 0, 0))
    if study.out_of_memory:
        yield Text()
        yield bullets("Out of memory when recorded", [_out_of_memory(*found) for found in study.out_of_memory])
    if study.notes:
        yield Text()
        yield bullets("Notes", [escape(_printable(note)) for note in study.notes])


def _verdicts(study: Study) -> Iterator[Text]:
    """Whether the model chose the recorded addresses, and whether what was asked for fits."""
    landing = study.landing
    if landing.first_different is None:
        yield Text(f"replayed as recorded: all {landing.compared} addresses are the real allocator's", style="green")
    else:
        told = f"{landing.equal} of {landing.compared} addresses are the real allocator's"
        yield Text(f"replayed as recorded: {told}, the first other one at event {landing.first_different}", "yellow")
    asked = study.courses[-1]
    if asked.fits is not None and asked.capacity is not None and len(study.courses) > 1:
        room = bytes_text(asked.capacity)
        if asked.outcome.ran_out is None:
            yield Text(f"{asked.name}: fits in {room}", style="green")
        else:
            yield Text(f"{asked.name}: does not fit in {room}: {_ran_out(asked.outcome.ran_out)}", style="red")


def _ran_out(out: RanOut) -> str:
    """The request that did not fit, in words."""
    when = "before the first event" if out.event == BEFORE_THE_FIRST else f"at event {out.event}"
    held = f"{bytes_text(out.allocated)} allocated and {bytes_text(out.reserved)} reserved"
    return f"{when} {bytes_text(out.requested)} are asked for with {held}"


def _out_of_memory(out: RanOut, free: int) -> str:
    return f"{_ran_out(out)}; the driver had {bytes_text(free)} left"


def _sparklines(course: Timeline) -> Iterator[Text]:
    """Largest allocated and reserved bytes by step, on one scale, and where the peak is."""
    top = max(course.reserved)
    steps = _steps(len(course.allocated), _STEPS)
    for name, values in (("allocated", course.allocated), ("reserved", course.reserved)):
        bars = "".join(_bar(max(values[start:end]), top) for start, end in steps)
        yield Text(f"{name:9} {bars} {bytes_text(max(values))}")
    at = next(column for column, (_, end) in enumerate(steps) if course.peak < end)
    label = f"peak {_when(course.peak)}"
    told = f"{label} ^".rjust(at + 1) if at > len(label) else f"{' ' * at}^ {label}"
    yield Text(" " * 10 + told, style="dim")


def _when(entry: int) -> str:
    """The event that an entry of the timeline follows."""
    return f"after event {entry - 1}" if entry else "before the first event"


def _steps(length: int, most: int) -> list[tuple[int, int]]:
    """At most `most` ranges of about the same length that cover `length` entries."""
    count = min(length, most)
    return list(pairwise(length * step // count for step in range(count + 1)))


def _bar(value: int, top: int) -> str:
    return " " if value <= 0 else _BARS[min(len(_BARS) - 1, value * len(_BARS) // max(top, 1))]


def replay_table(courses: Sequence[Course]) -> Table:
    """The recording beside its replays."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("in the recorded window", no_wrap=True)
    for course in courses:
        table.add_column(course.name, justify="right")
    outcomes = [course.outcome for course in courses]
    table.add_row("blocks at its start", *(course.start for course in courses))
    table.add_row("allocated peak", *(bytes_text(o.allocated_peak) for o in outcomes))
    table.add_row("reserved peak", *(bytes_text(o.reserved_peak) for o in outcomes))
    table.add_row("reserved at the end", *(bytes_text(o.reserved_end) for o in outcomes))
    table.add_row("segments at the end", *(f"{o.end.segments}" for o in outcomes))
    table.add_row("free at the end", *(bytes_text(o.end.free) for o in outcomes))
    table.add_row("largest free block", *(bytes_text(o.end.largest_free) for o in outcomes))
    table.add_row("cache released to make room", *("-" if o.retries is None else f"{o.retries}" for o in outcomes))
    if any(course.fits is not None for course in courses[1:]) or not courses[0].fits:
        table.add_row("fits", *(_fits(course) for course in courses))
    return table


def _fits(course: Course) -> str:
    if course.fits is None:
        return "unknown"
    out = course.outcome.ran_out
    if out is None:
        return "yes"
    return "NO, at its start" if out.event == BEFORE_THE_FIRST else f"NO, at event {out.event}"


def account_table(study: Study) -> Group:
    """What is in use at the peak, by line of code."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("bytes", "share", "blocks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    peak = max(study.timeline.allocated)
    shown, rest = study.account[:_ROWS_SHOWN], study.account[_ROWS_SHOWN:]
    for entry in shown:
        table.add_row(*_account_row(entry.nbytes, entry.blocks, peak), Text(_printable(_short(entry.where))))
    if rest:
        more = f"{len(rest)} more"
        table.add_row(*_account_row(sum(e.nbytes for e in rest), sum(e.blocks for e in rest), peak), more)
    table.add_row(*_account_row(peak, sum(e.blocks for e in study.account), peak), "together", style="bold")
    return _titled("What fills the allocated peak, by line of code", table)


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
        sizes = (pool.reserved, pool.free, pool.largest_free, pool.split)
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
    snapshot, landing, course = study.snapshot, study.landing, study.timeline
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
        "addresses": {
            "equal": landing.equal,
            "compared": landing.compared,
            "first_different_event": landing.first_different,
        },
        "peak": {
            "event": course.peak - 1,
            "allocated_bytes": course.allocated[course.peak],
            "reserved_bytes": course.reserved[course.peak],
        },
        "timeline": [_point(course, start, end) for start, end in _steps(len(course.allocated), _POINTS)],
        "account": [_entry(entry) for entry in study.account],
        "fragmentation": [_fragmentation(pool) for pool in study.pools],
        "out_of_memory": [_ran_out_dict(out) | {"device_free_bytes": free} for out, free in study.out_of_memory],
        "courses": [_course(course) for course in study.courses],
        "notes": list(study.notes),
    }


def _point(course: Timeline, start: int, end: int) -> dict[str, int]:
    """The largest values of a range of events; entry 0 precedes event 0."""
    return {
        "first_event": start - 1,
        "allocated_bytes": max(course.allocated[start:end]),
        "reserved_bytes": max(course.reserved[start:end]),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    filename, line, function = entry.where
    return {
        "bytes": entry.nbytes,
        "blocks": entry.blocks,
        "file": filename or None,
        "line": line if filename else None,
        "function": function,
    }


def _fragmentation(pool: Fragmentation) -> dict[str, Any]:
    return {
        "pool": pool.pool,
        "segments": pool.segments,
        "reserved_bytes": pool.reserved,
        "free_bytes": pool.free,
        "largest_free_bytes": pool.largest_free,
        "inactive_split_bytes": pool.split,
    }


def _ran_out_dict(out: RanOut) -> dict[str, int]:
    return {
        "event": out.event,
        "requested_bytes": out.requested,
        "allocated_bytes": out.allocated,
        "reserved_bytes": out.reserved,
    }


def _course(course: Course) -> dict[str, Any]:
    outcome = course.outcome
    return {
        "name": course.name,
        "start": course.start,
        "capacity_bytes": course.capacity,
        "fits": course.fits,
        "ran_out": None if outcome.ran_out is None else _ran_out_dict(outcome.ran_out),
        "allocated_peak_bytes": outcome.allocated_peak,
        "reserved_peak_bytes": outcome.reserved_peak,
        "allocated_end_bytes": outcome.allocated_end,
        "reserved_end_bytes": outcome.reserved_end,
        "retries": outcome.retries,
        "end": _fragmentation(outcome.end),
    }
