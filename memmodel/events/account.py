"""The account of a step: each storage with the code that made it, its owner, and whether it is alive at the peak."""

from typing import Any, NamedTuple

from memmodel.base.dtypes import DType
from memmodel.events.liveness import at_peak, states, step_start, uncounted
from memmodel.events.origin import names, origin
from memmodel.events.program import Alloc, Program, Save
from memmodel.sizes.dims import Shape

_POWERS = {2: "²", 3: "³"}


class TensorRecord(NamedTuple):
    """One storage of the last step.

    Attributes:
        name: as the code names it.
        shape, dtype, nbytes: of the tensor that the storage was made for.
        formula: its bytes in letters.
        born: the phase that allocates it.
        freed: the phase that frees it; None where it outlives the step.
        where: the function and line that made it, or the autograd node.
        kept_by: what keeps it alive: a variable, a node that saved it, the caller.
        at_peak: whether it is alive at the live peak.
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


def account(program: Program) -> tuple[TensorRecord, ...]:
    """Every storage that is alive at some time in the last step, largest first. Sizes must be ints."""
    lives, labels = _lives(program), names(program)
    _, alive = at_peak(program)
    records = [_record(life, labels, life.alloc.key in alive) for life in lives.values()]
    return tuple(sorted(records, key=lambda r: (-r.nbytes, not r.at_peak)))


class _Life:
    """A storage from its birth to its death: the phases of both, and the autograd node that saved it first."""

    __slots__ = ("alloc", "born", "freed", "saved_by")

    def __init__(self, alloc: Alloc, born: str) -> None:
        self.alloc, self.born = alloc, born
        self.freed = self.saved_by = ""


def _lives(program: Program) -> dict[int, _Life]:
    """The storages that are alive at some time of the last step, in order of birth."""
    start = step_start(program)
    lives: dict[int, _Life] = {}
    for index, now in enumerate(states(program, uncounted)):
        if now.born:
            lives[now.born.key] = _Life(now.born, now.phase)
        elif now.died and index < start:
            del lives[now.died.key]
        elif now.died:
            lives[now.died.key].freed = now.phase
        elif type(now.event) is Save:
            lives[now.event.key].saved_by = lives[now.event.key].saved_by or now.event.node
    return lives


def _record(life: _Life, labels: dict[int, str], at_peak: bool) -> TensorRecord:
    alloc = life.alloc
    place = origin(alloc.site)
    made_by = f"{place.function}, line {place.line}" if place else alloc.op
    return TensorRecord(
        labels[alloc.key],
        tuple(alloc.shape),
        alloc.dtype,
        alloc.nbytes,
        formula(alloc.shape, alloc.dtype),
        life.born,
        None if life.freed in ("", "after") else life.freed,
        "caller" if life.born == "inputs" else made_by,
        _keeper(life, labels[alloc.key]),
        at_peak,
    )


def _keeper(life: _Life, label: str) -> str:
    """The reason that a storage is alive, in words."""
    if life.born == "inputs":
        return "caller's variable"
    if label.endswith(".grad"):
        return "gradient of its leaf"
    if life.saved_by:
        return f"saved for {life.saved_by}"
    if life.alloc.site is not None and label.isidentifier():
        return f"variable {label}"
    return "temporary"


def formula(shape: Shape, dtype: DType) -> str:
    """A tensor's bytes as a formula, such as "2·b·h·n²"; sizes without a letter are numbers."""
    letters = "·".join(getattr(size, "letter", None) or str(size) for size in shape if not _is_one(size)).split("·")
    powers = {letter: letters.count(letter) for letter in letters if letter}
    return "·".join([str(dtype.itemsize), *(letter + _POWERS.get(count, "") for letter, count in powers.items())])


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1 and not getattr(size, "letter", "")
