"""Pictures in the terminal: they fit its width, and need neither colours nor anything beyond ASCII to be read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from memmodel.pictures.frontier import Frontier, HeatMap
from memmodel.pictures.roofline import Point, Roof, Roofline
from memmodel.pictures.timeline import Band, Timeline
from memmodel.report.scales import (
    ABOVE,
    binary_ticks,
    capacity_words,
    line_words,
    rate_label,
    roofline_ends,
    sequence_label,
    top_of,
)
from memmodel.report.terminal_chart import Axis, Chart, decades
from memmodel.units import bytes_text, decimal_text, number_text, seconds_text

NARROWEST = 60  # columns: below, labels would cover what they name
ROWS = 18
_COLORS = ("yellow", "cyan", "green", "magenta", "blue", "red", "bright_yellow")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Screen:
    """A Timeline, Roofline, Frontier or HeatMap for `rich`, in the width that there is."""

    def __init__(self, picture: object) -> None:
        self.picture = picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        width = options.max_width
        if width < NARROWEST:
            yield Text(
                f"{width} columns are too narrow for a picture, which takes {NARROWEST}: widen the terminal, "
                "or see --data and -o FILE"
            )
            return
        draw: dict[type, Callable[..., Iterator[Any]]]
        draw = {Timeline: _timeline, Roofline: _roofline, Frontier: _frontier, HeatMap: _heat_map}
        yield from draw[type(self.picture)](self.picture, width, options.ascii_only or console.is_dumb_terminal)


def screen(picture: object) -> Iterator[Screen]:
    """The picture alone."""
    yield Screen(picture)


def _timeline(shown: Timeline, width: int, ascii_only: bool) -> Iterator[Any]:
    yield Text(f"{shown.title} on {shown.gpu}: memory over one step", style="bold")
    yield Text(shown.case)
    top = top_of(shown)
    chart = Chart(width, ROWS, Axis(0, 1, False, ()), Axis(0, top, False, binary_ticks(top, 5)), ascii_only)
    columns = _columns(shown, chart.columns)
    for column, moment in enumerate(columns):
        _stack(chart, shown, column, moment)
    capacity = shown.memory.capacity_bytes
    if capacity is not None and capacity <= top:
        chart.text(0, chart.row_of(capacity), f"= capacity {bytes_text(capacity)} ".ljust(chart.columns, "="), "red")
    peak = columns.index(shown.peak)
    chart.cell(peak, min(chart.row_of(shown.at_peak.live_bytes) + 1, ROWS - 1), "^" if ascii_only else "▼", "red")
    *lines, _ = chart.lines()
    yield from lines
    yield Text(" " * 13 + _phases(shown, columns))
    yield Text(_peak_words(shown, "^" if ascii_only else "▼"))
    if len(shown.moments) > len(columns):
        yield Text(f"a column is the fullest of {len(shown.moments) / len(columns):.0f} moments or so")
    yield from _timeline_legend(shown, top)


def _columns(shown: Timeline, count: int) -> list[int]:
    """The moment that each column shows: of several, the one with the most live bytes."""
    total = len(shown.moments)
    found = []
    for column in range(count):
        start, end = column * total // count, max((column + 1) * total // count, column * total // count + 1)
        found.append(max(range(start, end), key=lambda i: shown.moments[i].live_bytes))
    return found


def _stack(chart: Chart, shown: Timeline, column: int, moment: int) -> None:
    """One column: a letter for each tensor, a capital for what is kept for backward; lines where they are above."""
    bottom = 0
    for i, band in enumerate(shown.bands):
        size, saved = band.live_bytes[moment], band.saved_bytes[moment]
        for row in range(chart.row_of(bottom), chart.row_of(bottom + size)):
            kept = chart.row_of(bottom + saved) > row
            letter = _letter(shown.bands, i)
            chart.cell(column, row, letter.upper() if kept else letter, _band_color(band, i))
        bottom += size
    now = shown.moments[moment]
    for value, marker in ((now.allocated_bytes, "-"), (now.reserved_bytes, "+")):
        if chart.row_of(value) > chart.row_of(bottom):
            chart.cell(column, chart.row_of(value), marker)


def _letter(bands: Sequence[Band], i: int) -> str:
    return {"inputs": ".", "rest": "*"}.get(bands[i].kind, _LETTERS[i - 1])


def _band_color(band: Band, i: int) -> str | None:
    return None if band.kind != "tensor" else _COLORS[(i - 1) % len(_COLORS)]


def _phases(shown: Timeline, columns: Sequence[int]) -> str:
    if shown.backward is None:
        return "forward, allocation by allocation"
    start = next(i for i, moment in enumerate(columns) if moment >= shown.backward)
    return f"{'forward':<{max(start, 8)}}|backward, allocation by allocation"


def _peak_words(shown: Timeline, arrow: str) -> str:
    return f"{arrow} peak {bytes_text(shown.at_peak.live_bytes)}, in {shown.at_peak.phase}: {shown.at_peak.what}"


def _timeline_legend(shown: Timeline, top: float) -> Iterator[Any]:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("top of the stack first", overflow="fold")
    for name in ("at the peak", "at most", "kept for backward"):
        table.add_column(name, justify="right", no_wrap=True)
    for i, band in reversed(list(enumerate(shown.bands))):
        saved = max(band.saved_bytes)
        table.add_row(
            _letter(shown.bands, i),
            Text(band.name),
            bytes_text(band.live_bytes[shown.peak]),
            bytes_text(max(band.live_bytes)),
            f"{bytes_text(saved)}, as {_letter(shown.bands, i).upper()}" if saved else "",
        )
    yield table
    memory = shown.memory
    yield Text(f"- {line_words('allocated', memory.allocated_peak_bytes, top)}; not drawn where it meets the stack")
    yield Text(f"+ {line_words('reserved', memory.reserved_peak_bytes, top)}")
    yield Text(capacity_words(memory, top))


def _roofline(shown: Roofline, width: int, ascii_only: bool) -> Iterator[Any]:
    yield Text(f"{shown.gpu}: roofline, {shown.case}", style="bold")
    yield Text("FLOP/s")
    (x0, x1), (y0, y1) = roofline_ends(shown)
    x = Axis(x0, x1, True, [(value, f"{value:g}") for value in decades(x0, x1)])
    y = Axis(y0, y1, True, [(value, rate_label(value)) for value in decades(y0, y1)])
    chart = Chart(width, ROWS + 2, x, y, ascii_only)
    for roof in shown.roofs:
        if roof.kind == "compute":
            chart.line([(min(max(roof.rate / shown.memory.rate, x0), x1), roof.rate), (x1, roof.rate)], "-", "blue")
    for roof in reversed(shown.slopes):
        _slope(chart, roof.rate, "cyan" if roof == shown.memory else "blue")
    for one in shown.measured:
        chart.mark(one.intensity, one.rate, "x", "magenta")
    for i, point in reversed(list(enumerate(shown.points))):
        if point.expected_rate is not None:
            chart.mark(point.intensity, point.expected_rate, _LETTERS[i % 26], "yellow")
        chart.mark(point.intensity, point.rate, _LETTERS[i % 26].upper(), "green")
    _roof_labels(chart, shown)
    yield from chart.lines()
    yield Text(f"{'FLOP per byte of HBM traffic':>{width - 1}}")
    yield from _roofline_legend(shown)


def _slope(chart: Chart, bandwidth: float, color: str) -> None:
    """A memory's ceiling up to the highest flat one."""
    low = max(chart.x.low, chart.y.low / bandwidth)
    high = min(chart.x.high, chart.y.high / bandwidth)
    chart.line([(low, low * bandwidth), (high, high * bandwidth)], "/", color)


