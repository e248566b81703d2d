"""DeepSpeed's ZeRO 2: ranks share optimizer states and gradients, and have the whole parameters each.

Source: deepspeed/runtime/zero/stage_1_and_2.py. Parameters are views of one flat tensor, cut into equal parts whatever
their borders. In backward, gradients are copied into a bucket as they come; a full bucket is averaged over all ranks,
and a rank keeps the gradients of the parameters in its part. It updates a copy of its part in fp32, and all gather the
rest. Defaults: reduce_bucket_size, contiguous_gradients, use_multi_rank_bucket_allreduce, no overlap_comm. Experts that
ranks share are parameters of their own, cut among the ranks that have the same ones; all share the bucket.
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
    """Neighbouring elements of a bucket that one rank of a group needs."""

    group: Group
    rank: int
    start: int
    size: int


class Share:
    """Parameters that the ranks of one group share: a flat tensor of them, and the update of this rank's part of it.

    Attributes:
        mine: by where they start, the parameters with elements in this rank's part. kept: their gradients of the step.
    """

    def __init__(
        self, optimizer: Optimizer, parameters: Sequence[Any], group: Group, label: Callable[[Any, str, str], None]
    ) -> None:
        self.optimizer, self.group = optimizer, group
        self.places, total = places(parameters, 1, _ALIGNED * group.size)
        self.each = total // group.size
        self.values = parameters[0].new_zeros(total)
        label(self.values, "", PARAMETERS)
        for place in self.places:
            shape = place.parameter.shape
            moved(place.parameter, self.values.narrow(0, place.start, place.parameter.numel()).view(*shape))
        self.mine = {place.start: place for place in self.places if group.rank in self.ranks(place)}
        self.own = self.values.narrow(0, self.each * group.rank, self.each)
        self.master = copied(self.own)
        self.states = optimizer.fresh([self.master])
        for state in (self.master, *(x for kind in self.states for x in kind if x is not None)):
            label(state, "", OPTIMIZER)
        self.kept: list[Any] = []

    def ranks(self, place: Place) -> range:
        """The ranks with a part of a parameter."""
        return range(place.start // self.each, (place.end - 1) // self.each + 1)

    def slices(self, place: Place, start: int) -> Iterator[Slice]:
        """What each rank needs of a parameter, whose gradient starts there in a bucket."""
        for rank in self.ranks(place):
            low, high = max(place.start, self.each * rank), min(place.end, self.each * (rank + 1))
            yield Slice(self.group, rank, start + low - place.start, high - low)

    def gradients(self, without: Collection[int] = ()) -> Iterator[Any]:
        """The rank's part of the gradients, in pieces, but for those of parameters with these ids."""
        low, high = self.each * self.group.rank, self.each * (self.group.rank + 1)
        for place, grad in zip(self.mine.values(), self.kept, strict=True):
            if id(place.parameter) not in without:
                start, end = max(place.start, low), min(place.end, high)
                yield grad.view(-1).narrow(0, start - place.start, end - start)

    def run(self) -> None:
        """Update the rank's part in fp32, and give the ranks each other's parts."""
        xp, pieces = namespace(self.values), list(self.gradients())
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
        if self.group.size > 1:
            gather_into(self.values, self.own, self.group)


