"""A view that is written into: how its gradient then comes back to its base.

Autograd reads such a view as `as_strided` of the base, whose backward makes zeros of the base's size and copies the
gradient into them (torch/csrc/autograd/variable.cpp, VariableHooks::grad_fn; FunctionsManual.cpp, as_strided_backward).
For fake tensors it repeats the views instead, whose backward makes other tensors or none: that part of the graph runs
unseen, and what a plain tensor would have made stands in for its result.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.autograd import COPY_SLICES, base_of, is_view, next_number, version_of
from memmodel.tracer.private.dispatch import tensors_in
from memmodel.tracer.watch.watcher import Watcher


@contextmanager
def following(watcher: Watcher, args: Sequence[Any]) -> Iterator[None]:
    """Around a call: correct the gradients of views that it reads, and of its first argument if it writes there."""
    if not torch.is_grad_enabled():
        yield
        return
    views = [x for x in tensors_in(args) if x.requires_grad and is_view(x)]
    for view in views:
        before = next_number()
        if view.grad_fn is not None and next_number() > before:  # asked for, it is made anew
            _read_as_strided(view, watcher)
        # Held any longer, it would stay alive through the call.
        del view
    del views
    first = args[0] if args and isinstance(args[0], Tensor) and is_view(args[0]) else None
    version = -1 if first is None else version_of(first)
    yield
    if first is not None and version_of(first) != version and first.grad_fn is not None:
        _read_as_strided(first, watcher)


def _read_as_strided(view: Tensor, watcher: Watcher) -> None:
    """Let backward of what stands between the view and the write go by `as_strided`."""
    base = base_of(view)
    repeated = _nodes_to_write(view.grad_fn)
    if not repeated or base.dtype is not view.dtype:
        return
    # The buffer that both are read from, from its first element on, as as_strided_backward makes it.
    start = min(view.storage_offset(), base.storage_offset())
    into = view.shape, view.stride(), view.storage_offset() - start
    out_of = base.shape, base.stride(), base.storage_offset() - start
    elements = out_of[2] + 1 + sum((n - 1) * step for n, step in zip(*out_of[:2], strict=True))
    made: list[Tensor] = []

    def begins(gradients: Sequence[Any]) -> None:
        if gradients[0] is not None:
            made.append(gradients[0].new_zeros(elements))
            made[0].as_strided(*into).copy_(gradients[0])
            watcher.paused = True

    def ends(gradients: Any, _: Any) -> Any:
        if not made:
            return gradients
        watcher.paused = False
        return (made.pop().as_strided(*out_of),)

    repeated[0].register_prehook(begins)
    repeated[-1].register_hook(ends)


def _nodes_to_write(node: Any) -> list[Any]:
    """The nodes of views from here to the write; none where something else comes between."""
    found = []
    while node is not None and node.name() != COPY_SLICES:
        found.append(node)
        node = node.next_functions[0][0] if len(node.next_functions) == 1 else None
    return found if node is not None else []
