"""Megatron-LM's data parallelism: gradients summed in one flat buffer, and an optimizer whose states ranks share.

Sources: megatron/core/distributed/param_and_grad_buffer.py (_ParamAndGradBuffer), optimizer/param_layout.py and
optimizer/distrib_optimizer.py. With shared states the parameters are views of a flat buffer too; a rank updates its
equal part of it, whatever the borders of parameters, and all gather the rest. One bucket, reduced after the last
backward, as without --overlap-grad-reduce.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from memmodel.events.groups import GRADIENTS, OPTIMIZER, PARAMETERS
from memmodel_kernels.namespace import moved, namespace
from memmodel_kernels.optimizers import Optimizer
from memmodel_kernels.parallel.flat import Place, places
from memmodel_kernels.parallel.group import Group, all_reduce_mean, gather_into, reduce_scatter_mean
from memmodel_kernels.training import Update, adding_to, copied

# 128 and 256 bytes of 16-bit elements (_pad_start_of_param_if_needed, _pad_end_of_bucket_if_needed).
_START, _END = 64, 128  # elements: where parameters start, and what a rank's part ends at, where states are shared
Label = Callable[[Any, str, str], None]


class DistributedOptimizer:
    """The update of a step, in place of `Update`.

    Attributes:
        parameters: the pieces of parameters that this rank updates. totals: by the id of a parameter, the part of the
            buffer that its gradients are added to.
        batches: of how many ranks' batches each gradient is, as experts' are.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Any],
        group: Group,
        masters: bool,
        shared: bool,
        label: Label,
        batches: int = 1,
    ) -> None:
        self.group, self.shared, self.batches = group, shared and group.size > 1, batches
        shared = self.shared
        start, end = (_START, math.lcm(group.size, _END)) if shared else (1, 1)
        # In about the order in which gradients come, as _ParamAndGradBuffer has it.
        listed, total = places(list(reversed(parameters)), start, end)
        first = parameters[0]
        # Parameters move into the buffer only where ranks gather each other's parts of it.
        self.values = first.new_zeros(total) if shared else None
        self.sums = first.new_zeros(total, dtype=namespace(first).float32 if masters else None)
        if shared:
            label(self.values, "", PARAMETERS)
        label(self.sums, "", GRADIENTS)
        self.totals: dict[int, Any] = {}
        for place in listed:
            self._adopt(place)
        pieces = list(self._pieces(listed, total))
        self.owners = [owner for owner, *_ in pieces]
        self.parameters = [values for _, values, _ in pieces]
        copies = [self._copied(values, label) for values in self.parameters] if masters else None
        states = optimizer.fresh(copies or self.parameters)
        for state in (x for kind in states for x in kind if x is not None):
            label(state, "", OPTIMIZER)
        self.update = Update(optimizer, self.parameters, states, copies, [sums for *_, sums in pieces])

    def _adopt(self, place: Place) -> None:
        """Add the gradients of a parameter in the buffer, and hold the parameter itself in that of the values."""
        parameter, shape = place.parameter, place.parameter.shape
        if self.values is not None:
            moved(parameter, self.values.narrow(0, place.start, parameter.numel()).view(*shape))
        total = self.sums.narrow(0, place.start, parameter.numel()).view(*shape)
        parameter.register_post_accumulate_grad_hook(adding_to(total))
        self.totals[id(parameter)] = total

    def _pieces(self, listed: Sequence[Place], total: int) -> Iterator[tuple[Any, Any, Any]]:
        """Of what this rank updates, parameters, values and gradients: whole, or the part of each in its range."""
        if self.values is None:
            for parameter, start in listed:
                sums = self.sums.narrow(0, start, parameter.numel())
                yield parameter, parameter.detach(), sums.view(*parameter.shape)
            return
        # Equal parts, whatever the borders of parameters: the first and the last piece may be parts of one.
        each = total // self.group.size
        low, high = each * self.group.rank, each * (self.group.rank + 1)
        for place in listed:
            start, end = max(place.start, low), min(place.end, high)
            if start < end:
                part = start, end - start
                yield place.parameter, self.values.narrow(0, *part), self.sums.narrow(0, *part)

    @staticmethod
    def _copied(values: Any, label: Label) -> Any:
        copy = copied(values)
        label(copy, "", OPTIMIZER)
        return copy

    def gradients(self, without: Collection[int] = ()) -> list[Any]:
        """The gradients that the optimizer sees, but for those of parameters with these ids."""
        pairs = zip(self.owners, self.update.gradients(), strict=True)
        return [gradient for owner, gradient in pairs if id(owner) not in without]

    def before_backward(self) -> None:
        """Do nothing: gradients are averaged after the last backward."""

    def reduce(self) -> None:
        """Average the gradients over the ranks: in the whole buffer, or in this rank's part of it."""
        with namespace(self.sums).no_grad():
            if self.batches > 1:
                self.sums.div_(self.batches)
            if self.shared:
                reduce_scatter_mean(self._own(self.sums), self.sums, self.group)
            elif self.group.size > 1:
                all_reduce_mean(self.sums, self.group)

    def _own(self, flat: Any) -> Any:
        each = flat.numel() // self.group.size
        return flat.narrow(0, each * self.group.rank, each)

    def run(self) -> None:
        """Update, and give the ranks each other's parts."""
        self.update.optimizer.update(
            self.update.masters or self.parameters, self.update.gradients(), *self.update.states
        )
        # The fp32 copies were updated: the parameters take their values over.
        if self.update.masters:
            namespace(self.sums)._foreach_copy_(self.parameters, self.update.masters)
        if self.values is not None:
            gather_into(self.values, self._own(self.values), self.group)
        self.sums.zero_()
