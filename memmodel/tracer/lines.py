"""The lines of the user's code that make the peak: bytes alive there, by the line that made them."""

from collections.abc import Mapping
from dataclasses import dataclass

from memmodel.origin import origin
from memmodel.program import Alloc, Free, Mark, Program, Site
from memmodel.tracer.memory import step_phases


@dataclass(frozen=True, slots=True)
class Line:
    """A line and what of the peak it makes.

    Attributes:
        file, line, function, text: the place. nbytes: alive at the peak.
        names: of the storages, largest first, each once. backward: whether they are made in this line's backward.
    """

    file: str
    line: int
    function: str
    text: str
    nbytes: int
    names: tuple[str, ...]
    backward: bool


def at_peak(program: Program) -> tuple[int, list[int]]:
    """(place among the events, keys alive) at the last step's peak."""
    last = max(i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward")
    phases = set(step_phases(program))
    live: dict[int, int] = {}
    total, best, at, keys, current = 0, -1, 0, [0], ""
    for index, event in enumerate(program.events):
        if isinstance(event, Mark):
            current = event.phase
        elif isinstance(event, Alloc):
            live[event.key] = int(event.nbytes)
            total += int(event.nbytes)
        elif isinstance(event, Free):
            total -= live.pop(event.key)
        if index >= last and current in phases and total > best:
            best, at, keys = total, index, list(live)
    return at, keys


def lines_of(program: Program, labels: Mapping[int, str], forward_of: Mapping[int, Site]) -> tuple[Line, ...]:
    """Lines by the bytes of the peak that they made, most first; the inputs belong to none."""
    _, keys = at_peak(program)
    alive = set(keys)
    found: dict[tuple[str, int, bool], list[tuple[int, str, str]]] = {}
    for event in program.events:
        if isinstance(event, Alloc) and event.key in alive and event.role != "input":
            site = event.site or forward_of.get(event.key)
            place = origin(site)
            if place is not None:
                key = place.file, place.line, event.site is None
                found.setdefault(key, []).append((int(event.nbytes), labels[event.key], place.function))
    lines = [
        Line(
            file,
            line,
            made[0][2],
            _text(file, line),
            sum(nbytes for nbytes, _, _ in made),
            tuple(dict.fromkeys(name for _, name, _ in sorted(made, key=lambda m: -m[0]))),
            backward,
        )
        for (file, line, backward), made in found.items()
    ]
    return tuple(sorted(lines, key=lambda x: -x.nbytes))


def _text(file: str, line: int) -> str:
    import linecache

    return linecache.getline(file, line).strip()
