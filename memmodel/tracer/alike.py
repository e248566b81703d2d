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
from memmodel.tracer.series import Unlike
from memmodel.tracer.watch.alike import alike_layers
from memmodel.tracer.watch.run import Setting, Traced

FEW = 4  # layers, of which formulas are read too
_WORTH_IT = 3 * FEW  # layers that the three runs have together


@dataclass(frozen=True, slots=True)
class Alike:
    """A run extrapolated from runs with few layers.

    Attributes:
        whole: the run with all `count` layers. few: with `FEW`.
        like: storage of the whole run -> the one of the few layers' run that it is like.
    """

    whole: Traced
    few: Traced
    like: dict[int, int]
    count: int

    def note(self) -> str:
        """The assumption, in words."""
        traced = f"{FEW - 1}, {FEW} and {FEW + 1}"
        return f"of {self.count} equal layers {traced} were traced; the others are taken to be like these"

    def reshaped(self, shapes: Mapping[int, Shape]) -> Program:
        """The whole program with shapes of the few layers' storages, where they are equal, in place of its own."""
        program = self.whole.program
        given = {birth.key: shapes.get(self.like[birth.key], ()) for birth in program.births()}
        return program.reshaped({b.key: given[b.key] for b in program.births() if given[b.key] == b.shape})


def extrapolated(setting: Setting, run: Callable[[Setting], Traced]) -> Alike | None:
    """The run with all layers, from runs with few; None where it has to be made. `run` makes one."""
    count = alike_layers(setting.function) if setting.world is None and setting.layers is None else 0
    if count <= _WORTH_IT:
        return None
    try:
        fewer, few, more = (run(setting._replace(layers=FEW + i)) for i in (-1, 0, 1))
        growth = Growth(fewer, few)
        if in_order(growth.at(1)[0].program) != in_order(more.program):
            return None
        whole, like = growth.at(count - FEW)
        return Alike(whole, few, like, count)
    except (UsageError, Unlike):
        return None
