"""Runs of models with many alike layers, of which a few are traced: what one more adds is added for each of the rest.

Three runs with few layers: the first two tell what one layer more adds, the third must be what they tell. Where it is
not, or the code does not run with fewer layers, all of them are traced.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from memmodel.base.errors import UsageError
from memmodel.events.program import Program
from memmodel.sizes.dims import Shape
from memmodel.tracer.growth import Growth, in_order
from memmodel.tracer.watch.alike import AlikeLayers, Unlike
from memmodel.tracer.watch.run import Setting, Traced, loaded_layers

FEW = 4  # layers, of which formulas are read too
_FEW_OF_RANKS = 5  # FSDP2 gathers a layer ahead: one more on either side differs
_WORTH_IT = 3 * FEW  # layers that the three runs have together


@dataclass(frozen=True, slots=True)
class Alike:
    """A run extrapolated from runs with few layers.

    Attributes:
        whole: the run with all layers. few: with few.
        like: storage of the whole run -> the one of the few layers' run that it is like.
        layers: those of the whole run, and how many the run with few has.
    """

    whole: Traced
    few: Traced
    like: dict[int, int]
    layers: AlikeLayers

    def note(self) -> str:
        """The assumption, in words."""
        few = self.layers.kept or 0
        traced = f"{few - 1}, {few} and {few + 1}"
        return f"of {self.layers.number} equal layers {traced} were traced; the others are taken to be like these"

    def reshaped(self, shapes: Mapping[int, Shape]) -> Program:
        """The whole program with shapes of the few layers' storages, where they are equal, in place of its own."""
        program = self.whole.program
        given = {birth.key: shapes.get(self.like[birth.key], ()) for birth in program.births()}
        return program.reshaped({b.key: given[b.key] for b in program.births() if given[b.key] == b.shape})


class Known:
    """What the runs of a script's ranks showed of its layers.

    Attributes:
        layers: those alike; none where few of them do not tell of the rest; None where it was not loaded yet.
        found: the runs of the ranks before.
    """

    def __init__(self) -> None:
        self.layers: AlikeLayers | None = None
        self.found: list[Alike] = []


def extrapolated(setting: Setting, run: Callable[[Setting], Traced], known: Known | None = None) -> Alike | None:
    """The run with all layers, from runs with few; None where it has to be made. `run` makes one."""
    known = known or Known()
    if setting.layers.kept is not None:
        return None
    try:
        if known.layers is None:
            known.layers = loaded_layers(setting)
        return _extrapolated(setting._replace(layers=known.layers), run, known.found)
    except (UsageError, Unlike):
        known.layers = AlikeLayers()
        return None


def _extrapolated(setting: Setting, run: Callable[[Setting], Traced], found: list[Alike]) -> Alike | None:
    layers = setting.layers
    if layers.number <= _WORTH_IT:
        return None
    kept = FEW if setting.world is None else _FEW_OF_RANKS

    def with_layers(kept: int) -> Traced:
        return run(setting._replace(layers=layers._replace(kept=kept)))

    few = with_layers(kept)
    for alike in found:
        if alike.few is few:  # this rank goes on as that one did
            return alike
    growth = Growth(with_layers(kept - 1), few)
    if in_order(growth.at(1)[0].program) != in_order(with_layers(kept + 1).program):
        return None
    whole, like = growth.at(layers.number - kept)
    found.append(Alike(whole, few, like, layers._replace(kept=kept)))
    return found[-1]
