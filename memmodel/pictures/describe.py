"""Descriptions of a Timeline, Roofline, Frontier, HeatMap or GpuComparison as `Picture`s, for every drawer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import singledispatch
from itertools import groupby

from memmodel.base.errors import UsageError
from memmodel.base.units import bytes_text, decimal_text, number_text, range_text, seconds_text
from memmodel.gpu_comparison import GpuComparison, OnGpu
from memmodel.models.fit import FitReport
from memmodel.pictures.frontier import Frontier, HeatMap
from memmodel.pictures.frontier import Line as Walls
from memmodel.pictures.layouts import layouts_picture
from memmodel.pictures.picture import (
    DASHES,
    SERIES,
    SHAPES,
    Area,
    Axis,
    Cell,
    Entry,
    Line,
    Look,
    Mark,
    Picture,
    log_axis,
    memory_axis,
    split,
)
from memmodel.pictures.roofline import Point, Roof, Roofline
from memmodel.pictures.timeline import Band, Timeline

_ROOM = 1.08  # height of a memory axis over its highest line
_VISIBLE = 4  # the axis includes lines up to this many times the live peak, so that tensors stay visible
_NEAR = 1.6  # the axis includes a capacity up to this many times the highest line
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@singledispatch
def pictures_of(shown: object) -> list[Picture]:
    """The pictures of a result: one, or one per GPU or algorithm where their series would hide each other."""
    raise TypeError(f"no picture is known of {type(shown).__name__}")


@pictures_of.register
def _picture(shown: Picture) -> list[Picture]:
    return [shown]


def _tone(i: int) -> str:
    return str(i % SERIES + 1)


def _note(text: str, look: Look | None = None) -> Entry:
    return Entry(look or Look(), (text,))


@pictures_of.register
def _timeline(shown: Timeline) -> list[Picture]:
    count, top = len(shown.moments), _top(shown)
    return [
        Picture(
            f"{shown.title} on {shown.gpu}: memory over one step",
            shown.case,
            Axis("allocations and frees, in order", 0, count, False, tuple(_phases(shown))),
            memory_axis(top),
            _verdict(shown, top),
            areas=tuple(_areas(shown.bands)),
            lines=tuple(_levels(shown, top)),
            marks=(Mark(_PEAK, shown.peak + 0.5, shown.at_peak.live_bytes),),
            columns=("tensor, top of the stack first", "at the peak", "at most", "kept for backward"),
            legend=tuple(_layer(shown, band, i) for i, band in reversed(list(enumerate(shown.bands)))),
            notes=tuple(_timeline_notes(shown, top)),
        )
    ]


_PEAK = Look("▼", "limit", shape="▼")
_CAPACITY = Look("=", "limit", "dashdot", 1.8)
_LEVELS = {"allocated": Look("-", "ink", "solid"), "reserved": Look("+", "ink", "dashed", 1.3)}


def _top(shown: Timeline) -> float:
    """The upper end of a timeline's axis in bytes.

    It includes live bytes; the allocator's, unless tensors would be too small to see beside them (as beside cuBLAS
    workspaces); and the capacity, unless it is far above both.
    """
    memory = shown.memory
    lines = max(memory.reserved_peak_bytes, memory.allocated_peak_bytes)
    highest = max(memory.live_peak_bytes, 1)
    if lines <= _VISIBLE * highest:
        highest = max(highest, lines)
    capacity = memory.capacity_bytes
    if capacity is not None and capacity <= _NEAR * highest:
        highest = max(highest, capacity)
    return _ROOM * highest


def _phases(shown: Timeline) -> Iterator[tuple[float, str]]:
    """(middle, name) of each phase, as ticks."""
    start = 0
    for phase, moments in groupby(moment.phase for moment in shown.moments):
        count = len(list(moments))
        yield start + count / 2, phase
        start += count


def _areas(bands: Sequence[Band]) -> Iterator[Area]:
    lower: tuple[int, ...] = (0,) * len(bands[0].live_bytes)
    for i, band in enumerate(bands):
        upper = tuple(low + size for low, size in zip(lower, band.live_bytes, strict=True))
        kept = tuple(low + size for low, size in zip(lower, band.saved_bytes, strict=True))
        yield Area(_band_look(band, i), lower, upper, kept)
        lower = upper


def _band_look(band: Band, i: int) -> Look:
    tone = {"inputs": "faint", "rest": "light"}.get(band.kind, _tone(i - 1))
    return Look(_LETTERS[i % 26].lower(), tone)


def _layer(shown: Timeline, band: Band, i: int) -> Entry:
    saved = max(band.saved_bytes)
    sizes = (bytes_text(band.live_bytes[shown.peak]), bytes_text(max(band.live_bytes)))
    return Entry(_band_look(band, i), (band.name, *sizes, bytes_text(saved) if saved else ""))


def _levels(shown: Timeline, top: float) -> Iterator[Line]:
    """Lines of allocated and reserved bytes, of the capacity, and at the start of backward."""
    for name, look in _LEVELS.items():
        values = [getattr(moment, f"{name}_bytes") for moment in shown.moments]
        yield Line(look, (*enumerate(values), (len(values), values[-1])), step=True)
    capacity = shown.memory.capacity_bytes
    if capacity is not None and capacity <= top:
        yield Line(_CAPACITY, ((0, capacity), (len(shown.moments), capacity)))
    if shown.backward is not None:
        yield Line(Look("|", "ink", "dotted", 0.8), ((shown.backward, 0), (shown.backward, top)))


def _verdict(shown: Timeline, top: float) -> Entry:
    """Whether the step fits, and whether the capacity lies above the picture."""
    memory = shown.memory
    if memory.capacity_bytes is None:
        return _note("the GPU's capacity is not known")
    capacity = bytes_text(memory.capacity_bytes)
    if not memory.fits:
        reserved = bytes_text(memory.reserved_peak_bytes)
        return _note(f"does not fit: {reserved} reserved, {capacity} capacity", Look(tone="limit"))
    return _note(f"fits: capacity {capacity}" + (", above the picture" if memory.capacity_bytes > top else ""))


def _timeline_notes(shown: Timeline, top: float) -> Iterator[Entry]:
    peak = shown.at_peak
    yield _note(f"peak {bytes_text(peak.live_bytes)}, in {peak.phase}: {peak.what}", _PEAK)
    if any(any(band.saved_bytes) for band in shown.bands):
        yield _note("kept for backward, as a capital letter or hatched", Look("A", fill="hatched"))
    memory = shown.memory
    for name, most in (("allocated", memory.allocated_peak_bytes), ("reserved", memory.reserved_peak_bytes)):
        yield _note(
            f"{name}, at most {bytes_text(most)}" + (", above the picture" if most > top else ""), _LEVELS[name]
        )
    if memory.capacity_bytes is not None and memory.capacity_bytes <= top:
        yield _note(f"capacity {bytes_text(memory.capacity_bytes)}", _CAPACITY)


@pictures_of.register
def _layouts(shown: FitReport) -> list[Picture]:
    return [layouts_picture(shown)]


@pictures_of.register
def _roofline(shown: Roofline) -> list[Picture]:
    """One picture for all algorithms; one for each, on the same axes, if there are so many that points hide others."""
    axes = _roofline_axes(shown)
    algorithms = list(dict.fromkeys(point.algorithm for point in shown.points))
    if len(algorithms) <= _TOGETHER:
        return [_kernels(shown, shown.points, axes, f"{shown.gpu}: roofline")]
    panels = [[point for point in shown.points if point.algorithm == name] for name in algorithms]
    return [_kernels(shown, panel, axes, f"{shown.gpu}: roofline of {panel[0].algorithm}") for panel in panels]


_TOGETHER = 3  # algorithms in one roofline


def _kernels(shown: Roofline, points: Sequence[Point], axes: tuple[Axis, Axis], title: str) -> Picture:
    x, y = axes
    expected = any(point.expected_seconds is not None for point in points)
    algorithms = list(dict.fromkeys(point.algorithm for point in points))
    looks = [_point_look(i, algorithms.index(point.algorithm)) for i, point in enumerate(points)]
    return Picture(
        title,
        shown.case,
        x,
        y,
        aspect=0.6,
        lines=(*_ceilings(shown, x, y), *_joins(shown, points, looks)),
        marks=tuple(_points(shown, points, looks)),
        columns=("kernel", "at least", *(("expected",) if expected else ()), "FLOP/B", "FLOP/s", "limited by"),
        legend=tuple(Entry(look, _kernel(p, expected)) for p, look in zip(points, looks, strict=True)),
        notes=tuple(_roofline_notes(shown, algorithms, expected)),
    )


_BALANCE = Look(":", "limit", "dotted")
_MEASURED = Look("✖", "6", shape="✖")


def _roofline_axes(shown: Roofline) -> tuple[Axis, Axis]:
    """Axes that include every kernel, every ceiling and the balance point, with a margin."""
    intensities = [p.intensity for p in shown.points] + [p.intensity for p in shown.measured] + [shown.balance]
    low, high = min(*intensities, 1.0) / 3, max(intensities) * 8
    rates = [rate for p in shown.points for rate in (p.rate, p.expected_rate or p.rate)]
    rates += [p.rate for p in shown.measured] + [roof.rate for roof in _flat(shown)]
    bottom, top = min(*rates, shown.memory.rate * low) / 2, max(rates) * 3
    x = log_axis("FLOP per byte of HBM traffic", low, high, lambda value: f"{value:,g}")
    return x, log_axis("arithmetic per second", bottom, top, lambda value: f"{_plain(value)}FLOP/s")


def _plain(value: float) -> str:
    """A power of ten with its prefix: "100 G", "1 T"."""
    number, _, prefix = decimal_text(value, "").partition(" ")
    return f"{float(number):g} {prefix}"


def _flat(shown: Roofline) -> list[Roof]:
    return [roof for roof in shown.roofs if roof.kind == "compute"]


def _ceilings(shown: Roofline, x: Axis, y: Axis) -> Iterator[Line]:
    """Memories' slopes up to the highest flat ceiling, flat ceilings from HBM's slope on, and the balance point."""
    highest = max(roof.rate for roof in _flat(shown))
    for roof in shown.slopes:
        main = roof == shown.memory
        low = max(x.low, y.low / roof.rate)
        ends = ((low, low * roof.rate), (highest / roof.rate, highest))
        yield Line(_roof_look("/", main), ends, f"{roof.name}: {decimal_text(roof.rate, 'B/s')}")
    for number, roof in enumerate(_flat(shown), 1):
        unit = "exp/s" if roof.name == "exp units" else "FLOP/s"
        start = max(roof.rate / shown.memory.rate, x.low)
        look = _roof_look(f"{number}", roof == shown.peak)
        yield Line(look, ((start, roof.rate), (x.high, roof.rate)), f"{roof.name}: {decimal_text(roof.rate, unit)}")
    yield Line(_BALANCE, ((shown.balance, y.low), (shown.balance, y.high)))


def _roof_look(key: str, main: bool) -> Look:
    return Look(key, "ink" if main else "roof", "solid", 1.8 if main else 0.9)


def _point_look(i: int, algorithm: int) -> Look:
    key = _LETTERS[i % 26] + (f"{i // 26 + 1}" if i >= 26 else "")
    return Look(key, _tone(algorithm), shape=SHAPES[algorithm % len(SHAPES)])


def _joins(shown: Roofline, points: Sequence[Point], looks: Sequence[Look]) -> Iterator[Line]:
    """Thin lines from each kernel's datasheet rate to its expected one, and from predicted to measured rates."""
    for point, look in zip(points, looks, strict=True):
        if point.expected_rate is not None:
            thin = Look("", look.tone, "solid", 0.8)
            yield Line(thin, ((point.intensity, point.rate), (point.intensity, point.expected_rate)))
    for one in shown.measured:
        thin = Look("", _MEASURED.tone, "solid", 0.5)
        yield Line(thin, ((one.intensity, one.predicted_rate), (one.intensity, one.rate)))


