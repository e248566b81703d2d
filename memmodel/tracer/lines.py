"""The lines of the user's code behind the live peak: the bytes alive there, by the line that allocated them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memmodel.events.liveness import at_peak
from memmodel.events.origin import line_of, users_frame
from memmodel.events.program import Program, Site


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of code and the bytes of the peak that it allocated.

    Attributes:
        file, line, function, text: the place, in the user's own code where a library made it.
        nbytes: alive at the peak.
        names: of the storages, largest first, each once.
        backward: whether the line's backward allocated them, not the line itself.
        stack: the calls that led to the largest of them, innermost first.
    """

    file: str
    line: int
    function: str
    text: str
    nbytes: int
    names: tuple[str, ...]
    backward: bool
    stack: tuple[str, ...] = ()

    def with_stack(self) -> "SourceLine":
        """A copy whose text also shows the calls."""
        return replace(self, text="\n  ".join((self.text, *self.stack)))


def lines_of(program: Program, labels: Mapping[int, str], forward_of: Mapping[int, Site]) -> tuple[SourceLine, ...]:
    """Lines by the bytes of the peak that they allocated, most first; the inputs belong to none.

    Args:
        program: the events, whose sizes are ints.
        labels: storage -> its name.
        forward_of: storage allocated in backward -> the line of forward whose backward it is.
    """
    _, alive = at_peak(program)
    found: dict[tuple[str, int, bool], list[tuple[int, str, Site]]] = {}
    for birth in program.births():
        if birth.key in alive and birth.role != "input":
            site = birth.site or forward_of.get(birth.key)
            if site is not None:
                frame = users_frame(site)
                key = frame[0].co_filename, line_of(frame), birth.site is None
                found.setdefault(key, []).append((int(birth.nbytes), labels[birth.key], site))
    lines = [
        SourceLine(
            file,
            line,
            users_frame(made[0][2])[0].co_qualname.rpartition("<locals>.")[2],
            _text(file, line),
            sum(nbytes for nbytes, _, _ in made),
            tuple(dict.fromkeys(name for _, name, _ in sorted(made, key=lambda m: -m[0]))),
            backward,
            tuple(f"{code.co_filename}:{line_of((code, at))} {code.co_name}" for code, at in _largest(made).frames),
        )
        for (file, line, backward), made in found.items()
    ]
    return tuple(sorted(lines, key=lambda x: -x.nbytes))


def _largest(made: list[tuple[int, str, Site]]) -> Site:
    return max(made, key=lambda m: m[0])[2]


def _text(file: str, line: int) -> str:
    import linecache

    return linecache.getline(file, line).strip()
