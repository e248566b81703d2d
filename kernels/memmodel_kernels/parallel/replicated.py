"""Replicas of a model whose gradients are averaged bucket by bucket while backward runs: DistributedDataParallel.

Source: torch/csrc/distributed/c10d/reducer.cpp. A bucket is one flat tensor for the gradients of its parameters, made
once in the order in which gradients come. A gradient is copied into its place as it is ready, and back when all are
reduced.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from memmodel.events.groups import COMMUNICATION
from memmodel_kernels.namespace import at_end_of_backward, namespace, scope, scope_of
from memmodel_kernels.parallel.group import Group, start_all_reduce

FIRST, CAP = 1 << 20, 25 << 20  # bytes that close the first bucket, and any other (reducer.hpp)


class Bucket:
    """A flat tensor, and the places in it of the gradients of some parameters."""

    def __init__(self, parameters: Sequence[Any]) -> None:
        self.parameters = list(parameters)
        sizes = [x.numel() for x in self.parameters]
        with scope_of(self.parameters[0]):
            self.flat = self.parameters[0].new_empty(sum(sizes))
        self.views = [view.view(*x.shape) for view, x in zip(self.flat.split(sizes), self.parameters, strict=True)]
        self.waiting = len(sizes)
        self.wait: Callable[[], None] = lambda: None


def by_size(parameters: Iterable[Any]) -> Iterator[list[Any]]:
    """Parameters in pieces that each end when they have so many bytes (compute_bucket_assignment_by_size)."""
    limit, found, nbytes = FIRST, [], 0
    for x in parameters:
        found.append(x)
        nbytes += x.numel() * x.element_size()
        if nbytes >= limit:
            yield found
            limit, found, nbytes = CAP, [], 0
    if found:
        yield found


def average(parameters: Sequence[Any], group: Group, batches: int) -> None:
    """`Replicated`; without other ranks, gradients are divided as they come."""
    if group.size > 1:
        Replicated(parameters, group, batches)
        return
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(partial(_divided, by=batches))


def _divided(parameter: Any, by: int) -> None:
    with namespace(parameter).no_grad():
        parameter.grad.div_(by)


class Replicated:
    """Averages the gradients of parameters over a group. They are given in the order in which gradients come.

    `batches`: how many ranks' batches each of the gradients is of, as experts' are.
    """

    def __init__(self, parameters: Sequence[Any], group: Group, batches: int = 1) -> None:
        self.group, self.of = group, group.size * batches
        with scope(parameters[0], part=COMMUNICATION):
            self.buckets = [Bucket(piece) for piece in by_size(parameters)]
        self.reduced = 0
        for bucket in self.buckets:
            for place, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(partial(self._ready, bucket, place))

    def _ready(self, bucket: Bucket, place: int, parameter: Any) -> None:
        """Copy a gradient into its bucket, and reduce the buckets that are full, in order."""
        xp = namespace(parameter)
        with xp.no_grad():
            # Divided first, so that the sum over ranks is the mean (mark_variable_ready_dense).
            xp.mul(parameter.grad, 1 / self.of, out=bucket.views[place])
        bucket.waiting -= 1
        # Every rank reduces the buckets in the same order: a full one waits for those before it.
        while self.reduced < len(self.buckets) and not self.buckets[self.reduced].waiting:
            full = self.buckets[self.reduced]
            full.wait = start_all_reduce(full.flat, self.group)
            self.reduced += 1
        if self.reduced == len(self.buckets):
            self.reduced = 0
            at_end_of_backward(parameter, self._finish)

    def _finish(self) -> None:
        for bucket in self.buckets:
            with scope_of(bucket.flat):
                bucket.wait()
            bucket.waiting = len(bucket.parameters)
            with namespace(bucket.flat).no_grad():
                for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                    with scope_of(parameter):
                        parameter.grad.copy_(view)
