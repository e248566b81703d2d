"""Activations that wait on the host between forward and backward (torchtune's training/_activation_offloading.py).

A tensor that autograd saves is copied to the host, and stays on the device too until a copy is made of one that was
saved five tensors later. All that is saved counts, small tensors, parameters and the empty one of a checkpoint too.
Backward brings each back when it is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memmodel_kernels.namespace import namespace

_SMALL = 1024  # bytes: smaller tensors stay
KEPT_ON_DEVICE = 5  # of the tensors saved last


@contextmanager
def offloaded(x: Any) -> Iterator[None]:
    """Inside, saved tensors go to the host; `x` names the library."""
    xp = namespace(x)
    hooks = xp.autograd.graph.saved_tensors_hooks if xp.__name__ == "torch" else xp.saved_tensors_hooks
    host = _Host()
    with hooks(host.pack, host.unpack):
        yield


class _Host:
    """The copies of one forward, and the tensors that are still on the device."""

    def __init__(self) -> None:
        self.stash: dict[int, Any] = {}
        self.count = 0

    def pack(self, x: Any) -> Any:
        """A number and the copy; small tensors and parameters themselves."""
        self.count += 1
        if x.numel() * x.element_size() < _SMALL or (x.is_leaf and x.requires_grad):
            return x
        for number in [n for n in self.stash if n <= self.count - KEPT_ON_DEVICE]:
            del self.stash[number]
        self.stash[self.count] = x
        return self.count, to_host(x)

    def unpack(self, packed: Any) -> Any:
        """The tensor, from the device where it is still there."""
        if not isinstance(packed, tuple):
            return packed
        number, copy = packed
        kept = self.stash.pop(number, None)
        return copy() if kept is None else kept


def to_host(x: Any) -> Any:
    """Copy a tensor to the host; returns a function that brings it back, in the same layout."""
    if namespace(x).__name__ != "torch":
        return x.host_copy()
    copy = namespace(x).empty_like(x, device="cpu", pin_memory=x.is_cuda)
    copy.copy_(x, non_blocking=True)
    device = x.device
    return lambda: copy.to(device, non_blocking=True)