class PartitionedGradients:
    """The update of a step, in place of `Update`.

    `shares`: the parameters whose gradients it takes, with the ranks that share them; the first are of all ranks with
    other batches.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        shares: Sequence[tuple[Sequence[Any], Group]],
        label: Callable[[Any, str, str], None],
        bucket: int = BUCKET,
    ) -> None:
        self.optimizer, self.most, self.batches = optimizer, bucket, shares[0][1].size
        self.parameters = [parameter for parameters, _ in shares for parameter in parameters]
        self.shares = [Share(optimizer, *one, label) for one in shares]
        for share in self.shares:
            for place in share.places:
                place.parameter.register_post_accumulate_grad_hook(partial(self._ready, share, place))
        self.values = self.shares[0].values
        self.buffer: Any = None
        self.bucket: list[tuple[Share, Place]] = []
        self.filled = 0
        self.partition: Any = None  # the gradients of this backward that the rank keeps, flat

    @property
    def totals(self) -> dict[int, Any]:
        """By the id of a parameter, its gradient in this step; None where other ranks keep it."""
        found: dict[int, Any] = {id(parameter): None for parameter in self.parameters}
        for share in self.shares:
            pairs = zip(share.mine.values(), share.kept, strict=False)
            found |= {id(place.parameter): grad for place, grad in pairs}
        return found

    def before_backward(self) -> None:
        """Memory for a bucket."""
        with scope(self.values, part=COMMUNICATION):
            self.buffer = self.values.new_empty(self.most)

    def _ready(self, share: Share, place: Place, parameter: Any) -> None:
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
        self.bucket.append((share, place))

    def _reduce(self) -> None:
        """Average a bucket, or a gradient larger than any, and keep of it what the rank needs."""
        if not self.bucket:
            return
        first = self.bucket[0][1].parameter
        flat = first.grad.view(-1) if first.numel() > self.most else self.buffer.narrow(0, 0, self.filled)
        flat.div_(self.batches)
        with scope(flat, part=COMMUNICATION):
            slices = list(self._slices())
            for group in dict.fromkeys(each.group for each in slices):
                _sum(flat, group, [each for each in slices if each.group == group])
        for share, place in self.bucket:
            place.parameter.grad = self._taken(place) if place.start in share.mine else None
        self.bucket, self.filled = [], 0

    def _slices(self) -> Iterator[Slice]:
        """The parts of the bucket that the ranks need, in order."""
        found, at = list[Slice](), 0
        for share, place in self.bucket:
            for each in share.slices(place, at):
                if found and found[-1][:2] == each[:2]:
                    found[-1] = found[-1]._replace(size=found[-1].size + each.size)
                else:
                    found.append(each)
            at += place.parameter.numel()
        yield from found

    def _taken(self, place: Place) -> Any:
        """A copy of a parameter's gradient among those that the rank keeps."""
        if self.partition is None:
            mine = (x.parameter.numel() for share in self.shares for x in share.mine.values())
            with scope(self.values, part=GRADIENTS):
                self.partition = self.values.new_empty(sum(mine))
            self.taken = 0
        part = self.partition.narrow(0, self.taken, place.parameter.numel())
        self.taken += place.parameter.numel()
        part.copy_(place.parameter.grad.view(-1))
        return part.view(*place.parameter.shape)

    def _after_backward(self) -> None:
        with namespace(self.values).no_grad():
            self._reduce()
            for share in self.shares:
                found = [place.parameter.grad for place in share.mine.values()]
                for total, each in zip(share.kept, found, strict=False):
                    total.add_(each)
                share.kept = share.kept or found
        self.buffer = self.partition = None
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self) -> None:
        """Do nothing: gradients are averaged within each backward."""

    def gradients(self, without: Collection[int] = ()) -> list[Any]:
        """The rank's part of the gradients, in pieces, but for those of parameters with these ids."""
        return [piece for share in self.shares for piece in share.gradients(without)]

    def run(self) -> None:
        """Update what the rank has of each share."""
        for share in self.shares:
            share.run()


def _sum(flat: Any, group: Group, slices: Sequence[Slice]) -> None:
    """Sum over the ranks: in place if one rank needs all, else in a copy of which each takes what it needs."""
    parts = [flat.narrow(0, each.start, each.size) for each in slices]
    if group.size == 1:
        return
    if len(parts) == 1:
        all_reduced(parts[0], group)
        return
    copy, at = namespace(flat).cat(parts), 0
    all_reduced(copy, group)
    for each, part in zip(slices, parts, strict=True):
        if each.rank == group.rank:
            part.copy_(copy.narrow(0, at, each.size))
        at += each.size
