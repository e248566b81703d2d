"""torch.distributed as one process sees it: its fake process group, and the tensors that it wraps around others.

The fake group (torch/testing/_internal/distributed/fake_pg.py) has any rank and size, and its collectives return at
once without moving data. Replaced here is what would still need data, a GPU or other processes.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from itertools import count
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from memmodel.base.errors import UsageError
from memmodel.tracer.private.dispatch import inner, tensors_in, without_modes
from memmodel.tracer.private.fake import FakeTensor

Replacement = tuple[Any, str, Any]  # where, the name there, what it becomes

_OBJECTS_ONLY = ("barrier", "monitored_barrier", "broadcast_object_list", "scatter_object_list", "gather_object")
_ASYNCHRONOUS = (  # functions that return a Work with async_op=True, or always
    "isend", "irecv", "all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor",
    "all_gather_single", "reduce_scatter_single", "broadcast", "reduce", "all_to_all", "all_to_all_single", "gather",
    "scatter",
)  # fmt: skip


def imported() -> None:
    """Import now what would otherwise change PyTorch's tables while parts of them are replaced."""
    if not torch.distributed.is_available():
        raise UsageError("a trace of many GPUs needs a PyTorch with torch.distributed: this one is built without it")
    for name in ("fsdp", "tensor", "tensor.parallel", "pipelining", "tensor.experimental"):
        try:
            import_module(f"torch.distributed.{name}")
        except ImportError:  # a version that has it elsewhere
            continue


@contextmanager
def fake_group(rank: int, size: int, node: int) -> Iterator[None]:
    """Within, this process is a rank by torchrun's variables and by torch.distributed; `node` GPUs share a machine."""
    from torch.distributed import destroy_process_group, init_process_group, is_initialized
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if is_initialized():
        raise UsageError("a process group exists already: trace many GPUs from a process that has none")
    local = min(node, size)
    variables = {
        "RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local,
        "GROUP_RANK": rank // local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500,
    }  # fmt: skip
    with mock.patch.dict(os.environ, {name: str(value) for name, value in variables.items()}):
        # Torchrun's address is for scripts that read it: a FakeStore connects to nothing.
        init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
        try:
            yield
        finally:
            if is_initialized():
                destroy_process_group()


def _wrapped(x: Tensor) -> Tensor:
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    return AsyncCollectiveTensor(x)


WITHOUT_COPY: dict[str, Callable[[Tensor], Tensor]] = {  # operators whose result is their operand
    "_c10d_functional::wait_tensor": lambda x: x,
    "_c10d_functional::_wrap_tensor_autograd": _wrapped,
}
GROUPS = ("process_group", "group_name")  # the parameter of a collective that says who takes part


@functools.cache
def _global_ranks(name: str) -> tuple[int, ...]:
    c10d: Any = torch.distributed.distributed_c10d
    return tuple(c10d.get_process_group_ranks(c10d._resolve_process_group(name)))


def ranks_of(group: Any) -> tuple[int, ...]:
    """The ranks of a process group as operators are given it: its name, or the object boxed."""
    name = group if isinstance(group, str) else torch.distributed.ProcessGroup.unbox(group).group_name
    return _global_ranks(name)


def forget_groups() -> None:
    """A name can stand for another group in the next world, whose meshes are equal to those that caches hold."""
    from torch.distributed.tensor import DTensor, _redistribute
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    _global_ranks.cache_clear()
    caches: list[Any] = [DTensor._op_dispatcher.sharding_propagator.propagate_op_sharding]
    caches += [getattr(ShardingPropagator, "_propagate_tensor_meta_cached", None)]
    caches += [x for x in vars(_redistribute).values() if hasattr(x, "cache_clear")]
    for cache in caches:
        if hasattr(cache, "cache_clear"):
            cache.cache_clear()
    getattr(torch._C, "_clear_DTensor_sharding_propagator_cache", lambda: None)()


