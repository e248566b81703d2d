"""How a model is laid out over GPUs: the sizes of each kind of parallelism, its ranks, and what does not divide."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from memmodel.base.errors import UsageError
from memmodel.base.frozen import Frozen

if TYPE_CHECKING:
    from memmodel.models.architecture import Architecture

SCHEDULES = ("gpipe", "1f1b", "interleaved")
ZERO = (0, 1, 2, 3)  # sharded over dp_shard: nothing, optimizer states, gradients too, parameters too
MOST_LAYERS = 1 << 16  # of all micro-batches together: a minute, and half a gigabyte
MOST_GPUS = 1 << 17  # a rank's peers are listed: half a minute


# Dimensions along which ranks act together. SHARING: those that split the state (zero 3) and have other tokens.
# ALL_BATCHES: all with other tokens. MODEL: those with other parts of the model. TOGETHER: every group of several
# dimensions that some collective runs in, with those of clipping, which adds up over all with other gradients.
SHARING, ALL_BATCHES = ("shard", "context"), ("replica", "shard", "context")
MODEL = ("tensor", "stage")
TOGETHER = (SHARING, ALL_BATCHES, MODEL, (*SHARING, *MODEL), (*ALL_BATCHES, *MODEL))


class Rank(NamedTuple):
    """A rank's place along each dimension of a layout, from the one of nearest neighbours to the farthest.

    Attributes:
        tensor, context, shard, replica, stage: its index below tp, cp, dp_shard, dp and pp.
    """

    tensor: int = 0
    context: int = 0
    shard: int = 0
    replica: int = 0
    stage: int = 0


class Layout(Frozen):
    """The dimensions of a mesh of GPUs, as torchtitan and Megatron name them. By default one GPU.

    Attributes:
        tp: ranks that share each layer (tensor parallel). sequence_parallel: whether these also share the tokens
            between the products, where each rank would hold all of them.
        pp: ranks that share the layers (pipeline stages).
        dp: replicas of the model, each with batches of its own. dp_shard: ranks of a replica that have batches of their
            own too, and share its state as far as `zero` says.
        zero: what the ranks of dp_shard share, one of ZERO (Rajbhandari et al., 2020, arXiv 1910.02054). 3 is FSDP.
        reshard: whether the layers of zero 3 let go of their parameters after forward, and gather them again.
        cp: ranks that share each sequence (context parallel).
        ep: ranks that share the experts of a mixture, among those of dp, dp_shard and cp. etp: of those of tp, how many
            share the width of an expert; 0 for all. With fewer, ep is among all others. "megatron" alone has it.
        schedule: of pipeline stages, one of SCHEDULES. virtual_stages: of each rank; above 1 in "interleaved" alone.
        microbatch_group: micro-batches that go through one of these before the next; 0 for as many as stages.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    dp_shard: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 0
    zero: int = 3
    schedule: str = "1f1b"
    virtual_stages: int = 1
    microbatch_group: int = 0
    sequence_parallel: bool = False
    reshard: bool = True

    @property
    def world(self) -> int:
        """The number of GPUs. The ranks of ep are among those of dp, dp_shard and cp."""
        return self.tp * self.cp * self.dp_shard * self.dp * self.pp

    @property
    def batches(self) -> int:
        """How many ranks, or groups of them, have batches of their own."""
        return self.dp * self.dp_shard

    @property
    def words(self) -> str:
        """The dimensions that differ from one GPU's, in words: tp 8, sequence parallel, pp 2, ..."""
        sizes = [(name, getattr(self, name)) for name in ("tp", "pp", "dp", "dp_shard", "cp", "ep")]
        parts = [f"{name.replace('_', '-')} {size}" for name, size in sizes if size > 1]
        parts += [f"etp {self.etp}"] if self.etp else []
        parts += ["sequence parallel"] if self.sequence_parallel else []
        parts += [f"ZeRO {self.zero}"] if self.shards > 1 else []
        return ", ".join([*parts, self.schedule] if self.pp > 1 else parts)

    @property
    def _sizes(self) -> Rank:
        return Rank(self.tp, self.cp, self.dp_shard, self.dp, self.pp)

    @property
    def shards(self) -> int:
        """Ranks that share the state as far as `zero` says: of dp_shard, and of cp, whose gradients differ too."""
        return self.dp_shard * self.cp

    @property
    def sharers(self) -> int:
        """Ranks that share the width of each expert."""
        return self.etp or self.tp

    @property
    def fully_sharded(self) -> bool:
        """Whether parameters are shared by rows, and gathered while they are needed (FSDP)."""
        return self.zero == ZERO[-1] and self.shards > 1

    @property
    def replicated(self) -> bool:
        """Whether ranks have the whole state each, and average their gradients (DDP)."""
        return self.dp * self.shards > 1 and (self.zero == 0 or self.shards == 1)

    @property
    def shares_optimizer(self) -> bool:
        """Whether ranks share the optimizer's states, and have the whole parameters and gradients each (ZeRO 1)."""
        return self.zero == 1 and self.shards > 1

    def number(self, rank: Rank) -> int:
        """A rank's number in the world: neighbours along tp are next to each other, stages farthest apart."""
        found = 0
        for place, size in zip(reversed(rank), reversed(self._sizes), strict=True):
            found = found * size + place
        return found

    def rank(self, number: int) -> Rank:
        """The rank with a number."""
        places = []
        for size in self._sizes:
            number, place = divmod(number, size)
            places.append(place)
        return Rank(*places)

    def peers(self, rank: Rank, *dimensions: str) -> tuple[int, ...]:
        """The numbers of the ranks that differ from one along these fields of `Rank` alone, itself among them."""
        along = [range(size) if name in dimensions else (place,) for name, place, size in self._places(rank)]
        return tuple(sorted(self.number(Rank(*places)) for places in product(*along)))

    @property
    def expert_ranks(self) -> tuple[str, ...]:
        """The dimensions along which experts are shared: of what else is shared, or of all ranks with other batches."""
        return SHARING if self.fully_sharded else ALL_BATCHES

    def experts(self, rank: Rank) -> tuple[int, ...]:
        """The numbers of the ranks that share the experts with one, neighbours, itself among them."""
        peers = self.peers(rank, *self.expert_ranks)
        start = peers.index(self.number(rank)) // self.ep * self.ep
        return peers[start : start + self.ep]

    def same_experts(self, rank: Rank) -> tuple[int, ...]:
        """The numbers of the ranks that have the same experts as one, itself among them."""
        peers = self.peers(rank, *self.expert_ranks)
        return peers[peers.index(self.number(rank)) % self.ep :: self.ep]

    def ends(self, rank: Rank) -> tuple[int, ...]:
        """The numbers of the first and the last stage's ranks that are as one else."""
        return tuple(self.number(rank._replace(stage=stage)) for stage in (0, self.pp - 1))

    def _places(self, rank: Rank) -> Iterator[tuple[str, int, int]]:
        return zip(Rank._fields, rank, self._sizes, strict=True)

    @property
    def stages(self) -> int:
        """Pieces that the layers are cut into: virtual stages of all pipeline ranks."""
        return self.pp * self.virtual_stages

    def layers_of(self, rank: Rank, layers: int) -> tuple[range, ...]:
        """The layers of each virtual stage of a rank, of a model with so many."""
        each = layers // self.stages
        starts = (each * (self.pp * turn + rank.stage) for turn in range(self.virtual_stages))
        return tuple(range(start, start + each) for start in starts)

    def kinds(self) -> tuple[Rank, ...]:
        """One rank of each kind: pipeline stages differ; the others of a stage have the same sizes as its first."""
        return tuple(Rank(stage=stage) for stage in range(self.pp))


