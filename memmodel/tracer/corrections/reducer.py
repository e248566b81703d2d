"""DistributedDataParallel's reducer, which is C++ and reads data, as a rule in Python: its buckets and copies.

Source: torch/csrc/distributed/c10d/reducer.cpp. A bucket is one flat tensor for the gradients of its parameters, there
from construction on; it is made anew once, before the second forward pass, in the order in which gradients came. A
gradient is copied into its place as it is ready, and back when all are reduced, unless it is a view of the bucket.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.autograd import at_end_of_backward, leaves_behind
from memmodel.tracer.private.dispatch import address_of

Replacement = tuple[Any, str, Any]


class Bucket:
    """A flat tensor, and the places in it of the gradients of some parameters, by their index."""

    def __init__(self, indices: Sequence[int], parameters: Sequence[Tensor]) -> None:
        self.indices = list(indices)
        self.parameters = [parameters[i] for i in indices]
        sizes = [x.numel() for x in self.parameters]
        first = self.parameters[0]
        self.flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        self.views = list(map(_like, torch.split(self.flat, sizes), self.parameters))
        self.waiting = len(self.indices)
        self.work: Any = None

    def buffer(self) -> Tensor:
        """The flat tensor, which a communication hook reduces."""
        return self.flat

    def gradients(self) -> list[Tensor]:
        """Its gradients, as views."""
        return self.views


def _like(flat: Tensor, parameter: Tensor) -> Tensor:
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())


class Reducer:
    """Copies gradients into buckets and back. Its parameters are those of `torch.distributed.Reducer`, by position."""

    on_gpu = True  # whether the host's tensors are no part of the modelled memory

    def __init__(self, *args: Any, **_: Any) -> None:
        parameters, buckets, _limits, self.group, sparse, cap, self.finds_unused, self.as_view, _names, first, *more = (
            args
        )
        self.parameters: list[Any] = list(parameters)
        self.sparse = list(sparse)
        self.limits = next((x for x in more if isinstance(x, list) and x), [first, cap])
        self.buckets: list[Bucket] = []
        self.bucket_of: dict[int, tuple[Bucket, int]] = {}
        self.static = False
        self.expected = False
        self.iterations = 0
        self.order: list[int] | None = []  # of the first backward pass; None once buckets are made anew
        self.unused: list[int] = []
        self.hook: tuple[Any, Callable[..., Any]] | None = None
        self.hooks = [
            x.register_post_accumulate_grad_hook(partial(self._hooked, i)) for i, x in enumerate(self.parameters)
        ]
        self._make(buckets)
        if self.finds_unused:
            self._make_used_maps()

    def _make(self, buckets: Iterable[Sequence[int]]) -> None:
        self.buckets, self.bucket_of = [], {}  # the old ones go first
        self.buckets = [Bucket(indices, self.parameters) for indices in buckets]
        self.bucket_of = {i: (bucket, k) for bucket in self.buckets for k, i in enumerate(bucket.indices)}
        if self.as_view:
            for i, x in enumerate(self.parameters):
                bucket, k = self.bucket_of[i]
                if x.grad is not None:
                    bucket.views[k].copy_(x.grad)
                    x.grad = bucket.views[k]

    def _make_used_maps(self) -> None:
        count = len(self.parameters)
        # One on the host, one on the parameters' device (initialize_local_used_map).
        self.used = [torch.empty(count, dtype=torch.int32) for _ in range(1 if self.on_gpu else 2)]

    def prepare_for_forward(self) -> None:
        """A forward pass begins."""
        self.iterations += 1

    def _rebuild_buckets(self) -> bool:
        # Where unused parameters are searched for, the order of gradients may be another each time.
        if not self.order or (self.finds_unused and not self.static):
            return False
        order, self.order = self.order, None
        found: Any = torch.distributed._compute_bucket_assignment_by_size  # type: ignore[attr-defined]
        buckets, _ = found([self.parameters[i] for i in order], self.limits, self.sparse, order)
        self._share(buckets)
        self._make(buckets)
        return True

    def _share(self, buckets: Sequence[Sequence[int]]) -> None:
        """Rank 0 tells the others its buckets, by way of small tensors."""
        kept = []
        # The indices and their number in one tensor, the sizes of buckets in another (sync_bucket_indices).
        for count in (sum(map(len, buckets)) + 1, len(buckets)):
            kept += [torch.empty(count, dtype=torch.int32) for _ in range(1 if self.on_gpu else 2)]

    def prepare_for_backward(self, outputs: Iterable[Tensor]) -> None:
        """A forward pass is over: gradients are to come."""
        self.expected = True
        self.reduced = 0
        for bucket in self.buckets:
            bucket.waiting = len(bucket.indices)
        if self.finds_unused and not self.static:
            used = {id(x) for x in leaves_behind(outputs)}
            self.unused = [i for i, x in enumerate(self.parameters) if id(x) not in used]

    def _hooked(self, index: int, _: Tensor) -> None:
        if not self.expected or (self.static and self.iterations == 1):
            return
        unused, self.unused = self.unused, []
        for each in (*unused, index):
            self._ready(each)

    @torch.no_grad()
    def _ready(self, index: int) -> None:
        if self.order is not None and not (self.finds_unused and not self.static):
            self.order.append(index)
        self._copy_in(index)
        self.bucket_of[index][0].waiting -= 1
        # Buckets are reduced in order on every rank: a full one waits for those before it (mark_bucket_ready).
        while self.reduced < len(self.buckets) and not self.buckets[self.reduced].waiting:
            self._reduce(self.buckets[self.reduced])
            self.reduced += 1
        if self.reduced == len(self.buckets):
            at_end_of_backward(self._finish)

    def _copy_in(self, index: int) -> None:
        parameter, (bucket, place) = self.parameters[index], self.bucket_of[index]
        view, size = bucket.views[place], self.group.size()
        if parameter.grad is None:
            view.zero_()
        # Gradients are divided first, so that the sum over ranks is the mean; a communication hook divides for itself
        # (mark_variable_ready_dense).
        elif _same(parameter.grad, view):
            if self.hook is None:
                view.div_(size)
        else:
            torch.mul(parameter.grad, 1 / size, out=view) if self.hook is None else view.copy_(parameter.grad)
            if self.as_view:
                parameter.grad = view

    def _reduce(self, bucket: Bucket) -> None:
        if self.hook is None:
            bucket.work = torch.distributed.all_reduce(bucket.flat, group=self.group, async_op=True)
        else:
            state, function = self.hook
            bucket.work = function(state, bucket)

    @torch.no_grad()
    def _finish(self) -> None:
        self.expected = False
        for bucket in self.buckets:
            result = bucket.work.wait()
            bucket.work = None
            views = bucket.views
            if isinstance(result, Tensor):  # of a communication hook
                sizes = [x.numel() for x in bucket.parameters]
                views = list(map(_like, torch.split(result, sizes), bucket.parameters))
            for parameter, view, own in zip(bucket.parameters, views, bucket.views, strict=True):
                _copy_back(parameter, view, own, self.as_view)

    def _delay_all_reduce(self) -> None:
        """With a static graph, the first backward pass reduces everything at its end."""
        for index in range(len(self.parameters)):
            if self.order is not None:
                self.order.append(index)
            self._copy_in(index)
        for bucket in self.buckets:
            self._reduce(bucket)
        self._finish()

    def _set_static_graph(self) -> None:
        self.static = True
        self._make_used_maps()

    def _remove_autograd_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None  # statistics and checks


def _same(x: Tensor, y: Tensor) -> bool:
    return address_of(x.untyped_storage()) == address_of(y.untyped_storage())


def _copy_back(parameter: Tensor, reduced: Tensor, own: Tensor, as_view: bool) -> None:
    if as_view:
        if not _same(reduced, own):
            own.copy_(reduced)
        parameter.grad = own if parameter.grad is None else parameter.grad
    elif parameter.grad is None:
        parameter.grad = reduced.clone()
    else:
        parameter.grad.copy_(reduced)


class _Logger:
    def __init__(self, *_: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _broadcast_coalesced(group: Any, tensors: Sequence[Tensor], most: int, source: int = 0) -> None:
    """Send tensors as flat ones of about `most` bytes (torch/csrc/distributed/c10d/comm.cpp, broadcast_coalesced)."""
    ends = [0]
    total = 0
    for i, x in enumerate(tensors, start=1):
        total += x.nbytes
        if total >= most or i == len(tensors) or tensors[i].dtype is not x.dtype:
            ends.append(i)
            total = 0
    for start, end in pairwise(ends):
        flat = torch.cat([x.reshape(-1) for x in tensors[start:end]])
        torch.distributed.broadcast(flat, group=group, group_src=source)
        for x, part in zip(tensors[start:end], torch.split(flat, [x.numel() for x in tensors[start:end]]), strict=True):
            x.copy_(part.view(x.shape))
        del flat, part


def replacements(on_gpu: bool) -> Iterator[Replacement]:
    """Replacements of the C++ that DistributedDataParallel calls."""
    dist: Any = torch.distributed
    # A class, as DistributedDataParallel makes its reducer by name.
    own = type("Reducer", (Reducer,), {"on_gpu": on_gpu})

    def hook(reducer: Reducer, state: Any, function: Callable[..., Any]) -> None:
        reducer.hook = state, function

    yield dist, "Reducer", own
    yield dist, "Logger", _Logger
    yield dist, "_verify_params_across_processes", lambda *_: None
    yield dist, "_broadcast_coalesced", torch.no_grad()(_broadcast_coalesced)
    yield dist, "_register_comm_hook", hook
