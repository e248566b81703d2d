"""The lines of the user's code behind the live peak: the bytes alive there, by the line that allocated them."""

from collections.abc import Mapping
from dataclasses import dataclass

from memmodel.liveness import at_peak
from memmodel.origin import origin
from memmodel.program import Program, Site


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of code and the bytes of the peak that it allocated.

    Attributes:
        file, line, function, text: the place.
        nbytes: alive at the peak.
        names: of the storages, largest first, each once.
        backward: whether the line's backward allocated them, not the line itself.
    """

    file: str
    line: int
    function: str
    text: str
    nbytes: int
    names: tuple[str, ...]
    backward: bool


def lines_of(program: Program, labels: Mapping[int, str], forward_of: Mapping[int, Site]) -> tuple[SourceLine, ...]:
    """Lines by the bytes of the peak that they allocated, most first; the inputs belong to none.

    Args:
        program: the events, whose sizes are ints.
        labels: storage -> its name.
        forward_of: storage allocated in backward -> the line of forward whose backward it is.
    """
    _, alive = at_peak(program)
    found: dict[tuple[str, int, bool], list[tuple[int, str, str]]] = {}
    for birth in program.births():
        if birth.key in alive and birth.role != "input":
            place = origin(birth.site or forward_of.get(birth.key))
            if place is not None:
                key = place.file, place.line, birth.site is None
                found.setdefault(key, []).append((int(birth.nbytes), labels[birth.key], place.function))
    lines = [
        SourceLine(
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
