"""A rank of many is traced on a fake process group: shards, gathered parameters, buckets, stages, streams."""

from pathlib import Path
from typing import Any

import pytest

import memmodel
from memmodel.base.errors import UsageError
from memmodel.events.program import Alloc
from memmodel.step import memory_of
from memmodel.tracer import alike
from memmodel.tracer.growth import in_order
from memmodel.tracer.ranks import Mesh, largest_mesh, spans, table, to_trace
from memmodel.tracer.result import Trace

WIDTH, LAYERS = 512, 4
_WEIGHT = WIDTH * WIDTH * 4

SCRIPT = f"""
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard

dist.init_process_group("nccl")
rank, world = dist.get_rank(), dist.get_world_size()
assert rank == int(os.environ["RANK"]) and world == int(os.environ["WORLD_SIZE"])
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
with torch.device("cuda"):
    model = nn.Sequential(*[nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range({LAYERS})])

def sharded(x):
    if not hasattr(sharded, "optimizer"):
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        sharded.optimizer = torch.optim.AdamW(model.parameters())
    model(x).sum().backward()
    sharded.optimizer.step()
    sharded.optimizer.zero_grad()

def replicated(x):
    if not hasattr(replicated, "model"):
        replicated.model = nn.parallel.DistributedDataParallel(model, device_ids=[int(os.environ["LOCAL_RANK"])])
    replicated.model(x).sum().backward()
    replicated.model.zero_grad()

def hooked(x):
    if not hasattr(hooked, "model"):
        hooked.model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        hooked.model.register_comm_hook(None, allreduce_hook)
    hooked.model(x).sum().backward()
    hooked.model.zero_grad(set_to_none=False)

def noted(x):
    with open(__file__ + ".steps", "a") as file:
        file.write(str(rank) + " ")
    return model(x)

def noted_longer(x):
    noted(x)
    if rank == 3:
        model(x)

def staged(x):
    for _ in range(4 - rank):
        y = model(x)
    dist.send(y, (rank + 1) % world)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "train.py"
    path.write_text(SCRIPT)
    return path


def traced(script: Path, function: str, **given: Any) -> Trace:
    return memmodel.trace(f"{script}:{function}", ["x=N,512"], at={"N": 8}, step="own", world=4, gpu="H100", **given)


def test_fully_sharded_parameters(script: Path) -> None:
    """A layer is gathered in forward and in backward, its gradient reduced once, among all ranks."""
    found = traced(script, "sharded", rank=1)
    by_kind = {each.kind: each for each in found.communication}
    # Layers are gathered in forward, and again in backward; the last one's gather is not repeated by prefetching.
    assert by_kind["all_gather"].nbytes % _WEIGHT == 0
    assert by_kind["all_gather"].calls == 2 * LAYERS
    assert by_kind["reduce_scatter"].nbytes == LAYERS * _WEIGHT
    assert by_kind["reduce_scatter"].ranks == 4
    # AdamW runs on lists by default: of shards on CUDA too (torch/distributed/tensor/__init__.py)
    assert "foreach_sqrt" in {launch.name for launch in found.program.launches()}
    streams = {event.stream for event in found.program.births() if event.nbytes == _WEIGHT}
    assert len(streams) == 2  # whole parameters: the flat ones on the stream that gathers, copies on the default one


def test_replicated_gradients_have_buckets(script: Path) -> None:
    """Parameters, buckets of their size, and gradients beside them."""
    found = traced(script, "replicated", rank=0)
    assert found.memory.live_peak_bytes > 3 * LAYERS * _WEIGHT
    reduced = [each for each in found.communication if each.kind == "all_reduce"]
    assert [each.nbytes for each in reduced] == [LAYERS * _WEIGHT]


def test_a_communication_hook_divides_for_itself(script: Path) -> None:
    """Its buckets, once in each of three steps: gradients that lie in them already are not divided before."""
    found = traced(script, "hooked", rank=0)
    divided = [int(launch.work.written) for launch in found.program.launches() if launch.name == "div"]
    assert sum(divided) == 3 * LAYERS * _WEIGHT


def test_ranks_that_send_are_all_traced(script: Path) -> None:
    """The first rank runs the model three times before it sends; the fullest is shown first."""
    found = traced(script, "staged")
    assert sum(row.number for row in found.ranks) == 4
    assert found.ranks[0].live_peak_bytes == found.memory.live_peak_bytes
    assert "0-3" in found.notes[-1]


@pytest.mark.parametrize(("function", "steps"), [("noted", "0 0 3 "), ("noted_longer", "0 0 3 3 ")])
def test_a_rank_with_the_same_first_step_takes_no_second(script: Path, function: str, steps: str) -> None:
    """Rank 0 takes two, its last the steady one; rank 3 as many, unless its first is the same."""
    log = Path(f"{script}.steps")
    log.write_text("")
    found = traced(script, function)
    assert log.read_text() == steps
    assert sum(row.number for row in found.ranks) == 4


def test_streams_have_pools_of_their_own(script: Path) -> None:
    """A block goes back to its stream's pool, so that the same events on one stream reserve no more."""
    found = traced(script, "sharded", rank=0)
    one = found.program._replace(
        events=[e._replace(stream=0) if isinstance(e, Alloc) else e for e in found.program.events]
    )
    alone = memory_of(one, found.torch, found.gpu)
    assert alone.live_peak_bytes == found.memory.live_peak_bytes
    assert alone.reserved_peak_bytes <= found.memory.reserved_peak_bytes


