"""Small training programs for several ranks, a function each: it builds its model and returns what makes one step.

They are run as they stand by real processes and by the tracer. None of them knows which of the two runs it.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint

from memmodel.models.layout import TOGETHER, Layout, Rank
from memmodel_kernels.ring import ring_attention
from memmodel_validate.ranks import decoders

DEVICE = os.environ.get("MEMMODEL_DEVICE", "cpu")
ON_GPU = DEVICE == "cuda"
WIDTH, BLOCKS, BATCH, LENGTH = 64, 4, 4, 16
Step = Callable[[], None]


class Block(nn.Module):
    """A block of a transformer without its attention: a norm, two linear layers, and what goes past them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, device=DEVICE)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False, device=DEVICE)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False, device=DEVICE)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        y: Tensor = self.down(nn.functional.gelu(self.up(self.norm(x))))
        return x + y


class Net(nn.Module):
    """Blocks between two linear layers; the last has a width that no number of ranks divides."""

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False, device=DEVICE)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.last = nn.Linear(WIDTH, 77, bias=False, device=DEVICE)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every token."""
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        scores: Tensor = self.last(x)
        return scores


def _step(model: nn.Module, times: int = 1) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)

    def step() -> None:
        for _ in range(times):
            model(torch.randn(BATCH, LENGTH, WIDTH, device=DEVICE)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ddp() -> Step:
    """DistributedDataParallel."""
    return _step(nn.parallel.DistributedDataParallel(Net()))


def ddp_views() -> Step:
    """DistributedDataParallel whose gradients are views of its buckets."""
    return _step(nn.parallel.DistributedDataParallel(Net(), gradient_as_bucket_view=True, bucket_cap_mb=0.1))


def _sharded(model: Net, mesh: Any = None, **how: Any) -> Net:
    mesh = mesh or device_mesh.init_device_mesh(DEVICE, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **how)
    fully_shard(model, mesh=mesh, **how)
    return model


def fsdp() -> Step:
    """FSDP2, which gathers a block's parameters again in backward."""
    return _step(_sharded(Net()))


def fsdp_kept() -> Step:
    """FSDP2, which keeps parameters gathered from forward to backward."""
    return _step(_sharded(Net(), reshard_after_forward=False))


def fsdp_bf16() -> Step:
    """FSDP2 in bfloat16, whose gradients are reduced in float32."""
    return _step(_sharded(Net(), mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)))


def fsdp_recomputed() -> Step:
    """FSDP2 whose blocks are checkpointed."""
    return _step(_sharded(Net(recompute=True)))


def fsdp_accumulated() -> Step:
    """FSDP2, two backward passes a step."""
    return _step(_sharded(Net()), times=2)