ONE_GPU, FIRST_RANK = Layout(), Rank()
NAMES = Layout._fields


def check_layout(
    layout: Layout,
    arch: "Architecture",
    seq: int,
    microbatches: int = 1,
    gpus: int | None = None,
    framework: str = "huggingface",
) -> None:
    """Raise UsageError for what is not modelled, and for sizes that do not divide.

    `microbatches`: of a step. `gpus`: how many there are, where that was said. `framework`: "megatron" models all kinds
    of parallelism.
    """
    if max(gpus or 1, layout.world) > MOST_GPUS:
        raise UsageError(f"{max(gpus or 1, layout.world)} GPUs: expected at most {MOST_GPUS}")
    if gpus is not None and gpus != layout.world:
        raise UsageError(_other_world(layout, gpus))
    _check_tensor(layout, arch, seq, pads=framework == "megatron")
    _check_stages(layout, arch, microbatches)
    _check_experts(layout, arch, framework)
    # Load-balanced rings give a rank two pieces, of the start and of the end, whose causal work adds up to the same.
    if seq % (2 * layout.cp) and layout.cp > 1:
        raise UsageError(f"seq {seq} on cp {layout.cp}: expected a multiple of {2 * layout.cp}, two pieces a rank")


def _other_world(layout: Layout, gpus: int) -> str:
    sizes = {name: getattr(layout, name) for name in ("tp", "pp", "dp", "dp_shard", "cp")}
    given = {name: size for name, size in sizes.items() if size > 1} or {"dp_shard": 1}
    said = " x ".join(f"{name.replace('_', '-')} {size}" for name, size in given.items())
    others = layout.world // layout.dp_shard
    fits = gpus // others if gpus % others == 0 else 0
    advice = f"give dp-shard {fits}" if fits else f"give a multiple of {others}"
    return f"{gpus} GPUs: {said} makes {layout.world}, {advice}"


