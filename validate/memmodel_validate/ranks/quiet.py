"""Real processes whose allocator events are those of training, in an order that can be compared.

A thread of gloo drops its reference to the tensors of a collective just after it has told that this is over. A tensor
that dies in that moment is freed by the thread, where no profiler looks. So gloo's threads go first: a process has one
core, its main thread, which trains, runs there only where no other wants to (SCHED_IDLE), and sleeps a moment after a
collective, without Python's lock, which such a thread needs to drop a tensor.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.autograd.profiler import record_function
from torch.distributed import _functional_collectives as functional
from torch.distributed import device_mesh
from torch.distributed import distributed_c10d as c10d
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining.schedules import _PipelineSchedule

from memmodel_validate.cpu_events import HOST

# What computes with small tensors of the host on any machine: ranks of meshes, shapes, votes.
_ON_HOST: tuple[tuple[Any, str], ...] = (
    (DeviceMesh, "__init__"),
    (DeviceMesh, "__getitem__"),
    (device_mesh, "init_device_mesh"),
    (dist, "_verify_params_across_processes"),
    (_PipelineSchedule, "_warmup_p2p"),
    (torch, "get_rng_state"),
)


_BLOCKING = (
    "all_gather_into_tensor", "all_gather_single", "reduce_scatter_tensor", "reduce_scatter_single", "all_reduce",
    "all_to_all_single", "all_gather", "scatter", "broadcast",
)  # fmt: skip
_MOMENT = 0.001  # seconds


@contextmanager
def group(rank: int) -> Iterator[None]:
    """Within, this process is a rank by torchrun's variables, over gloo, whose threads go before the calling one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    dist.init_process_group("gloo")
    with ThreadPoolExecutor(1) as elsewhere, ExitStack() as stack:
        elsewhere.submit(int).result()  # its thread starts now, and so do not inherit what follows those it makes
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        make = c10d._new_process_group_helper  # of a further group, with threads of its own
        made = functools.wraps(make)(lambda *args, **kwargs: elsewhere.submit(make, *args, **kwargs).result())
        stack.enter_context(mock.patch.object(c10d, make.__name__, made))
        waits: list[tuple[Any, str]] = [(functional, "wait_tensor"), *((dist, name) for name in _BLOCKING)]
        wrapped: list[tuple[tuple[Any, str], Callable[..., Any]]] = [
            *((each, _then_asleep) for each in waits),
            *((each, record_function(HOST)) for each in _ON_HOST),
        ]
        for (where, name), around in wrapped:
            if hasattr(where, name):
                stack.enter_context(mock.patch.object(where, name, around(getattr(where, name))))
        yield
        dist.barrier()
    dist.destroy_process_group()


def _then_asleep(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        time.sleep(_MOMENT)
        return result

    return called