def _points(shown: Roofline, points: Sequence[Point], looks: Sequence[Look]) -> Iterator[Mark]:
    yield from (Mark(_MEASURED, one.intensity, one.rate) for one in shown.measured)
    for point, look in zip(points, looks, strict=True):
        if point.expected_rate is not None:
            small = Look(look.key.lower(), look.tone, shape=look.shape, fill="hollow")
            yield Mark(small, point.intensity, point.expected_rate)
        yield Mark(look, point.intensity, point.rate)


def _kernel(point: Point, expected: bool) -> tuple[str, ...]:
    times = f" x{point.launches}" if point.launches > 1 else ""
    return (
        f"{point.algorithm}: {point.kernel}{times}",
        seconds_text(point.seconds),
        *(("" if point.expected_seconds is None else seconds_text(point.expected_seconds),) if expected else ()),
        number_text(point.intensity),
        decimal_text(point.rate, ""),
        point.binding,
    )


def _roofline_notes(shown: Roofline, algorithms: Sequence[str], expected: bool) -> Iterator[Entry]:
    words = f"balance point {shown.balance:.0f} FLOP/B for {shown.dtype}"
    yield _note(f"{words}: left of it memory limits, right of it arithmetic", _BALANCE)
    small = "; small and hollow: as expected" if expected else ""
    yield _note(f"capital letters: by the datasheet, a lower bound of the time{small}")
    for step in (step for step in shown.steps if step.algorithm in algorithms):
        ends = "" if step.low is None or step.high is None else f", 90 % of runs {range_text(step.low, step.high)}"
        yield _note(f"{step.algorithm}, one step: expected {seconds_text(step.seconds)}{ends}")
    if shown.above:
        yield _note("a point above its ceiling counts other units too, or bytes that L2 may hold")
    if shown.without:
        yield _note(f"without arithmetic, and so not shown: {', '.join(shown.without)}")
    if shown.measured:
        yield _note(f"{len(shown.measured)} measured runs, joined to what is predicted for them", _MEASURED)
        yield from map(_note, shown.notes)


