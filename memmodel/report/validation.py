"""Validation for the terminal: the progress of a run, and its JSON form as tables, worst cases first."""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from memmodel.base.units import MiB, bytes_text, seconds_text
from memmodel.report.sheet import Bullets, Cell, Sheet, below

Case = Mapping[str, Any]
Columns = Mapping[str, Callable[[Case], tuple[str, str]]]  # title -> (measured, predicted)
_NAMED = 4  # cases that a note lists by name; beyond that it gives their number
_LIVE = {"saved": "saved", "live\nforward": "live_peak_fwd", "live\nbackward": "live_peak_bwd"}
_ALLOCATOR = {
    "allocated\nforward": "peak_fwd",
    "allocated\nbackward": "peak_bwd",
    "reserved\nforward": "reserved_peak_fwd",
    "reserved\nbackward": "reserved_peak_bwd",
}


class Display:
    """Progress on stderr: a bar on a terminal, a line per case in a pipe. Use it in a `with`."""

    def __init__(self, total: int) -> None:
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True, highlight=False))
            self._task = self._bar.add_task("starting", total=total)
        self._place = ""
        self.finished = 0

    def __enter__(self) -> "Display":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begins(self, trial: Any, number: int, of: int) -> None:
        """A trial begins."""
        self._place = f"[{number}/{of}] {trial.name}"
        if self._bar is not None:
            self._bar.update(self._task, description=trial.name)

    def ends(self, trial: Any, how: str) -> None:
        """A trial ended."""
        self.finished += 1
        if self._bar is not None:
            self._bar.console.print(f"{trial.name}: {how}", markup=False)
            self._bar.advance(self._task)
        else:
            sys.stderr.write(f"{self._place}: {how}\n")
            sys.stderr.flush()


def validation_tables(found: Mapping[str, Any]) -> Group:
    """The documented JSON form of a validation as text and tables."""
    return Group(*_parts(found))


def _parts(found: Mapping[str, Any]) -> Iterator[Any]:
    yield _headline(found)
    if found["broken"]:
        yield Bullets("Broken promises", [f"{b['name']}: {b['promise']}" for b in found["broken"]])
    failed = [f"{case['name']}: {case['failed']}" for case in found["cases"] if case["failed"]]
    if failed:
        yield Bullets("Could not be measured", failed)
    measured = [case for case in found["cases"] if case["memory"] or case["out_of_memory"]["measured"]]
    if measured:
        yield below(_memory_table(measured))
    if found["device"] == "cuda" and measured:
        yield below(_allocator_table(measured))
    timed = [case for case in found["cases"] if case["times"]]
    if timed:
        yield below(_time_table(timed))
    searched = [case for case in found["cases"] if case["longest"]]
    if searched:
        yield below(_longest_table(searched))
    if found["skipped"]:
        yield below(Bullets("Left out", [f"{s['name']}: {s['reason']}" for s in found["skipped"]]))
    yield below(Bullets("Notes", list(_notes(found))))


def _headline(found: Mapping[str, Any]) -> Text:
    """The number of promises that hold, in one or two lines."""
    promises, here = found["promises"], found["environment"]
    place = here["cpu"] if found["device"] == "cpu" else here["gpu"]
    lines = Text.assemble((place, "bold"), f", torch {here['torch']}, Python {here['python']}\n")
    if not promises["cases"]:
        return lines.append("no case with a promise was run", "yellow")
    lines.append(
        f"{promises['kept']} of {promises['cases']} promised cases equal to the byte, "
        f"{promises['events_equal']} of {promises['events']} allocator events",
        "green" if promises["kept"] == promises["cases"] else "red",
    )
    return lines


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    why: dict[str, list[str]] = {}
    for case in found["cases"]:
        if case["no_time"]:
            why.setdefault(case["no_time"], []).append(case["name"])
    for reason, names in why.items():
        cases = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} of {len(found['cases'])} cases"
        yield f"no time predicted: {reason} ({cases})"
    if found["device"] == "cuda" and found["calibration"] is None:
        yield "times are predicted by the datasheet: the least they can be; `memmodel calibrate` measures this machine"
    elif found["calibration"] is not None:
        yield f"times are predicted by the calibration {found['calibration']}"
    resumed = sum(case["resumed"] for case in found["cases"])
    if resumed:
        yield f"{resumed} of {len(found['cases'])} cases were on record already; --again runs them again"
    yield "not modelled: what a library's own kernels allocate; of torch.compile there is a model, not a promise"
    if found["device"] == "cpu":
        yield "allocated, reserved, context and running out of memory exist only on a GPU"
    else:
        yield "live, allocated and reserved hold cuBLAS workspaces; context is what the process takes beside them"
    yield from found["notes"]
    yield f"records: {found['ledger']} ({found['source']})"


