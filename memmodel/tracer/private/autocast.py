"""Autocast where PyTorch keeps it: a dispatch key of each device, the kernels behind it, and the contexts' state."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.amp.autocast_mode import autocast
from torch.library import Library, fallthrough_kernel

_OF_CPU, _OF_CUDA = "AutocastCPU", "AutocastCUDA"
_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def without_autocast() -> Any:
    """A context in which operators run as they are."""
    return torch._C._ExcludeDispatchKeyGuard(_KEY)


def is_on() -> bool:
    """Whether operators are cast now."""
    return torch.is_autocast_enabled("cpu")


def low_precision() -> torch.dtype:
    """The type that matrix products are cast to."""
    return torch.get_autocast_dtype("cpu")


def operators_of_cuda() -> Iterator[Any]:
    """Every operator that autocast on CUDA wraps."""
    for name in torch._C._dispatch_get_registrations_for_dispatch_key(_OF_CUDA):
        yield _operator(name)


def _operator(name: str) -> Any:
    packet, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


@contextmanager
def cast_by(kernels: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Within, autocast of CPU tensors, which traced ones are, does what these kernels do and nothing else."""
    # Kernels of other names fall through: the CPU's own lists of what is cast do not hold on CUDA.
    library: Any = Library("aten", "IMPL", _OF_CPU)  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that kernels are replaced
            for name in torch._C._dispatch_get_registrations_for_dispatch_key(_OF_CPU):
                if _operator(name) not in kernels:
                    library.impl(name.removeprefix("aten::"), fallthrough_kernel)
            for operator, kernel in kernels.items():
                library.impl(operator, kernel)
        yield
    finally:
        library._destroy()


def contexts(
    begins: Callable[[], None], ends: Callable[[], None], unknown: Callable[[], None]
) -> Iterator[tuple[Any, str, Any]]:
    """Replacements of `autocast("cuda")`: the same state for the CPU's key. Autocast of other devices does nothing.

    `begins`: a region is entered. `ends`: the cache is cleared. `unknown`: a context made before is entered whose
    `enabled` PyTorch has forgotten.
    """
    of: Any = autocast
    make, enter, leave, clear = of.__init__, of.__enter__, of.__exit__, torch.clear_autocast_cache

    @functools.wraps(make)
    def made(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        if device_type == "cpu" and sys._getframe(1).f_globals.get("__name__") == torch.utils.checkpoint.__name__:
            device_type = "cuda"  # what is recomputed is so under the state of forward
        if device_type != "cuda":
            make(self, device_type, dtype, enabled, cache_enabled)
            return
        self.device, self.fast_dtype = "cuda", dtype or torch.get_autocast_dtype("cuda")
        self._cache_enabled = torch.is_autocast_cache_enabled() if cache_enabled is None else cache_enabled
        self._enabled = self.memmodel_asked = enabled

    @functools.wraps(enter)
    def entered(self: Any) -> Any:
        if self.device != "cuda":
            return self
        # Made before the trace: without a GPU PyTorch has set `_enabled` to False, whatever was asked.
        if not hasattr(self, "memmodel_asked") and not torch.cuda.is_available():
            unknown()
            self._enabled = True
        begins()
        enter(self)
        _mirror()
        return self

    @functools.wraps(leave)
    def left(self: Any, *error: Any) -> Any:
        if self.device != "cuda":
            return False
        result = leave(self, *error)
        _mirror()
        return result

    def cleared() -> None:
        ends()
        clear()

    yield autocast, "__init__", made
    yield autocast, "__enter__", entered
    yield autocast, "__exit__", left
    yield torch, "clear_autocast_cache", cleared


def _mirror() -> None:
    # Regions set the state for CUDA; traced tensors, which are the CPU's, read that of the CPU.
    torch.set_autocast_enabled("cpu", torch.is_autocast_enabled("cuda"))
    torch.set_autocast_dtype("cpu", torch.get_autocast_dtype("cuda"))


@contextmanager
def renewed(scaler: torch.amp.GradScaler) -> Iterator[None]:
    """Within, a GradScaler is as before its first step, and enabled."""
    before = dict(vars(scaler))
    with mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False):
        # Made again where a GPU seems to be there, as it turns itself off without one.
        torch.amp.GradScaler.__init__(scaler, scaler._device)
    try:
        yield
    finally:
        vars(scaler).clear()
        vars(scaler).update(before)