def _check_tensor(layout: Layout, arch: "Architecture", seq: int, pads: bool) -> None:
    """`pads`: whether the vocabulary is padded to what divides."""
    tp = layout.tp
    if layout.sequence_parallel and tp == 1:
        raise UsageError("sequence-parallel without tp: it shares the tokens among the ranks of tp, give one above 1")
    if tp == 1:
        return
    if arch.kv_heads < tp:
        raise UsageError(f"tp {tp}: {arch.name} has only {arch.kv_heads} KV heads, give at most that")
    sizes = {"heads": arch.heads, "KV heads": arch.kv_heads, "feed-forward width": arch.ffn, "vocabulary": arch.vocab}
    if arch.moe is not None:
        sizes |= {"width of the shared experts": arch.moe.shared}
    if pads:
        del sizes["vocabulary"]
    for name, size in sizes.items():
        if size % tp:
            raise UsageError(f"tp {tp} does not divide {arch.name}'s {name}, {size}: give a divisor of it")
    if layout.sequence_parallel and seq % (tp * layout.cp):
        raise UsageError(f"seq {seq} shared by tp {tp} x cp {layout.cp}: expected a multiple of {tp * layout.cp}")


def _check_stages(layout: Layout, arch: "Architecture", microbatches: int) -> None:
    most = MOST_LAYERS * layout.pp // arch.layers
    if microbatches > max(most, 1):
        raise UsageError(
            f"microbatches {microbatches}: the kernels of each are timed, for {arch.layers} layers of at most {most}; "
            "memory is the same from two on"
        )
    if layout.schedule == "interleaved" and layout.virtual_stages == 1:
        raise UsageError("schedule interleaved with one stage a rank: give virtual-stages of 2 or more")
    if layout.virtual_stages > 1 and layout.schedule != "interleaved":
        raise UsageError(f"virtual-stages {layout.virtual_stages} under {layout.schedule}: give schedule interleaved")
    if arch.layers % layout.stages:
        raise UsageError(
            f"pp {layout.pp}: {arch.layers} layers in {layout.stages} stages do not divide, give a divisor of them"
        )
    if layout.pp > microbatches:
        raise UsageError(
            f"pp {layout.pp} with {microbatches} microbatches: fewer than stages, give at least {layout.pp}"
        )
    if layout.microbatch_group and not (layout.virtual_stages > 1 and layout.microbatch_group >= layout.pp):
        raise UsageError(
            f"microbatch-group {layout.microbatch_group}: expected at least pp, {layout.pp}, under schedule interleaved"
        )
    if layout.virtual_stages > 1 and not layout.microbatch_group and microbatches % layout.pp:
        raise UsageError(
            f"schedule interleaved with {microbatches} microbatches: expected a multiple of pp, {layout.pp}"
        )


def _check_experts(layout: Layout, arch: "Architecture", framework: str) -> None:
    if layout.etp and (framework != "megatron" or arch.moe is None or layout.tp % layout.etp):
        raise UsageError(
            f"etp {layout.etp}: expected a divisor of tp, {layout.tp}, for a mixture under framework megatron"
        )
    if arch.moe is not None and arch.moe.width % layout.sharers:
        words = f"{'etp' if layout.etp else 'tp'} {layout.sharers} does not divide {arch.name}'s width of an expert"
        raise UsageError(f"{words}, {arch.moe.width}: give a divisor of it")
    if layout.ep == 1:
        return
    if arch.moe is None:
        raise UsageError(f"ep {layout.ep}: {arch.name} has no experts, leave it out")
    if arch.moe.experts % layout.ep:
        raise UsageError(f"ep {layout.ep} does not divide {arch.name}'s {arch.moe.experts} experts: give a divisor")
    ranks = layout.shards if layout.fully_sharded else layout.dp * layout.shards * (layout.tp // layout.sharers)
    if ranks % layout.ep:
        among = "dp-shard x cp" if layout.fully_sharded else "dp x dp-shard x cp"
        among = f"tp / etp x {among}" if layout.sharers < layout.tp else among
        raise UsageError(f"ep {layout.ep}: experts are shared among {among} = {ranks} ranks, give a divisor")
