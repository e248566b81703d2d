"""The GPU as Inductor asks for it while it plans, on a machine without one.

Inductor reads compute capability, the number of SMs and their threads (to split reductions), whether Triton works and
which types its atomics take. Nothing here runs a kernel. Sources: torch/_inductor/runtime/hints.py (DeviceProperties),
choices.py (reduction_split_factor), scheduler.py (create_backend), utils.py (use_scatter_fallback).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch

from memmodel.base.device import threads_per_sm

_REGISTERS_PER_SM = 65536
_BFLOAT16 = 80  # from this compute capability on Inductor compiles bfloat16
_BFLOAT16_ATOMICS = 90  # and from this one on adds to it atomically: before, scatter is ATen's kernel


class Chip(NamedTuple):
    """A GPU as code sees it: compute capability as one number (80 is 8.0), SMs, name, memory; which of how many."""

    arch: int = 80
    sms: int = 108
    name: str = "GPU"
    memory_bytes: int = 80 << 30
    ordinal: int = 0
    gpus: int = 1

    @property
    def threads_per_sm(self) -> int:
        """Resident threads of an SM."""
        return threads_per_sm(self.arch)


@contextmanager
def seen_by_inductor(chip: Chip) -> Iterator[None]:
    """Within, Inductor plans for this GPU. It must not be asked to compile a kernel."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import lowering, scheduler, utils
    from torch._inductor.runtime import hints
    from torch.utils import _triton

    given = SimpleNamespace(
        name="GPU",
        major=chip.arch // 10,
        minor=chip.arch % 10,
        multi_processor_count=chip.sms,
        max_threads_per_multi_processor=chip.threads_per_sm,
        regs_per_multiprocessor=_REGISTERS_PER_SM,
        warp_size=32,
        gcnArchName="",
    )

    def without_atomics(dtype: torch.dtype) -> bool:
        return dtype in (torch.int64, torch.bool) or (dtype is torch.bfloat16 and chip.arch < _BFLOAT16_ATOMICS)

    properties = hints.DeviceProperties
    wanted = {
        "type": "cuda",
        "index": 0,
        "multi_processor_count": chip.sms,
        "cc": chip.arch,
        "major": chip.arch // 10,
        "regs_per_multiprocessor": _REGISTERS_PER_SM,
        "max_threads_per_multi_processor": chip.threads_per_sm,
        "max_threads_per_block": 1024,
        "warp_size": 32,
    }
    # Versions of PyTorch differ in the fields that they have.
    made = properties(**{key: value for key, value in wanted.items() if key in properties._fields})
    replaced: list[tuple[Any, str, Any]] = [
        (torch.Tensor, "__invert__", lambda x: torch.bitwise_not(x)),  # `~x` asks for the GPU itself
        (torch.cuda, "get_device_properties", lambda *_: given),
        (torch.cuda, "get_device_capability", lambda *_: (chip.arch // 10, chip.arch % 10)),
        (torch.cuda, "current_device", lambda: 0),
        (CudaInterface, "get_device_properties", staticmethod(lambda *_: given)),
        (CudaInterface, "is_bf16_supported", staticmethod(lambda **_: chip.arch >= _BFLOAT16)),
        (properties, "create", lambda _: made),
        (scheduler, "has_triton", lambda *_: True),
        *((part, "needs_fallback_due_to_atomic_add_limitations", without_atomics) for part in (utils, lowering)),
        (_triton, "triton_hash_with_backend", lambda *_: ""),
    ]
    with ExitStack() as stack:
        for where, name, value in replaced:
            stack.enter_context(mock.patch.object(where, name, value))
        yield
