"""What code finds where it asks for a GPU, on a machine without one: the modelled GPU, there and idle.

Scripts choose their device by `torch.cuda.is_available()`, and with it autocast, GradScaler and fused optimizers. The
answers are for the user's code and for libraries; PyTorch's own, which would go on to call CUDA, is told the truth.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _device

from memmodel.tracer.private.autocast import contexts
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.dispatch import IS_CPU, IS_CUDA

Replacement = tuple[Any, str, Any]  # where, the name there, what it becomes

GPU = torch.device("cuda", 0)
_NOTHING = (
    "synchronize", "set_device", "set_device_index", "set_device_idx", "empty_cache", "empty_host_cache", "ipc_collect",
    "init", "manual_seed", "manual_seed_all", "seed", "seed_all", "set_per_process_memory_fraction", "set_rng_state",
    "reset_peak_memory_stats", "reset_accumulated_memory_stats", "reset_max_memory_allocated",
    "reset_max_memory_cached",
)  # fmt: skip
_BYTES = (
    "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "memory_cached",
    "max_memory_cached", "device_memory_used",
)  # fmt: skip


def caller(depth: int = 2) -> str:
    """The module that asks."""
    name: str = sys._getframe(depth).f_globals.get("__name__", "")
    return name


def answers(chip: Chip, statistic: Callable[[], Any] = int) -> Iterator[Replacement]:
    """The replacements of `torch.cuda` and `torch.accelerator`; `statistic` makes the value of a memory statistic."""
    properties = SimpleNamespace(
        name=chip.name,
        major=chip.arch // 10,
        minor=chip.arch % 10,
        multi_processor_count=chip.sms,
        total_memory=chip.memory_bytes,
        max_threads_per_multi_processor=chip.threads_per_sm,
        warp_size=32,
    )
    told_to_all: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(_NOTHING, lambda: None),
        **dict.fromkeys(("current_device", "current_device_index", "current_device_idx"), lambda: chip.ordinal),
        # Before compute capability 8.0 too, by emulation, unless asked without (torch/cuda/__init__.py).
        "is_bf16_supported": lambda: True,
        "device_count": lambda: chip.gpus,
        "get_device_capability": lambda: divmod(chip.arch, 10),
        "get_rng_state": lambda: torch.zeros(16, dtype=torch.uint8),
        "is_current_stream_capturing": lambda: False,
    }
    told_to_users: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("is_available", "is_initialized", "is_tf32_supported"), lambda: True),
        **dict.fromkeys(_BYTES, statistic),
        **dict.fromkeys(("mem_get_info", "get_memory_info"), lambda: (chip.memory_bytes, chip.memory_bytes)),
        "get_device_name": lambda: chip.name,
        "get_device_properties": lambda: properties,
        "memory_stats": lambda: _Statistics(statistic),
        "memory_summary": lambda: "memory_summary: a trace has none",
        "current_accelerator": lambda: torch.device("cuda", chip.ordinal),
    }
    for where in (torch.cuda, getattr(torch, "accelerator", None)):  # the second since torch 2.6
        for name, answer in told_to_all.items():
            if hasattr(where, name):
                yield where, name, _answering(answer)
        for name, answer in told_to_users.items():
            if hasattr(where, name):
                yield where, name, _for_the_user(answer, getattr(where, name))
    yield torch.cuda, "device", _Current
    yield torch, "set_default_device", _default_device(torch.set_default_device)
    yield torch, "Generator", _Generator


class _Statistics(dict[str, Any]):
    """`torch.cuda.memory_stats()`: every one is the same stand-in."""

    def __init__(self, statistic: Callable[[], Any]) -> None:
        super().__init__()
        self._statistic = statistic

    def __missing__(self, _: str) -> Any:
        return self._statistic()


class _Current:
    """`torch.cuda.device(0)`, a context."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


class _OfGenerators(type):
    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, _really_a_generator)


_really_a_generator = torch.Generator


class _Generator(metaclass=_OfGenerators):
    """`torch.Generator(device="cuda")`: the CPU's."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return _really_a_generator()


def _default_device(really: Callable[..., None]) -> Callable[..., None]:
    return lambda device: really("cpu" if names_cuda(device) else device)


def has_default_device() -> bool:
    """Whether the code has said where tensors are made."""
    return _device.CURRENT_DEVICE is not None


def _answering(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Each is its own function, as dynamo's table of functions asks."""
    return lambda *_, **__: answer()


def _for_the_user(answer: Callable[..., Any], really: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(really)
    def asked(*args: Any, **kwargs: Any) -> Any:
        return really(*args, **kwargs) if caller().startswith(("torch.", "memmodel.")) else answer()

    return asked


def names_cuda(value: Any) -> bool:
    """Whether a value asks for a tensor on the GPU."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))


def on_cpu(args: Any) -> Any:
    """Arguments with "cpu" in place of "cuda"."""
    return tuple("cpu" if names_cuda(x) else x for x in args)


def on_cpu_named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Named arguments with the device "cpu" in place of "cuda"."""
    return kwargs | {"device": "cpu"} if names_cuda(kwargs.get("device")) else kwargs


class _OnCpu(TorchFunctionMode):
    """Requests for "cuda" are served by tensors of this machine."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (IS_CUDA, IS_CPU):
            return func is IS_CUDA
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func in (Tensor.cuda, Tensor.pin_memory):
            return args[0]
        named = on_cpu_named(dict(kwargs or {}))
        named.pop("pin_memory", None)
        return func(*on_cpu(args), **named)


def _nothing() -> None:
    pass


@contextmanager
def import_seen(chip: Chip, more: Iterable[Replacement]) -> Iterator[None]:
    """Within, a module is imported as on a machine with this GPU; its tensors are this machine's.

    `more`: what else is replaced.
    """
    with ExitStack() as stack:
        common = torch.cuda.amp.common
        stack.enter_context(mock.patch.object(common, "amp_definitely_not_available", return_value=False))
        of_autocast = contexts(_nothing, _nothing, _nothing)
        for where, name, answer in (*answers(chip), next(of_autocast), *more):
            stack.enter_context(mock.patch.object(where, name, answer))
        stack.enter_context(_OnCpu())
        yield
