"""Data parallelism: parameters that ranks share by rows (FSDP2), or gradients that replicas average (DDP)."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from memmodel.base.dtypes import float32, short_name
from memmodel.models.layout import ALL_BATCHES, MODEL, SHARING
from memmodel.models.setting import ModelCase
from memmodel.models.share import EXPERTS, SHARDS, over
from memmodel.models.weights import Stored
from memmodel.sizes.dims import Dim, Size, ceil_div

if TYPE_CHECKING:
    from memmodel_kernels.parallel.fully_sharded import Shard, Sharding
    from memmodel_kernels.parallel.group import Group

_EXPERTS = "experts."  # how names of the weights begin that are of a mixture's experts
# Of the weights outside of the layers, those that come before them.
_FIRST = ("embedding", "positions", "segments", "class_token", "patches")


class Sharder:
    """Makes a model's parameters on tensors of a library, and what surrounds its layers."""

    def __init__(self, xp: Any, case: ModelCase, handles: Mapping[str, Any]) -> None:
        self.xp, self.case = xp, case
        self.sharding: Sharding | None = None
        self.of_experts: Sharding | None = None
        if case.layout.fully_sharded:
            self.sharding, self.of_experts = _sharding(xp, case, handles), _sharding_of_experts(xp, case, handles)
        # Of the unit whose parameters are being made; experts that ranks share are gathered among fewer ranks.
        self.shards: list[Shard] = []
        self.experts: list[Shard] = []
        self.units: Any = None

    def parameter(self, kept: Stored) -> Any:
        """A tensor of the weights, or this rank's rows of it."""
        learns: Callable[[Any], Any] = lambda x: x.requires_grad_() if kept.learns else x  # noqa: E731
        if self.sharding is None:
            return learns(self.xp.zeros(*kept.shape, dtype=getattr(self.xp, kept.dtype.name)))
        from memmodel_kernels.parallel.fully_sharded import Shard

        apart = self.of_experts is not None and kept.name.startswith(_EXPERTS)
        group = (self.of_experts if apart and self.of_experts else self.sharding).shards
        rows = rows_of(kept.shape[0], group.size)
        kind = float32 if self.case.masters else kept.dtype  # FSDP2 keeps shards in fp32, and gathers in 16 bits
        padded = self.xp.zeros(rows, *kept.shape[1:], dtype=getattr(self.xp, kind.name))
        shard = Shard(kept.name, kept.shape, padded, group.rank)
        (self.experts if apart else self.shards).append(shard)
        return learns(shard.rows)

    def unit(self, weights: dict[str, Any], layer: int | None) -> None:
        """Gather together the parameters made since the last unit; `layer` is None outside of the layers."""
        if self.sharding is None:
            return
        from memmodel_kernels.parallel.fully_sharded import FullySharded

        if self.units is None:
            self.units = FullySharded()
        parts = [(self.shards, self.sharding), *([(self.experts, self.of_experts)] if self.experts else ())]
        self.units.add(weights, *parts)
        self.shards, self.experts = [], []

    @property
    def around(self) -> Any:
        """The function that runs the layers (`memmodel_kernels.decoder.Around`)."""
        from memmodel_kernels.decoder import directly

        return directly if self.units is None else self.units.around


def rows_of(size: Dim, ranks: int) -> Dim:
    """The rows of a rank, of as many as the first one has: the last ones are padded (torch.chunk)."""
    if size % ranks:
        return ceil_div(size, ranks)
    rows = over(size, ranks, SHARDS)
    if isinstance(rows, Size):  # ranks that have the same experts are fewer by as many as share them
        rows = Size(int(rows), rows.letter.replace(f"/{EXPERTS}/{SHARDS}", f"/{SHARDS}"))
    return rows


def _sharding(xp: Any, case: ModelCase, handles: Mapping[str, Any]) -> "Sharding":
    from memmodel_kernels.parallel.fully_sharded import Sharding

    layout = case.layout
    # `compute` and `reduce` are MixedPrecisionPolicy's param_dtype and reduce_dtype.
    return Sharding(
        ranks_along(case, handles, *SHARING),
        ranks_along(case, handles, "replica") if layout.dp > 1 else None,
        compute=getattr(xp, case.dtype.name) if case.masters else None,
        reduce=xp.float32 if case.masters else None,
        reshard=layout.reshard,
    )


def _sharding_of_experts(xp: Any, case: ModelCase, handles: Mapping[str, Any]) -> "Sharding | None":
    """That of experts, among the ranks that have the same ones; their gradients are of all ranks' tokens."""
    if case.layout.ep == 1:
        return None
    group = of_ranks(case, handles, "same-experts", case.layout.same_experts(case.rank))
    return _sharding(xp, case, handles)._replace(shards=group, batches=case.layout.ep)


def shared_experts(case: ModelCase, handles: Mapping[str, Any]) -> Any:
    """The ranks that share the experts; None where none do."""
    from memmodel_kernels.parallel.experts import ExpertParallel

    if case.layout.ep == 1:
        return None
    return ExpertParallel(of_ranks(case, handles, "experts", case.layout.experts(case.rank)))