def hsdp() -> Step:
    """FSDP2 within halves of the ranks, replicated between them."""
    return _step(
        _sharded(
            Net(), device_mesh.init_device_mesh(DEVICE, (2, dist.get_world_size() // 2), mesh_dim_names=("r", "s"))
        )
    )


def _tensor_parallel(model: Net, mesh: Any) -> Net:
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def tp() -> Step:
    """Tensor parallelism of the linear layers of each block."""
    return _step(_tensor_parallel(Net(), device_mesh.init_device_mesh(DEVICE, (dist.get_world_size(),))))


def tp_sp() -> Step:
    """Tensor parallelism, and sequence parallelism between its layers."""
    model, mesh = Net(), device_mesh.init_device_mesh(DEVICE, (dist.get_world_size(),))
    ends: dict[str, Any] = {
        "first": ColwiseParallel(output_layouts=Shard(1)),
        "last": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, ends)
    within: dict[str, Any] = {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, within)
    return _step(model)


def tp_fsdp() -> Step:
    """Tensor parallelism within pairs, FSDP2 between them."""
    mesh = device_mesh.init_device_mesh(DEVICE, (dist.get_world_size() // 2, 2), mesh_dim_names=("dp", "tp"))
    return _step(_sharded(_tensor_parallel(Net(), mesh["tp"]), mesh["dp"]))


class Attention(nn.Module):
    """Causal attention of a sequence that is cut over the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(WIDTH, 3 * WIDTH, bias=False, device=DEVICE)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        q, k, v = self.inputs(x).unflatten(-1, (3, 4, WIDTH // 4)).permute(2, 0, 3, 1, 4)
        out: Tensor = ring_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)


def cp_ring() -> Step:
    """Context parallelism: keys and values go around a ring."""
    return _step(Attention())


def _pipeline(schedule: Any, stages_each: int = 1, back: bool = False) -> Step:
    """`back`: whether the second stage of each rank is on the way back, so that the first rank has the last one."""
    rank, world = dist.get_rank(), dist.get_world_size()
    count = world * stages_each
    numbers = (rank, count - 1 - rank) if back else range(rank, count, world)
    example = torch.empty(BATCH, LENGTH, WIDTH, device=DEVICE, requires_grad=True)
    stages = []
    for number in numbers:
        part = nn.Sequential(*[Block() for _ in range(2)])
        given: dict[str, Any] = {"input_args": (example,), "output_args": (example,)}
        stages.append(PipelineStage(part, number, count, torch.device(DEVICE), **given))
    runs = schedule(stages if stages_each > 1 else stages[0], 4, loss_fn=lambda y, of: (y - of).square().mean())
    parameters = [x for stage in stages for x in stage.submod.parameters()]
    optimizer = torch.optim.AdamW(parameters, foreach=False)

    def step() -> None:
        batch = [torch.randn(4 * BATCH, LENGTH, WIDTH, device=DEVICE)] if rank == 0 else []
        last = count - 1 in numbers
        target = {"target": torch.randn(4 * BATCH, LENGTH, WIDTH, device=DEVICE)} if last else {}
        runs.step(*batch, **target)
        optimizer.step()
        optimizer.zero_grad()

    return step


def pp_gpipe() -> Step:
    """A pipeline, all forward passes first."""
    return _pipeline(ScheduleGPipe)


def pp_1f1b() -> Step:
    """A pipeline, forward and backward passes in turn."""
    return _pipeline(Schedule1F1B)


def pp_interleaved() -> Step:
    """A pipeline of two stages a rank, forward and backward passes in turn."""
    return _pipeline(ScheduleInterleaved1F1B, stages_each=2)


def pp_zero_bubble() -> Step:
    """A pipeline of two stages a rank, which computes gradients of weights later than those of inputs."""
    return _pipeline(ScheduleInterleavedZeroBubble, stages_each=2)


def pp_zero_bubble_v() -> Step:
    """A zero-bubble pipeline, in which the second stage of each rank is on the way back."""
    return _pipeline(ScheduleZBVZeroBubble, stages_each=2, back=True)


def pp_dual_v() -> Step:
    """DualPipeV, which runs the forward pass of one micro-batch with the backward pass of another."""
    return _pipeline(ScheduleDualPipeV, stages_each=2, back=True)


def named(name: str) -> Callable[[], Step]:
    """The program of a name: a function of this file, or the decoder of whole models under one of its layouts."""
    return partial(_decoder, name) if name in decoders.PROGRAMS else globals()[name]


def _decoder(name: str) -> Step:
    world, number = dist.get_world_size(), dist.get_rank()
    handles = groups(decoders.whole_case(name, world).layout)
    with torch.device(DEVICE):
        step = decoders.evenly_routed(decoders.trained(torch, name, world, number, lambda *_: None, handles))
    return lambda: step(lambda _: None)


def groups(layout: Layout) -> dict[str, Any]:
    """The process groups of this rank, by the dimensions of a layout along which they lie."""
    found: dict[str, Any] = {}
    made: Any = dist.new_subgroups_by_enumeration
    of: dict[str, Callable[[Rank], tuple[int, ...]]] = {
        "-".join(dimensions): partial(_peers, layout, dimensions)
        for dimensions in (*((each,) for each in Rank._fields), *TOGETHER)
    }
    of |= {"ends": layout.ends, "experts": layout.experts, "same-experts": layout.same_experts}
    for name, ranks_of in of.items():
        places = dict.fromkeys(ranks_of(layout.rank(number)) for number in range(layout.world))
        if len(set(next(iter(places)))) > 1:
            found[name], _ = made([list(ranks) for ranks in places])
    return found


def _peers(layout: Layout, dimensions: tuple[str, ...], rank: Rank) -> tuple[int, ...]:
    return layout.peers(rank, *dimensions)