@pictures_of.register
def _frontier(shown: Frontier) -> list[Picture]:
    """A picture per GPU if there are several algorithms, else for all GPUs; of many lines several, on the same axes."""
    by_gpu = len({line.algorithm for line in shown.lines}) > 1
    gpus = list(dict.fromkeys(line.gpu for line in shown.lines)) if by_gpu else [None]
    axes = _frontier_axes(shown)
    panels = [_coinciding([line for line in shown.lines if gpu in (None, line.gpu)]) for gpu in gpus]
    return [_panel(shown, part, axes, by_gpu) for panel in panels for part in split(panel, _LINES)]


_LINES = 12  # in one frontier: more would hide each other


def _coinciding(lines: Sequence[Walls]) -> list[list[Walls]]:
    """Lines in groups that lie on one another."""
    together: dict[tuple[object, ...], list[Walls]] = {}
    for line in lines:
        together.setdefault(line.walls, []).append(line)
    return list(together.values())


def _panel(shown: Frontier, groups: Sequence[Sequence[Walls]], axes: tuple[Axis, Axis], by_gpu: bool) -> Picture:
    lines = [line for same in groups for line in same]
    of = lines[0].gpu if by_gpu else lines[0].title
    found = [(_line_look(i), same) for i, same in enumerate(groups)]
    return Picture(
        f"{of}: the longest sequence that fits, by {shown.against}",
        shown.case,
        *axes,
        lines=tuple(Line(look, tuple((w.size, w.largest) for w in same[0].walls if w.largest)) for look, same in found),
        columns=(shown.against, *(f"{wall.size}" for wall in lines[0].walls)),
        legend=tuple(Entry(look, tuple(_walls(shown, same, by_gpu))) for look, same in found),
        notes=tuple(map(_note, _frontier_notes(shown, lines))),
    )