def _memory_table(cases: list[Case]) -> Sheet:
    columns: dict[str, Callable[[Case], tuple[str, str]]] = {t: _bytes_cell(name) for t, name in _LIVE.items()}
    columns["events\nequal"] = lambda case: (_events_text(case), "")
    return _paired("Memory", cases, columns, name_width=26)


def _allocator_table(cases: list[Case]) -> Sheet:
    columns: dict[str, Callable[[Case], tuple[str, str]]] = {t: _bytes_cell(name) for t, name in _ALLOCATOR.items()}
    columns["context\nMiB"] = _context_cell
    columns["OOM"] = _out_of_memory_cell
    return _paired("Allocator", cases, columns, name_width=14)


def _time_table(cases: list[Case]) -> Sheet:
    columns = {"forward": _time_cell("forward_time"), "backward": _time_cell("backward_time"), "limited by": _binding}
    return _paired("Time: median, and the middle half of the samples over it", cases, columns, name_width=26)


def _paired(title: str, cases: Iterable[Case], columns: Columns, name_width: int) -> Sheet:
    """Two lines a case: measured, predicted; the second is left out where no case has one."""
    rows = []
    for case in cases:
        cells = [cell(case) for cell in columns.values()]
        both = any(predicted for _, predicted in cells)
        name = textwrap.fill(case["name"], name_width)
        shown = (f"{m}\n{p}" if both else m for m, p in cells)
        rows.append(_row(case, name, "measured\npredicted" if both else "measured", *shown))
    return Sheet(title, ("|case", "|", *(f">{name}" for name in columns)), rows)


def _row(case: Case, *cells: str) -> tuple[Cell, ...]:
    """A case's row, red where it breaks a promise."""
    return tuple(Text(cell, "red" if case["broken"] else "") for cell in cells)


def _bytes_cell(quantity: str) -> Callable[[Case], tuple[str, str]]:
    def cell(case: Case) -> tuple[str, str]:
        row = case["memory"].get(quantity)
        if row is None:
            return "-", ""
        predicted = "" if row["predicted"] is None else bytes_text(row["predicted"])
        return "-" if row["measured"] is None else bytes_text(row["measured"]), predicted

    return cell


def _events_text(case: Case) -> str:
    events = case["events"]
    if events is None:
        return "not modelled"
    return f"{events['equal']} of {max(events['measured'], events['predicted'])}"


def _context_cell(case: Case) -> tuple[str, str]:
    measured, listed = case["context"]["measured"], case["context"]["predicted"]
    predicted = "" if listed is None else "-".join(dict.fromkeys(f"{n / MiB:.0f}" for n in listed))
    return "-" if measured is None else f"{measured / MiB:.0f}", predicted


def _out_of_memory_cell(case: Case) -> tuple[str, str]:
    words = {True: "yes", False: "no", None: ""}
    found = case["out_of_memory"]
    return words[found["measured"]], words[found["predicted"]]


def _time_cell(quantity: str) -> Callable[[Case], tuple[str, str]]:
    def cell(case: Case) -> tuple[str, str]:
        row = case["times"].get(quantity)
        if row is None:
            return "-", ""
        measured = f"{seconds_text(row['measured'])} ±{100 * row['spread']:.0f}%"
        if row["predicted"] is None:
            return measured, ""
        return measured, f"{seconds_text(row['predicted'])} ({100 * (row['ratio'] - 1):+.0f}%)"

    return cell


def _binding(case: Case) -> tuple[str, str]:
    return "", case["binding"] or ""


def _longest_table(cases: list[Case]) -> Sheet:
    columns = ("case", ">within", ">runs", ">predicted", ">first that fails", ">predicted")
    rows = []
    for case in cases:
        longest = case["longest"]
        pairs = zip(longest["measured"] or ("-", "-"), longest["predicted"] or ("-", "-"), strict=True)
        sizes = (str(size) for pair in pairs for size in pair)
        rows.append(_row(case, case["name"], bytes_text(longest["capacity"]), *sizes))
    return Sheet("Longest sequence", columns, rows)


def rank_results(results: Sequence[Any]) -> Sheet:
    """A row for each rank: its events, whether all are as traced, and its peaks in the second step."""
    rows = [
        (
            f"{x.case}, rank {x.rank}",
            f"{x.events:,}",
            "equal" if x.equal else x.difference,
            bytes_text(x.peak_bytes),
            bytes_text(x.predicted_peak_bytes),
        )
        for x in results
    ]
    columns = ("case", ">events", "as traced", ">peak", ">traced peak")
    return Sheet("Real ranks and their traces, two steps of training", columns, rows)