def test_which_ranks_stand_for_all() -> None:
    plain, staged = Mesh(tuple(range(8)), (4, 2), ("dp", "tp")), Mesh(tuple(range(8)), (4, 2), ("pp", "dp"))
    assert to_trace(plain, sends=False) == [0, 1, 6, 7]
    assert to_trace(staged, sends=True) == list(range(8))
    assert largest_mesh(8, [Mesh((0, 1), (2,), ("x",)), plain]) == plain
    assert largest_mesh(4, []).shape == (4,)
    assert spans([5, 0, 1, 2]) == "0-2, 5"
    memory = memmodel.predict("A100", "flash", seq=256)["flash"].memory
    rows = table(plain, {0: memory, 7: memory})
    assert [(row.ranks, row.number) for row in rows] == [("0-7", 8)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rank": 4}, "rank 4 of a world of 4: expected one from 0 to 3"),
        ({"gpus_per_node": 0}, "expected a whole number of at least 1"),
    ],
)
def test_impossible_worlds(script: Path, given: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        traced(script, "sharded", **given)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("fully_shard(model, offload_policy=CPUOffloadPolicy())", "CPUOffloadPolicy is not traced"),
        ("ScheduleGPipe(stage, 2).step(x)", "give PipelineStage its input_args"),
    ],
)
def test_what_a_rank_alone_cannot_tell(tmp_path: Path, body: str, says: str) -> None:
    script = tmp_path / "odd.py"
    script.write_text(
        "import torch\nimport torch.distributed as dist\n"
        "from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard\n"
        "from torch.distributed.pipelining import PipelineStage, ScheduleGPipe\n"
        "model = torch.nn.Linear(8, 8, device='cuda')\n"
        "stage = PipelineStage(model, dist.get_rank(), 2, torch.device('cuda'))\n"
        f"def step(x):\n    {body}\n"
    )
    with pytest.raises(UsageError, match=says):
        memmodel.trace(f"{script}:step", ["x=4,8"], step="own", world=2, rank=0)


@pytest.mark.slow
def test_alike_layers_of_ranks_are_extrapolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank's memory from few layers is that of all, and so is every event."""
    path = tmp_path / "eight.py"
    path.write_text(SCRIPT.replace(f"range({LAYERS})", "range(8)"))

    def found(worth_it: int) -> Trace:
        monkeypatch.setattr(alike, "_WORTH_IT", worth_it)
        return traced(path, "sharded")

    few, whole = found(7), found(8)
    assert any("of 8 equal layers 4, 5 and 6 were traced" in note for note in few.notes)
    assert few.ranks == whole.ranks
    assert in_order(few.program) == in_order(whole.program)
