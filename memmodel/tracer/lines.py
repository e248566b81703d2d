"""The lines of the user's code that make the peak: bytes alive there, by the line that made them."""

from collections.abc import Mapping
from dataclasses import dataclass

from memmodel.liveness import at_peak
from memmodel.origin import origin
from memmodel.program import Program, Site


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


def lines_of(program: Program, labels: Mapping[int, str], forward_of: Mapping[int, Site]) -> tuple[Line, ...]:
    """Lines by the bytes of the peak that they made, most first; the inputs belong to none."""
    _, alive = at_peak(program)
    found: dict[tuple[str, int, bool], list[tuple[int, str, str]]] = {}
    for birth in program.births():
        if birth.key in alive and birth.role != "input":
            place = origin(birth.site or forward_of.get(birth.key))
            if place is not None:
                key = place.file, place.line, birth.site is None
                found.setdefault(key, []).append((int(birth.nbytes), labels[birth.key], place.function))
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