def ranks_along(case: ModelCase, handles: Mapping[str, Any], *dimensions: str) -> "Group":
    """The ranks along some dimensions of `memmodel.models.layout.Rank`, as this one sees them.

    `handles`: torch's process groups, by the names of these dimensions with a hyphen between.
    """
    return of_ranks(case, handles, "-".join(dimensions), case.layout.peers(case.rank, *dimensions))


def of_ranks(case: ModelCase, handles: Mapping[str, Any], name: str, ranks: tuple[int, ...]) -> "Group":
    """Ranks with these numbers, as one of them sees them. `name`: of their process group among the handles."""
    from memmodel_kernels.parallel.group import Group

    return Group(ranks.index(case.layout.number(case.rank)), len(ranks), handles.get(name, ranks))


def average_gradients(model: Any, case: ModelCase, handles: Mapping[str, Any]) -> None:
    """Average the gradients of a model's replicas while backward runs, where PyTorch's DDP does that."""
    from memmodel_kernels.parallel.replicated import Replicated, average

    if case.layout.replicated and not case.masters:
        # DDP fills its buckets in the order in which gradients were ready in the first step.
        named = list(reversed(_in_order_of_use(model)))
        apart = {name for name, _ in named if case.layout.ep > 1 and name.startswith(_EXPERTS)}
        rest = [x for name, x in named if x.requires_grad and name not in apart]
        Replicated(rest, ranks_along(case, handles, *ALL_BATCHES))
        if experts := [x for name, x in named if x.requires_grad and name in apart]:
            same = of_ranks(case, handles, "same-experts", case.layout.same_experts(case.rank))
            average(experts, same, case.layout.ep)


def distributed_updates(
    case: ModelCase, models: list[Any], parameters: list[Any], label: Any, handles: Mapping[str, Any]
) -> list[Any]:
    """The updates of a step whose gradients Megatron-LM or DeepSpeed reduces; none where neither does.

    Experts that ranks share have one of their own, among the ranks that have the same ones.
    """
    from memmodel_kernels.optimizers import OPTIMIZERS
    from memmodel_kernels.parallel.distributed_optimizer import DistributedOptimizer
    from memmodel_kernels.parallel.partitioned_gradients import PartitionedGradients

    layout, optimizer, group = case.layout, OPTIMIZERS[case.optimizer], ranks_along(case, handles, *ALL_BATCHES)
    zero_2 = layout.zero == 2 and layout.shards > 1
    if not (zero_2 or layout.shares_optimizer or (layout.replicated and case.masters)):
        return []
    make = partial(DistributedOptimizer, optimizer, masters=case.masters, shared=layout.shares_optimizer, label=label)
    named = [item for model in models for weights in model.layers for item in weights.items()]
    apart = {id(x) for name, x in named if layout.ep > 1 and name.startswith(_EXPERTS)}
    shares = [([x for x in parameters if id(x) not in apart], group, 1)]
    if experts := [x for x in parameters if id(x) in apart]:
        shares.append((experts, of_ranks(case, handles, "same-experts", layout.same_experts(case.rank)), layout.ep))
    if zero_2:
        return [PartitionedGradients(optimizer, [share[:2] for share in shares], label)]
    return [make(*share[:2], batches=share[2]) for share in shares]


def norm_total(case: ModelCase, handles: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """A function that adds up the squared norm of gradients over the ranks that hold others; None where none do."""
    from memmodel_kernels.parallel.group import all_reduced

    layout = case.layout
    shared = SHARING if layout.fully_sharded else ALL_BATCHES if layout.zero in (1, 2) and layout.shards > 1 else ()
    group = ranks_along(case, handles, *shared, *(MODEL if layout.tp * layout.pp > 1 else ()))
    return (lambda square: all_reduced(square, group)) if group.size > 1 else None


def assumed(case: ModelCase) -> Iterator[str]:
    """A sentence for each assumption on data parallelism: whose rules it follows."""
    layout = case.layout
    if layout.fully_sharded:
        dtypes = f", gathered in {short_name(case.dtype)} and reduced in fp32" if case.masters else ""
        kept = "" if layout.reshard else ", kept from forward to backward"
        yield f"parameters shared by rows as PyTorch's fully_shard of each layer and of the rest{dtypes}{kept}"
    elif layout.zero == 2 and layout.shards > 1:
        yield "gradients and states shared as DeepSpeed's ZeRO 2 by default: an fp32 copy of each rank's parameters"
    elif layout.shares_optimizer:
        yield "states shared as Megatron-LM's distributed optimizer, without overlap: one bucket, after backward"
    elif layout.replicated:
        whose = "Megatron-LM, in one flat buffer after backward" if case.masters else "PyTorch's DDP, in buckets"
        yield f"gradients averaged as by {whose}"


def _in_order_of_use(model: Any) -> list[tuple[str, Any]]:
    """The weights of a decoder; their gradients come in the opposite order."""
    first = {name: x for name, x in model.outer.items() if name.startswith(_FIRST)}
    last = {name: x for name, x in model.outer.items() if name not in first}
    return [named for weights in (first, *model.layers, last) for named in weights.items()]