def _frontier_notes(shown: Frontier, lines: Sequence[Walls]) -> Iterator[str]:
    yield f"out of memory above each line; multiples of {shown.step}, each fits and the next does not"
    most = shown.most
    if most is not None and any(wall.largest + shown.step > most for line in lines for wall in line.walls):
        yield f"at {most:,} tokens the model's table of positions ends, not the memory"


def _line_look(i: int) -> Look:
    return Look(_LETTERS[i], _tone(i), DASHES[i // SERIES % len(DASHES)], 1.3, SHAPES[i % len(SHAPES)])


def _walls(shown: Frontier, same: Sequence[Walls], by_gpu: bool) -> Iterator[str]:
    """A row of the legend: the names of lines that coincide, and their longest sequences."""
    without = [wall.size for wall in same[0].walls if not wall.largest]
    ends = f": nothing fits from {shown.against} {without[0]} on" if without else ""
    yield ", ".join(line.title if by_gpu else line.gpu for line in same) + ends
    yield from (f"{wall.largest}" if wall.largest else "none" for wall in same[0].walls)


def _frontier_axes(shown: Frontier) -> tuple[Axis, Axis]:
    sizes = [wall.size for wall in shown.lines[0].walls]
    found = [wall.largest for line in shown.lines for wall in line.walls if wall.largest] or [shown.step]
    x = Axis(shown.against, sizes[0] / 1.25, sizes[-1] * 1.25, True, tuple((size, f"{size}") for size in sizes))
    return x, log_axis("longest sequence that fits", min(found) / 1.5, max(found) * 1.5, _length, 2)


def _length(value: float) -> str:
    """A length in the notation of options: 512, 16k, 1M."""
    count = int(value)
    for factor, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= factor and count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count}"


@pictures_of.register
def _heat_map(shown: HeatMap) -> list[Picture]:
    columns, rows = _places(shown.sizes), _places(shown.seqs)
    cells = []
    for cell in shown.cells:
        share = cell.reserved_peak_bytes / shown.capacity_bytes
        words = "<1 %" if share < 0.005 else f"{100 * share:.0f} %"
        where = columns[cell.size], rows[cell.seq]
        cells.append(Cell(*where, min(share, 1.0), words) if cell.fits else Cell(*where, None, ""))
    found = ", ".join(f"{wall.largest}" if wall.largest else "none" for wall in shown.line.walls)
    return [
        Picture(
            f"{shown.title} on {shown.gpu}: memory reserved, of {bytes_text(shown.capacity_bytes)}",
            f"{shown.case}; crossed out: does not fit",
            _categories(shown.against, columns),
            _categories("sequence", rows),
            aspect=0.6,
            cells=tuple(cells),
            notes=(_note(f"the longest that fits, by {shown.against}: {found}"),),
        )
    ]


def _places(values: Sequence[int]) -> dict[int, int]:
    return {value: i for i, value in enumerate(values)}


def _categories(label: str, places: dict[int, int]) -> Axis:
    return Axis(label, -0.5, len(places) - 0.5, False, tuple((at, f"{value:,}") for value, at in places.items()))


_OWN = Look("●", "3", "solid", 1.8, "●")
_OF_OTHERS = Look("■", "1", "solid", 1.8, "■")
_BOUND = Look("◆", "roof", shape="◆")
_DECADES = 100  # with less between the ends, ticks at 1, 2 and 5
_ROW = 1 / 40  # height over width of a row, which is one line of a terminal


@pictures_of.register
def _comparison(shown: GpuComparison) -> list[Picture]:
    """A row for each GPU that there is a time for: the interval of its expected time, and the bound."""
    rows = [row for row in shown if row.calibrated is not None]
    if not rows:
        raise UsageError(f"nothing to draw: no expected time on {', '.join(row.gpu.id for row in shown)}")
    return [
        Picture(
            f"{shown.title}: the time to expect, by GPU",
            shown.case.describe(),
            _times(rows),
            _gpu_rows(rows),
            aspect=_ROW * (len(rows) + 2),
            lines=tuple(_interval(row, at) for at, row in _from_below(rows)),
            marks=tuple(mark for at, row in _from_below(rows) for mark in _marks(row, at)),
            notes=tuple(_comparison_notes(rows)),
        )
    ]


def _from_below(rows: Sequence[OnGpu]) -> Iterator[tuple[int, OnGpu]]:
    """Each row with its place on the axis, the first one the highest."""
    return enumerate(reversed(rows))


def _times(rows: Sequence[OnGpu]) -> Axis:
    ends = [end for row in rows for end in (*_ends(row), row.time.seconds if row.time else _ends(row)[0])]
    low, high = min(ends) / 1.3, max(ends) * 1.3
    steps = (1, 2, 5) if high / low < _DECADES else (1,)
    places = (step * 10.0**power for power in range(math.floor(math.log10(low)), 6) for step in steps)
    return Axis("time of a step", low, high, True, tuple((x, seconds_text(x)) for x in places if low <= x <= high))


def _ends(row: OnGpu) -> tuple[float, float]:
    """The ends of the interval, or twice the expected time without one."""
    assert row.calibrated is not None
    seconds = row.calibrated.seconds
    return row.calibrated.low or seconds, row.calibrated.high or seconds


_FITS = {True: "", False: " NO", None: " ?"}  # after a GPU's name


def _gpu_rows(rows: Sequence[OnGpu]) -> Axis:
    names = (f"{row.gpu.id}{_FITS[row.memory.fits]}" for row in reversed(rows))
    return Axis("", -1, len(rows), False, tuple((float(at), name) for at, name in enumerate(names)))


def _interval(row: OnGpu, at: int) -> Line:
    low, high = _ends(row)
    return Line(replace(_expected_look(row), shape=""), ((low, at), (high, at)))


def _expected_look(row: OnGpu) -> Look:
    assert row.calibrated is not None
    return _OF_OTHERS if row.calibrated.basis == "transferred" else _OWN


def _marks(row: OnGpu, at: int) -> Iterator[Mark]:
    assert row.calibrated is not None
    yield Mark(_expected_look(row), row.calibrated.seconds, at)
    if row.time is not None:
        yield Mark(_BOUND, row.time.seconds, at)


def _comparison_notes(rows: Sequence[OnGpu]) -> Iterator[Entry]:
    found = {_expected_look(row) for row in rows}
    if _OWN in found:
        yield _note("expected, by rates of the GPU itself, with the interval of 90 % of runs", _OWN)
    if _OF_OTHERS in found:
        yield _note("expected, by rates transferred from another GPU, with that interval", _OF_OTHERS)
    yield _note("at least: no run is faster", _BOUND)
    if any(row.memory.fits is False for row in rows):
        yield _note("NO: the step does not fit")
    if any(row.memory.fits is None for row in rows):
        yield _note("?: the GPU's memory is not known")
