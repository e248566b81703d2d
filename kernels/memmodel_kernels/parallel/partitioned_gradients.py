"""DeepSpeed's ZeRO 2: ranks share optimizer states and gradients, and have the whole parameters each.

Source: deepspeed/runtime/zero/stage_1_and_2.py. Parameters are views of one flat tensor, cut into equal parts whatever
their borders. In backward, gradients are copied into a bucket as they come; a full bucket is averaged over all ranks,
and a rank keeps the gradients of the parameters in its part. It updates a copy of its part in fp32, and all gather the
rest. Defaults: reduce_bucket_size, contiguous_gradients, use_multi_rank_bucket_allreduce, no overlap_comm.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from memmodel.events.groups import COMMUNICATION, GRADIENTS, OPTIMIZER, PARAMETERS
from memmodel_kernels.namespace import at_end_of_backward, moved, namespace, scope
from memmodel_kernels.optimizers import Optimizer
from memmodel_kernels.parallel.flat import Place, places
from memmodel_kernels.parallel.group import Group, all_reduced, gather_into
from memmodel_kernels.training import copied

BUCKET = 500_000_000  # elements (reduce_bucket_size)
_ALIGNED = 2  # elements of a part (nccl_start_alignment_factor)


class Slice(NamedTuple):
    """Neighbouring elements of a bucket that one rank needs."""

    rank: int
    start: int
    size: int


class PartitionedGradients:
    """The update of a step, in place of `Update`. `parameters`: those whose gradients it takes, all of them."""

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Any],
        group: Group,
        label: Callable[[Any, str, str], None],
        bucket: int = BUCKET,
    ) -> None:
        self.optimizer, self.parameters, self.group, self.most = optimizer, parameters, group, bucket
        listed, total = places(parameters, 1, _ALIGNED * group.size)
        self.each = total // group.size
        self.values = parameters[0].new_zeros(total)
        label(self.values, "", PARAMETERS)
        for place in listed:
            shape = place.parameter.shape
            moved(place.parameter, self.values.narrow(0, place.start, place.parameter.numel()).view(*shape))
            place.parameter.register_post_accumulate_grad_hook(partial(self._ready, place))
        self.mine = {place.start: place for place in listed if group.rank in self._ranks(place)}
        self.own = self.values.narrow(0, self.each * group.rank, self.each)
        self.master = copied(self.own)
        self.states = optimizer.fresh([self.master])
        for state in (self.master, *(x for kind in self.states for x in kind if x is not None)):
            label(state, "", OPTIMIZER)
        self.buffer: Any = None
        self.bucket: list[Place] = []
        self.filled = 0
        self.partition: Any = None  # the gradients of this backward that the rank keeps, flat
        self.kept: list[Any] = []  # those of the step

    @property
    def totals(self) -> dict[int, Any]:
        """By the id of a parameter, its gradient in this step; None where other ranks keep it."""
        kept = {id(place.parameter): grad for place, grad in zip(self.mine.values(), self.kept, strict=False)}
        return {id(parameter): kept.get(id(parameter)) for parameter in self.parameters}

    def _ranks(self, place: Place) -> range:
        """The ranks with a part of a parameter."""
        return range(place.start // self.each, (place.end - 1) // self.each + 1)

    def before_backward(self) -> None:
        """Memory for a bucket."""
        with scope(self.values, part=COMMUNICATION):
            self.buffer = self.values.new_empty(self.most)

    def _ready(self, place: Place, parameter: Any) -> None:
        count = parameter.numel()
        with namespace(parameter).no_grad():
            if not self.bucket and self.partition is None:
                at_end_of_backward(parameter, self._after_backward)
            # A gradient that does not fit any more closes the bucket before it.
            if self.filled + count > self.most:
                self._reduce()
            if count <= self.most:
                part = self.buffer.narrow(0, self.filled, count)
                part.copy_(parameter.grad.view(-1))
                parameter.grad = part.view(*parameter.shape)
        self.filled += count
        self.bucket.append(place)

    def _reduce(self) -> None:
        """Average a bucket, or a gradient larger than any, and keep of it what the rank needs."""
        if not self.bucket:
            return
        first = self.bucket[0].parameter
        flat = first.grad.view(-1) if first.numel() > self.most else self.buffer.narrow(0, 0, self.filled)
        flat.div_(self.group.size)
        with scope(flat, part=COMMUNICATION):
            self._sum(flat, list(self._slices()))
        for place in self.bucket:
            place.parameter.grad = self._taken(place) if place.start in self.mine else None
        self.bucket, self.filled = [], 0

    def _slices(self) -> Iterator[Slice]:
        """The parts of the bucket that the ranks need, in order."""
        found, at = Slice(-1, 0, 0), 0
        for place in self.bucket:
            for rank in self._ranks(place):
                end = min(place.end, self.each * (rank + 1))
                size = end - max(place.start, self.each * rank)
                if rank == found.rank:
                    found = found._replace(size=found.size + size)
                else:
                    if found.size:
                        yield found
                    found = Slice(rank, at, size)
                at += size
        yield found

    def _sum(self, flat: Any, slices: Sequence[Slice]) -> None:
        """Sum over the ranks: in place if one rank needs all, else in a copy of which each takes what it needs."""
        parts = [flat.narrow(0, each.start, each.size) for each in slices]
        if len(parts) == 1:
            all_reduced(parts[0], self.group)
            return
        copy = namespace(flat).cat(parts)
        all_reduced(copy, self.group)
        for each, part in zip(slices, parts, strict=True):
            if each.rank == self.group.rank:
                part.copy_(copy.narrow(0, each.start, each.size))

    def _taken(self, place: Place) -> Any:
        """A copy of a parameter's gradient among those that the rank keeps."""
        if self.partition is None:
            with scope(self.values, part=GRADIENTS):
                self.partition = self.values.new_empty(sum(x.parameter.numel() for x in self.mine.values()))
            self.taken = 0
        part = self.partition.narrow(0, self.taken, place.parameter.numel())
        self.taken += place.parameter.numel()
        part.copy_(place.parameter.grad.view(-1))
        return part.view(*place.parameter.shape)

    def _after_backward(self) -> None:
        with namespace(self.values).no_grad():
            self._reduce()
            found = [place.parameter.grad for place in self.mine.values()]
            for total, each in zip(self.kept, found, strict=False):
                total.add_(each)
            self.kept = self.kept or found
        self.buffer = self.partition = None
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self) -> None:
        """Do nothing: gradients are averaged within each backward."""

    def gradients(self, without: Collection[int] = ()) -> list[Any]:
        """The rank's part of the gradients, in pieces, but for those of parameters with these ids."""
        low, high = self.each * self.group.rank, self.each * (self.group.rank + 1)
        found = []
        for place, grad in zip(self.mine.values(), self.kept, strict=True):
            if id(place.parameter) in without:
                continue
            start, end = max(place.start, low), min(place.end, high)
            found.append(grad.view(-1).narrow(0, start - place.start, end - start))
        return found

    def run(self) -> None:
        """Update the rank's part in fp32, and give the ranks each other's parts."""
        xp, pieces = namespace(self.values), self.gradients()
        left = self.each - sum(x.numel() for x in pieces)
        # The last rank's part ends in padding, which no parameter fills.
        pieces += [self.values.new_zeros(left)] if left else []
        with scope(self.values, part=GRADIENTS):
            flat = xp.cat(pieces) if len(pieces) > 1 else pieces[0]
            gradient = flat.to(xp.float32)
        del flat, pieces
        self.kept = []
        self.optimizer.update([self.master], [gradient], *self.states)
        del gradient
        self.own.copy_(self.master)
        gather_into(self.values, self.own, self.group)
