"""Copies on the host: they take none of the GPU's memory, and are counted beside it.

All traced tensors are the CPU's, so "on the host" is a note on a storage. Tensors come there by `x.cpu()`,
`x.to("cpu")` of a result, save_on_cpu and pinned buffers, and back by `x.cuda()` and `x.to("cuda")`. What is asked for
on "cpu" by name alone (an input, a new tensor) stays the GPU's: here, where there is no GPU, scripts that choose their
device by `torch.cuda.is_available()` say so. So does what is made without a device, which many functions do with inputs
that are the GPU's. Where the code moves such a tensor to the GPU, a note says that it counted before; where it computes
with it and the GPU's, that a GPU would refuse.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.dispatch import address_of, storage_of

_ANYWHERE = ("aten::index", "aten::copy", "aten::_index_put", "aten::lift")  # operators that take the host's tensors


class Host:
    """The storages on the host.

    Attributes:
        live_bytes, peak_bytes: of them now, and at most.
        making: whether tensors that are made now are the host's.
        leaving: whether they are the GPU's, though made from the host's.
    """

    def __init__(self) -> None:
        self.live_bytes = self.peak_bytes = 0
        self.making = self.leaving = False
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._unplaced: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def unplaced(self, x: Tensor) -> None:
        """Note a tensor that was made without a device."""
        storage = storage_of(x)
        self._unplaced[address_of(storage)] = storage

    def was_unplaced(self, x: Tensor) -> bool:
        """Whether a tensor, or what it is a view of, was made without a device and not moved."""
        return bool(self._unplaced) and address_of(storage_of(x)) in self._unplaced

    def place(self, x: Tensor) -> None:
        """Note that a tensor is on the GPU."""
        self._unplaced.pop(address_of(storage_of(x)), None)

    def astray(self, op: str, operands: list[Tensor], made: list[Tensor]) -> Tensor | None:
        """The tensor made without a device that an operator takes beside the GPU's, which CUDA refuses; else None.

        What is made of such tensors alone is where they are. Numbers, and what indexes or is copied, may be on the host
        (aten/src/ATen/TensorIterator.cpp, compute_types; native_functions.yaml, device_check: NoCheck).
        """
        if not self._unplaced or op.startswith(_ANYWHERE):
            return None
        unplaced = [x for x in operands if self.was_unplaced(x)]
        if len(unplaced) == len(operands):
            for x in made if operands else ():
                self.unplaced(x)
            return None
        return next((x for x in unplaced if x.dim()), None)

    def has(self, x: Tensor) -> bool:
        """Whether a tensor is on the host."""
        # Asked of every operand, and most traces have nothing on the host.
        return bool(self._alive) and address_of(storage_of(x)) in self._alive

    def takes(self, operands: list[Tensor]) -> bool:
        """Whether what is made from these is on the host: all of them are, or all that is made now."""
        if self.leaving:
            return False
        return self.making or (bool(self._alive) and bool(operands) and all(map(self.has, operands)))

    def born(self, x: Tensor) -> None:
        """Note a new tensor of the host."""
        storage = storage_of(x)
        address, nbytes = address_of(storage), number(storage.nbytes())
        if address not in self._alive:
            # Held here, as a weak reference that is gone calls nobody.
            self._alive[address] = weakref.ref(storage, partial(self._died, address, nbytes))
            self.live_bytes += nbytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _died(self, address: int, nbytes: int, _: object) -> None:
        del self._alive[address]
        self.live_bytes -= nbytes

    @contextmanager
    def made_here(self) -> Iterator[None]:
        """Within, new tensors are the host's."""
        before, self.making = self.making, True
        try:
            yield
        finally:
            self.making = before

    def copied_here(self, x: Tensor) -> Tensor:
        """`x.cpu()`."""
        if self.has(x):
            return x
        with self.made_here():
            return x.clone()

    def copied_back(self, x: Tensor) -> Tensor:
        """`x.cuda()`."""
        if not self.has(x):
            return x
        self.leaving = True
        try:
            return x.clone()
        finally:
            self.leaving = False


def named_place(args: Any, kwargs: Any) -> str:
    """The kind of device among the arguments of `x.to(...)`: "cpu", "cuda" or ""."""
    for given in (kwargs.get("device"), *args[1:2]):
        if isinstance(given, torch.device | str) and str(given):
            kind = str(given).partition(":")[0]
            return kind if kind in ("cpu", "cuda") else ""
        # `x.to(0)`: the GPU of that index.
        if isinstance(given, int) and not isinstance(given, bool):
            return "cuda"
    return ""
