"""Operators whose allocations cannot be seen from outside, with the order in which they allocate."""

from typing import Any

import torch

from memmodel.recording.device import Device
from memmodel.tracer.kinds import count, kind_of, plain_dims


def births_of_opaque(func: Any, args: Any, kwargs: Any, out: Any, device: Device) -> list[Any] | None:
    """Results and scratch (bytes, shape, dtype) in the order of their birth; None for an operator not listed here."""
    plan = _PLANS.get(func._schema.name)
    return None if plan is None else plan(args, kwargs, out)


def _flash_attention_backward(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """delta, then the gradients; with atomics dK and dV first, and dQ's fp32 sum before dQ (triton_flash.launch)."""
    from memmodel_kernels.flash import flash_tiles

    q, deterministic = args[2], args[-1]
    dq, dk, dv = out
    float32 = kind_of(torch.float32)
    rows = plain_dims(q.shape[:-1])
    delta = count(q) // plain_dims(q.shape)[-1] * 4, rows, float32
    if deterministic or flash_tiles(80, kind_of(q.dtype), int(q.shape[-1])).fused is None:
        return [delta, dq, dk, dv]
    if q.dtype is torch.float32:
        return [delta, dk, dv, dq]
    return [delta, dk, dv, (count(q) * 4, plain_dims(q.shape), float32), dq]


_PLANS = {"memmodel::flash_attention_backward": _flash_attention_backward}