def _roof_labels(chart: Chart, shown: Roofline) -> None:
    """A number at the right end of each flat ceiling, named below; memories by name beside their lines."""
    for number, roof in enumerate(_flat(shown), start=1):
        chart.label(chart.columns - 1, chart.row_of(roof.rate), f"{number}", "blue")
    for roof in shown.slopes:
        words = f"{roof.name} {decimal_text(roof.rate, 'B/s')}"
        right = roof == shown.memory
        lowest = max(roof.rate * chart.x.low, chart.y.low)
        rate = lowest * (shown.peak.rate / lowest) ** (0.1 if right else 0.75)
        column, row = chart.at(rate / roof.rate, rate)
        start = int(column) + (3 if right else -2 - len(words))
        chart.label(start, int(row), words, "cyan" if right else "blue")


def _flat(shown: Roofline) -> list[Roof]:
    return [roof for roof in shown.roofs if roof.kind == "compute"]


def _roof_words(shown: Roofline) -> str:
    """Every ceiling by its number."""
    units = (decimal_text(roof.rate, "exp/s" if roof.name == "exp units" else "FLOP/s") for roof in _flat(shown))
    names = (f"{i} {roof.name} {rate}" for i, (roof, rate) in enumerate(zip(_flat(shown), units, strict=True), start=1))
    slopes = (f"{roof.name} {decimal_text(roof.rate, 'B/s')}" for roof in shown.slopes)
    return f"ceilings: {'; '.join((*slopes, *names))}"