class HeldWork:
    """A handle of a collective under way, which holds its tensors.

    On a GPU until it is waited for (ProcessGroupNCCL stashes them), on the CPU as long as it lives (ProcessGroupGloo).
    """

    def __init__(self, tensors: Iterable[Tensor], until_waited: bool) -> None:
        self._tensors = list(tensors)
        self._until_waited = until_waited

    def wait(self, timeout: Any = None) -> bool:
        """The collective is over."""
        if self._until_waited:
            self._tensors.clear()
        return True

    def is_completed(self) -> bool:
        """Whether it is over: at once."""
        return True

    is_success = is_completed

    def synchronize(self) -> None:
        """Wait for the collective, as `wait` does."""
        self.wait()

    def get_future(self) -> Any:
        """A future of its tensors."""
        future: Any = torch.futures.Future()
        future.set_result(list(self._tensors))
        return future


def _holding(function: Callable[..., Any], until_waited: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        work = function(*args, **kwargs)
        return None if work is None else HeldWork(map(inner, tensors_in((args, kwargs))), until_waited)

    return called


def _batched(operations: list[Any]) -> list[Any]:
    return [each.op(each.tensor, each.peer, each.group, each.tag) for each in operations]


def replacements(
    unseen: Callable[[], AbstractContextManager[None]], on_gpu: bool, meshed: Callable[..., None]
) -> Iterator[Replacement]:
    """Replacements while a rank's code runs.

    `unseen`: a context in which nothing counts. `on_gpu`: what is modelled. `meshed`: called with the ranks, shape and
    names of each mesh that is made.
    """
    dist: Any = torch.distributed
    c10d: Any = dist.distributed_c10d
    held = {name: _holding(getattr(c10d, name), on_gpu) for name in _ASYNCHRONOUS if hasattr(c10d, name)}
    replaced = {
        **held,
        # The group is there already; objects and barriers would wait for other processes.
        **dict.fromkeys(("init_process_group", "destroy_process_group", *_OBJECTS_ONLY), lambda *_, **__: None),
        "all_gather_object": _gathered_objects,
        "is_nccl_available": lambda: True,
        "batch_isend_irecv": _batched,
    }
    for name, function in replaced.items():
        if hasattr(c10d, name):
            yield from _wherever(name, getattr(c10d, name), function)
    # Under a fake mode collectives would behave as in torch.compile, whose results are no AsyncCollectiveTensor.
    asks = dist._functional_collectives._are_we_tracing
    yield from _wherever("_are_we_tracing", asks, lambda: False)
    yield from _numbered_works()
    yield from _fully_sharded()
    yield from _meshes(unseen, meshed)
    yield from _sharding(unseen)
    yield from _pipelines()
    ddp: Any = torch.nn.parallel.DistributedDataParallel
    yield ddp, "__init__", _without_device_ids(ddp.__init__)


def _wherever(name: str, function: Any, becomes: Any) -> Iterator[Replacement]:
    """A function in every module that has taken it by its name."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is function:
            yield module, name, becomes


def _numbered_works() -> Iterator[Replacement]:
    """A fake collective's number is drawn at random, as if the code's own run were."""
    try:
        module = import_module("torch.distributed._meta_registrations")
    except ImportError:
        return
    numbers = count(1)
    yield module, "generate_unique_id", lambda: next(numbers)


def _fully_sharded() -> Iterator[Replacement]:
    """FSDP2 asks whether a tensor's type is exactly `Tensor`, which a fake tensor's is not."""
    from torch.distributed import fsdp
    from torch.distributed.fsdp._fully_shard import _fsdp_param

    yield fsdp.CPUOffloadPolicy, "__init__", _no_offload
    yield _fsdp_param, "type", lambda x: Tensor if type(x) is FakeTensor else type(x)
    if hasattr(_fsdp_param, "_chunk_with_empty"):
        yield _fsdp_param, "_chunk_with_empty", _Chunks


class _Chunks:
    """The chunks of a tensor for some ranks, made when they are asked for: only two of them are."""

    def __init__(self, tensor: Tensor, ranks: int, dim: int) -> None:
        self.tensor, self.dim, self.size = tensor, dim, -(-tensor.size(dim) // ranks)

    def __getitem__(self, rank: int) -> Tensor:
        start = rank * self.size
        left = self.tensor.size(self.dim) - start
        if left <= 0:
            return self.tensor.new_empty(0)
        return self.tensor.narrow(self.dim, start, min(self.size, left))


def _no_offload(*_: Any, **__: Any) -> None:
    raise UsageError("CPUOffloadPolicy is not traced, as the host's memory is not: trace it without, or with more GPUs")


def _gathered_objects(found: list[Any], mine: Any, group: Any = None) -> None:
    found[:] = [mine] * len(found)


def _without_device_ids(make: Callable[..., None]) -> Callable[..., None]:
    """The modelled GPU's tensors are the CPU's to PyTorch, which has no indices of devices."""

    @functools.wraps(make)
    def made(self: Any, module: Any, device_ids: Any = None, output_device: Any = None, *args: Any, **kw: Any) -> None:
        if kw.get("mixed_precision") is not None:
            raise UsageError("DistributedDataParallel(mixed_precision=...) is not traced: use autocast or fully_shard")
        make(self, module, None, None, *args, **kw)

    return made


def _meshes(unseen: Callable[[], AbstractContextManager[None]], meshed: Callable[..., None]) -> Iterator[Replacement]:
    """Device meshes compute with small tensors of ranks, which need data."""
    from torch.distributed import device_mesh

    def plain(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with unseen(), without_modes():
                return function(*args, **kwargs)

        return called

    def on_cpu(make: Callable[..., Any], place: int) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*args: Any, **kwargs: Any) -> Any:
            given = ["cpu" if i == place and x == "cuda" else x for i, x in enumerate(args)]
            kwargs |= {"device_type": "cpu"} if kwargs.get("device_type") == "cuda" else {}
            with unseen(), without_modes():
                result = make(*given, **kwargs)
                mesh = result or args[0]
                names = mesh.mesh_dim_names or ("",) * mesh.ndim
                meshed(mesh.mesh.flatten().tolist(), mesh.mesh.shape, names)
            return result

        return made

    kind = device_mesh.DeviceMesh
    yield from _wherever("init_device_mesh", device_mesh.init_device_mesh, on_cpu(device_mesh.init_device_mesh, 0))
    yield kind, "__init__", on_cpu(kind.__init__, 1)
    yield kind, "from_group", staticmethod(on_cpu(kind.from_group, 1))
    for name, value in list(vars(kind).items()):
        if inspect.isfunction(value) and (not name.startswith("__") or name == "__getitem__"):
            yield kind, name, plain(value)
        elif isinstance(value, property) and value.fget is not None:
            yield kind, name, property(plain(value.fget))


def _sharding(unseen: Callable[[], AbstractContextManager[None]]) -> Iterator[Replacement]:
    """DTensor runs operators on tensors without data to learn shapes: they take no memory."""
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    name = "_propagate_tensor_meta_non_cached"
    propagate = getattr(ShardingPropagator, name)

    @functools.wraps(propagate)
    def propagated(*args: Any, **kwargs: Any) -> Any:
        with unseen():
            return propagate(*args, **kwargs)

    yield ShardingPropagator, name, propagated


def _pipelines() -> Iterator[Replacement]:
    """Stages vote over the network on how they learn the shapes that they receive: only given shapes can be traced."""
    from torch.distributed.pipelining import schedules

    try:
        from torch.distributed.pipelining._utils import InferenceMode
    except ImportError:  # before there was a vote
        return

    def voted(self: Any, stages: Iterable[Any], *_: Any) -> None:
        for stage in stages:
            if getattr(getattr(stage, "_user_meta", None), "inputs", True) is None:
                raise UsageError(
                    "a pipeline stage asks the one before what it will receive, which a trace of one rank cannot: give "
                    "PipelineStage its input_args and output_args"
                )
            stage._inference_mode = InferenceMode.STATIC

    yield schedules._PipelineSchedule, "_warmup_p2p", voted
