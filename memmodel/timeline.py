"""The timeline of a program: live bytes after each event, the peak, and an account of every storage.

Bytes are raw: allocator rounding lives in the allocator model alone. Totals may be arrays or symbols; the account and
the peak's place need ints.
"""

from dataclasses import dataclass
from typing import Any

from memmodel.dims import Dim, Shape, maximum
from memmodel.dtypes import DType
from memmodel.origin import names, origin
from memmodel.program import Alloc, Free, Mark, Program, Release, Save

_POWERS = {2: "²", 3: "³"}


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One storage of the last step.

    Attributes:
        name: as the code names it. shape, dtype, nbytes: what it holds. formula: bytes in letters.
        born, freed: the phase (freed is None where it outlives the step).
        where: function and line that made it, or the autograd node.
        kept_by: what keeps it alive: a variable, a node that saved it, the caller.
        at_peak: whether it is part of the live peak.
    """

    name: str
    shape: Shape
    dtype: DType
    nbytes: int
    formula: str
    born: str
    freed: str | None
    where: str
    kept_by: str
    at_peak: bool


def phase_peaks(program: Program) -> dict[str, Dim]:
    """The largest number of live bytes within each phase (its last occurrence), and "peak" over the last step."""
    live: Dim = 0
    sizes: dict[int, Dim] = {}
    peaks: dict[str, Dim] = {}
    phase = "start"
    for event in program.events:
        kind = type(event)
        if kind is Mark:
            phase = event.phase  # type: ignore[union-attr]
            peaks[phase] = live
        elif kind is Alloc:
            sizes[event.key] = event.nbytes  # type: ignore[union-attr]
            live = live + event.nbytes  # type: ignore[union-attr]
            peaks[phase] = maximum(peaks.get(phase, 0), live)
        elif kind is Free:
            live = live - sizes.pop(event.key)  # type: ignore[union-attr]
    peaks["peak"] = peaks["forward"]
    if "backward" in peaks:
        peaks["peak"] = maximum(peaks["forward"], peaks["backward"])
    return peaks


def saved_bytes(program: Program) -> Dim:
    """Bytes kept for backward at the end of the last forward, beyond the step's inputs."""
    return sum(saved_storages(program).values(), start=0)


def saved_storages(program: Program) -> dict[int, Dim]:
    """Storage -> bytes of what is kept for backward at the end of the last forward, beyond the step's inputs."""
    sizes: dict[int, Dim] = {}
    holds: dict[int, int] = {}
    inputs: set[int] = set()
    phase, saved = "inputs", dict[int, Dim]()
    for event in program.events:
        if isinstance(event, Mark):
            if phase == "forward":
                saved = {key: sizes[key] for key, count in holds.items() if count and key not in inputs}
            phase = event.phase
        elif isinstance(event, Alloc):
            sizes[event.key] = event.nbytes
            if phase == "inputs":
                inputs.add(event.key)
        elif isinstance(event, Save):
            holds[event.key] = holds.get(event.key, 0) + 1
        elif isinstance(event, Release):
            holds[event.key] -= 1
    return saved


def account(program: Program) -> tuple[TensorRecord, ...]:
    """Every storage that is live at some time of the last step, largest first."""
    walk = _Walk(program)
    labels = names(program)
    records = [walk.record(key, labels) for key in walk.of_last_step()]
    return tuple(sorted(records, key=lambda r: (-r.nbytes, not r.at_peak)))


class _Walk:
    """One pass over the events: when each storage lived, who kept it, and what was live at the peak of the step."""

    def __init__(self, program: Program) -> None:
        self.allocs: dict[int, Alloc] = {}
        self.born: dict[int, str] = {}
        self.freed: dict[int, str] = {}
        self.saved_by: dict[int, str] = {}
        self.at_peak: frozenset[int] = frozenset()
        self.before_last: set[int] = set()
        steps = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
        self.last = steps[-1] if steps else 0
        self.order: list[int] = []
        live: dict[int, int] = {}
        total = peak = 0
        phase = "inputs"
        for index, event in enumerate(program.events):
            if isinstance(event, Mark):
                phase = event.phase
                if index == self.last:
                    self.before_last, peak = set(live), 0
            elif isinstance(event, Alloc):
                self.allocs[event.key], self.born[event.key] = event, phase
                live[event.key] = event.nbytes
                total += event.nbytes
                if index >= self.last and total > peak:
                    peak, self.at_peak = total, frozenset(live)
                if index >= self.last:
                    self.order.append(event.key)
            elif isinstance(event, Free):
                total -= live.pop(event.key)
                self.freed[event.key] = phase
            elif isinstance(event, Save):
                self.saved_by.setdefault(event.key, event.node)

    def of_last_step(self) -> list[int]:
        """Keys of the storages that lived in the last step, in order of birth."""
        return sorted(self.before_last) + self.order

    def record(self, key: int, labels: dict[int, str]) -> TensorRecord:
        """The account of one storage."""
        alloc = self.allocs[key]
        place = origin(alloc.site)
        where = f"{place.function}, line {place.line}" if place and self.born[key] != "inputs" else alloc.op
        freed = self.freed.get(key)
        return TensorRecord(
            labels[key],
            tuple(alloc.shape),
            alloc.dtype,
            alloc.nbytes,
            formula(alloc.shape, alloc.dtype),
            self.born[key],
            None if freed == "after" else freed,
            "caller" if self.born[key] == "inputs" else where,
            self._keeper(key, labels),
            key in self.at_peak,
        )

    def _keeper(self, key: int, labels: dict[int, str]) -> str:
        if self.born[key] == "inputs":
            return "caller's variable"
        if labels[key].endswith(".grad"):
            return "gradient of its leaf"
        if key in self.saved_by:
            return f"saved for {self.saved_by[key]}"
        if self.allocs[key].site is not None and labels[key].isidentifier():
            return f"variable {labels[key]}"
        return "temporary"


def formula(shape: Shape, dtype: DType) -> str:
    """The byte count in letters: "2·b·h·n²"; plain numbers for sizes without one."""
    letters = "·".join(getattr(size, "letter", None) or str(size) for size in shape if not _is_one(size)).split("·")
    powers = {letter: letters.count(letter) for letter in letters if letter}
    return "·".join([str(dtype.itemsize), *(letter + _POWERS.get(count, "") for letter, count in powers.items())])


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1 and not getattr(size, "letter", "")


__all__ = ["TensorRecord", "account", "formula", "phase_peaks", "saved_bytes", "saved_storages"]