def _roofline_legend(shown: Roofline) -> Iterator[Any]:
    yield Text(_roof_words(shown))
    yield Text(
        f"balance point {shown.balance:.0f} FLOP/B for {shown.dtype}: left of it memory limits, right of it arithmetic"
    )
    expected = any(point.expected_seconds is not None for point in shown.points)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "kernel", "FLOP/B", "at least", "FLOP/s", *(("expected",) if expected else ()), "limited by"):
        table.add_column(name, justify="left" if name in ("", "kernel", "limited by") else "right")
    for i, point in enumerate(shown.points):
        table.add_row(*_point_row(i, point, expected))
    yield table
    small = "; small ones: as expected" if expected else ""
    yield Text(f"capital letters: by the datasheet, a lower bound of the time{small}")
    if shown.above:
        yield Text(ABOVE)
    if shown.without:
        yield Text(f"without arithmetic, and so not shown: {', '.join(shown.without)}")
    if shown.measured:
        yield Text(f"x: {len(shown.measured)} measured runs")
        yield from (Text(note) for note in shown.notes)


def _point_row(i: int, point: Point, expected: bool) -> tuple[str, ...]:
    times = f" x{point.launches}" if point.launches > 1 else ""
    seconds = "" if point.expected_seconds is None else seconds_text(point.expected_seconds)
    letter = _LETTERS[i % 26]
    return (
        f"{letter.upper()} {letter}" if expected else letter.upper(),
        escape(f"{point.algorithm}: {point.kernel}{times}"),
        number_text(point.intensity),
        seconds_text(point.seconds),
        decimal_text(point.rate, ""),
        *((seconds,) if expected else ()),
        point.binding,
    )


def _frontier(shown: Frontier, width: int, ascii_only: bool) -> Iterator[Any]:
    yield Text(f"the longest sequence that fits, by {shown.against}: {shown.case}", style="bold")
    walls = [wall for line in shown.lines for wall in line.walls if wall.largest]
    if walls:
        yield Text("seq")
        yield from _walls_chart(shown, walls, width, ascii_only)
        yield Text(f"{shown.against:>{width - 1}}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column(shown.against, overflow="fold")
    for wall in shown.lines[0].walls:
        table.add_column(f"{wall.size}", justify="right", no_wrap=True)
    for i, line in enumerate(shown.lines):
        cells = (f"{wall.largest}" if wall.largest else "none" for wall in line.walls)
        table.add_row(_LETTERS[i % 26].upper(), escape(f"{line.algorithm}, {line.gpu_id}"), *cells)
    yield table
    yield Text(f"multiples of {shown.step}; each fits, and the next does not")


def _walls_chart(shown: Frontier, walls: Sequence[Any], width: int, ascii_only: bool) -> Iterable[Any]:
    sizes = [wall.size for wall in shown.lines[0].walls]
    low, high = min(w.largest for w in walls) / 1.5, max(w.largest for w in walls) * 1.5
    x = Axis(sizes[0], max(sizes[-1], sizes[0] * 2), True, [(size, f"{size}") for size in sizes])
    powers = [float(1 << p) for p in range(5, 40, 2) if low <= 1 << p <= high]
    y = Axis(low, high, True, [(value, sequence_label(value)) for value in powers])
    chart = Chart(width, ROWS, x, y, ascii_only)
    for i, line in enumerate(shown.lines):
        points = [(wall.size, wall.largest) for wall in line.walls if wall.largest]
        chart.line(points, ".", _COLORS[i % len(_COLORS)])
    for i, line in enumerate(shown.lines):
        for wall in line.walls:
            if wall.largest:
                chart.mark(wall.size, wall.largest, _LETTERS[i % 26].upper(), _COLORS[i % len(_COLORS)])
    return chart.lines()


def _heat_map(shown: HeatMap, width: int, ascii_only: bool) -> Iterator[Any]:
    yield Text(f"{shown.title} on {shown.gpu}: memory as a share of {bytes_text(shown.capacity_bytes)}", style="bold")
    yield Text(f"{shown.case}; XXX does not fit")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"seq \\ {shown.against}", justify="right")
    for size in shown.sizes:
        table.add_column(f"{size}", justify="right", no_wrap=True)
    cells = {(cell.size, cell.seq): cell for cell in shown.cells}
    for seq in reversed(shown.seqs):
        row = [cells[size, seq] for size in shown.sizes]
        table.add_row(f"{seq}", *(_cell(c.reserved_peak_bytes / shown.capacity_bytes, c.fits) for c in row))
    yield table
    found = (f"{wall.largest}" if wall.largest else "none" for wall in shown.line.walls)
    yield Text(f"the longest that fits, by {shown.against}: {', '.join(found)}")


def _cell(share: float, fits: bool) -> Text:
    if not fits:
        return Text("XXX", style="red")
    return Text("<1 %" if share < 0.005 else f"{100 * share:.0f} %", style="green" if share < 0.5 else "yellow")
