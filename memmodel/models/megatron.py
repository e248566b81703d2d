"""A rank's step as Megatron-LM allocates it: the tensors that it keeps, then the step (`memmodel_kernels.megatron`).

Sources: Megatron-LM 0.14, megatron/core/distributed/param_and_grad_buffer.py and optimizer/distrib_optimizer.py;
TransformerEngine 2.11, transformer_engine/pytorch/module/base.py (workspaces, get_dummy_wgrad).
"""

from dataclasses import replace
from math import lcm
from types import MappingProxyType
from typing import Any, NamedTuple

from memmodel.base.dtypes import bool_, float16, float32, int64, uint8
from memmodel.base.errors import UsageError
from memmodel.events.groups import COMMUNICATION, GRADIENTS, OPTIMIZER, PARAMETERS, WORKSPACE
from memmodel.models.architecture import Architecture, Weight, layer_weights, on_stage, outer_weights
from memmodel.models.layout import ALL_BATCHES, SHARING, Layout, Rank
from memmodel.models.schedule import order
from memmodel.models.setting import EAGER, SDPA, ModelCase
from memmodel.sizes.dims import ceil_div

FLASH = "flash"  # attention by FlashAttention's package, where TransformerEngine would take cuDNN's
VALUES, TOTALS = "param_data", "main_grad"  # flat buffers of parameters, and of sums of their gradients
ALIGNED, _BUCKET = 64, 128  # elements that a parameter starts at, and that each rank's part of a bucket ends at
_VOCABULARY = 128  # rows per rank that the vocabulary is padded to (--make-vocab-size-divisible-by)
_STREAMS = 4  # that products in groups run on, with a workspace each (tex.get_num_cublas_streams)
_WORKSPACE, _WORKSPACE_BEFORE_HOPPER = 32 * 2**20 + 1024, 4 * 2**20


def train(xp: Any, case: ModelCase, label: Any, mark: Any, handles: Any = MappingProxyType({})) -> Any:
    """A training step of a rank; returns the inputs, which outlive it."""
    from memmodel_kernels.megatron.schedule import run

    layout, rank, arch = case.layout, case.rank, share_of(case)
    made = _Made(xp, case, arch, label)
    chunks = _chunks(made, handles)
    batch = tuple(made.kept(name, "", case.batch, case.seq // layout.cp, dtype=int64) for name in ("tokens", "targets"))
    made.mask()
    like = xp.zeros(1, dtype=getattr(xp, case.dtype.name)).expand(made.tokens, arch.hidden)
    micro = min(case.microbatches, (layout.virtual_stages + 1) * layout.pp)  # more repeat what these do
    run(chunks, order(layout, rank.stage, micro), batch, like, mark)
    mark("optimizer")
    made.update(handles)
    mark("after")
    return chunks, made, batch, like


def _chunks(made: "_Made", handles: Any) -> list[Any]:
    """The chunks of layers of a rank: one, or one for each of its virtual stages."""
    from memmodel_kernels.megatron.gpt import Gpt
    from memmodel_kernels.megatron.modules import Deferred, Sharing
    from memmodel_kernels.megatron.schedule import Chunk

    case, arch, layers = made.case, made.arch, iter(made.layers)
    layout, rank = case.layout, case.rank
    sharing = Sharing(_group(layout, rank, "tensor", handles=handles), layout.sequence_parallel)
    context, table, (gathered, of_experts) = (
        _group(layout, rank, "context", handles=handles),
        made.table(),
        made.gathered(),
    )
    experts = _experts(case, of_experts, handles)
    chunks = []
    for turn, part in enumerate(layout.layers_of(rank, arch.layers)):
        model = Gpt(
            arch, [next(layers) for _ in part], made.outer, case.batch, sharing, context, experts, table, gathered,
            loss=case.loss, attention=_attention(case), local=case.local_modules,
            dropout=case.dropout, attention_dropout=case.attention_dropout, recompute=case.checkpoint == "block",
            deferred=Deferred(case.deferred, []) if case.deferred else None,
        )  # fmt: skip
        number = turn * layout.pp + rank.stage
        chunks.append(Chunk(model, number == 0, number == layout.stages - 1))
    return chunks


def share_of(case: ModelCase) -> Architecture:
    """The sizes of a rank's share: projections fused, the vocabulary padded, all over the ranks of tp."""
    arch, tp = case.arch, case.layout.tp
    # Padded as a whole and then split: every rank has a multiple of 128 rows (vocab_size_with_padding).
    rows = ceil_div(arch.vocab, _VOCABULARY * tp) * _VOCABULARY
    sizes: dict[str, Any] = {name: getattr(arch, name) // tp for name in ("ffn", "heads", "kv_heads")}
    if arch.moe is not None:
        sizes["moe"] = arch.moe._replace(width=arch.moe.width // case.layout.sharers, shared=arch.moe.shared // tp)
    return replace(arch, fused_qkv=True, fused_gate_up=arch.gated, vocab=rows, **sizes)


def check_megatron(case: ModelCase) -> None:
    """Raise UsageError for what this account of Megatron-LM does not hold."""
    layout, arch = case.layout, case.arch
    refused = {
        "mixtures on tp without sequence parallelism": arch.moe is not None
        and layout.tp > 1
        and not layout.sequence_parallel,
        "shared experts without a gate": arch.moe is not None and bool(arch.moe.shared) and not arch.gated,
        "latent attention on tp": arch.mla is not None and layout.tp > 1,
        "latent attention in local modules": case.local_modules and arch.mla is not None,
        "products in groups in local modules": case.local_modules
        and arch.moe is not None
        and not case.sequential_experts,
        f"attention {EAGER} of latents": arch.mla is not None and case.attention == EAGER,
        "experts on replicas of shared states": arch.moe is not None and layout.dp > 1 and layout.dp_shard > 1,
        "an encoder": not arch.causal,
        f"{arch.norm} {arch.placement}": arch.placement != "pre" or arch.norm not in ("rmsnorm", "layernorm"),
        f"norms {arch.qk_norm} of queries and keys": arch.qk_norm not in ("none", "head"),
        f"attention {EAGER} and norms of queries and keys": arch.qk_norm != "none" and case.attention == EAGER,
        "deferred and separate gradients": bool(case.deferred) and case.separate_gradients,
        "adapters": case.adapter is not None,
        f"checkpoint {case.checkpoint}": case.checkpoint not in ("none", "block"),
        "autocast": case.autocast,
        "compiled layers": case.compiled,
        "offload": case.offload,
        f"phase {case.phase}": case.phase != "train",
        f"zero {layout.zero}": layout.dp_shard > 1 and layout.zero != 1,
        f"schedule {layout.schedule}": layout.pp > 1 and layout.schedule == "gpipe",
        f"attention {case.attention}": case.attention not in (SDPA, EAGER, FLASH),
        f"attention {EAGER} over cp": layout.cp > 1 and case.attention == EAGER,
        "local modules of RMS norms": case.local_modules and arch.norm != "layernorm",
    }
    for words, given in refused.items():
        if given:
            raise UsageError(f"framework megatron with {words} is not modelled: leave one of them out")


def _attention(case: ModelCase) -> str:
    """TransformerEngine's choice of attention (dot_product_attention/utils.py): from Hopper on cuDNN's, by default."""
    if case.attention == EAGER:
        return "unfused"
    return "flash" if case.attention == FLASH or case.device.capability < 90 else "fused"


def _group(layout: Layout, rank: Rank, *dimensions: str, handles: Any) -> Any:
    """The ranks along some dimensions; None where there is one."""
    from memmodel_kernels.parallel.group import Group

    peers = layout.peers(rank, *dimensions)
    if len(peers) == 1:
        return None
    return Group(peers.index(layout.number(rank)), len(peers), handles.get("-".join(dimensions)) or peers)


def _experts(case: ModelCase, buffer: Any, handles: Any) -> Any:
    """The ranks that share a mixture with this one, and how it runs."""
    from memmodel_kernels.megatron.mixture import ALONE, Experts
    from memmodel_kernels.parallel.group import Group

    if case.arch.moe is None:
        return ALONE
    number, peers = case.layout.number(case.rank), expert_peers(case)
    ranks, tensor, both = (
        Group(of.index(number), len(of), handles.get(name) or of) if len(of) > 1 else None
        for name, of in (("ep", peers.ranks), ("etp", peers.tensor), ("ep-etp", peers.both))
    )
    return Experts(
        ranks, tensor, both, case.dispatcher, buffer, case.sequential_experts, case.local_modules, case.arch.moe.in_fp32
    )  # fmt: skip


class ExpertPeers(NamedTuple):
    """The numbers of ranks: with other experts, with other parts of the same, both, and with the same parts."""

    ranks: tuple[int, ...]
    tensor: tuple[int, ...]
    both: tuple[int, ...]
    same: tuple[int, ...]


def expert_peers(case: ModelCase) -> ExpertPeers:
    """The ranks that share a mixture with this one, of those of tp and of all batches.

    Those with parts of one expert are neighbours, then those with other experts (megatron/core/parallel_state.py).
    """
    layout = case.layout
    every = layout.peers(case.rank, "tensor", *ALL_BATCHES)
    place, sharers, block = every.index(layout.number(case.rank)), layout.sharers, layout.sharers * layout.ep
    both = every[place // block * block :][:block]
    tensor = every[place // sharers * sharers :][:sharers]
    return ExpertPeers(both[place % sharers :: sharers], tensor, both, every[place % block :: block])


class _Buffers:
    """Flat buffers of parameters and of sums of gradients, with the optimizer's states: of ranks that share these."""

    def __init__(self, made: "_Made", weights: list[Weight], peers: tuple[int, ...], shared: bool) -> None:
        case, sizes = made.case, [weight.numel for weight in weights]
        self.made, self.peers = made, peers
        self.shards = len(peers) if shared else 1
        self.aligned = shared and case.layout.shares_optimizer
        total = padded(sizes, self.shards, self.aligned)
        summed = case.dtype if case.dtype is float16 else float32  # arguments.py sums in fp32 for bf16
        self.totals = made.kept(TOTALS, GRADIENTS, total, dtype=summed)
        self.values = made.kept(VALUES, PARAMETERS, total) if self.aligned else None
        self.start, self.loose = 0, list[Any]()

    def weight(self, weight: Weight) -> Any:
        """A parameter with its part of the buffers; but for linear layers', gradients are added by a hook."""
        from memmodel_kernels.megatron.modules import Weight as Kept

        size = weight.numel
        total = self.totals.narrow(0, self.start, size).view(*weight.shape)
        if self.values is not None:
            value = self.values.narrow(0, self.start, size).view(*weight.shape)
        else:
            value = self.made.kept(weight.name, f"{PARAMETERS} {weight.part}", *weight.shape)
        self.start += ceil_div(size, ALIGNED) * ALIGNED if self.aligned else size
        kept = Kept(value.requires_grad_(), total, not self.made.case.separate_gradients)
        kept.value.register_post_accumulate_grad_hook(_adding_to(total))
        self.loose.append(kept)
        return kept

    def states(self) -> None:
        """The optimizer's: a master and two moments, of this rank's part or of each parameter."""
        total = self.totals.numel()
        parts = [total // self.shards] if self.aligned else [one.value.numel() for one in self.loose]
        self.kinds = [
            [self.made.kept("", OPTIMIZER, size, dtype=float32) for size in parts]
            for _ in ("master", "exp_avg", "exp_avg_sq")
        ]

    def update(self, number: int, handle: Any) -> None:
        """Sum the gradients over the peers, who have other batches; Adam in one kernel; gather what others updated."""
        from memmodel_kernels.kernel import fused

        collectives, alone = self.made.xp.distributed, len(self.peers) == 1
        group, states = handle or self.peers, [x for kind in self.kinds for x in kind]
        if self.values is None:
            if not alone:
                collectives.all_reduce(self.totals, group=group)
            copies = [one.total.float() for one in self.loose]  # of sums in fp16; those in fp32 are themselves
            fused("adam", (*copies, *states), (*states, *(one.value for one in self.loose)), lambda: None)
            return
        own, place = states[0].numel(), self.peers.index(number)
        mine, values = (x.narrow(0, place * own, own) for x in (self.totals, self.values))
        if not alone:
            collectives.reduce_scatter_tensor(mine, self.totals, group=group)
        fused("adam", (mine.float(), *states), (*states, values), lambda: None)
        if not alone:
            collectives.all_gather_into_tensor(self.values, values, group=group)


class _Made:
    """The tensors that a rank keeps."""

    def __init__(self, xp: Any, case: ModelCase, arch: Architecture, label: Any) -> None:
        self.xp, self.case, self.arch, self.label = xp, case, arch, label
        layout = case.layout
        self.own = case.seq // layout.cp * case.batch  # tokens of a rank of cp
        self.tokens = self.own // layout.tp if layout.sequence_parallel else self.own  # of those, of a rank of tp
        outer, layers = weights_of(case)
        weights = [*outer, *(weight for one in layers for weight in one)]
        experts = [weight for weight in weights if of_experts(weight)]
        dense = [weight for weight in weights if not of_experts(weight)]
        with_other_batches, with_same_experts = peers_of(case)
        self.dense = _Buffers(self, dense, with_other_batches, layout.zero == 1)
        self.experts = _Buffers(self, experts, with_same_experts, layout.zero == 1) if experts else None
        self.outer = {weight.name: self._weight(weight) for weight in outer}
        self.layers = [{weight.name: self._weight(weight) for weight in one} for one in layers]
        for buffers in self.buffers():
            buffers.states()
        if not case.local_modules or experts:  # a router's product is TransformerEngine's in any case (moe_utils.py)
            workspace = _WORKSPACE if case.device.capability >= 90 else _WORKSPACE_BEFORE_HOPPER
            for _ in range(1 + (_STREAMS if experts and not case.sequential_experts else 0)):
                self.kept("", f"{WORKSPACE} TransformerEngine", workspace, dtype=uint8)
        # get_dummy_wgrad: autograd expects a gradient also of a weight whose kernel has added it to main_grad; of each
        # shape TransformerEngine keeps one tensor for that.
        if not case.local_modules and not case.separate_gradients:
            for shape in dict.fromkeys(weight.shape[-2:] for weight in weights if weight.linear):
                self.kept("", f"{GRADIENTS} stand-ins", *shape)

    def buffers(self) -> list[_Buffers]:
        """The buffers of the dense parameters, and of the experts."""
        return [self.dense, self.experts] if self.experts else [self.dense]

    def kept(self, name: str, group: str, *shape: Any, dtype: Any = None) -> Any:
        """A tensor that is there before the step and after it."""
        tensor = self.xp.zeros(*shape, dtype=getattr(self.xp, (dtype or self.case.dtype).name))
        self.label(tensor, name, group)
        self.__dict__.setdefault("_kept", []).append(tensor)
        return tensor

    def table(self) -> Any:
        """The angles of the rotary positions, in fp32 (rotary_pos_embedding.py keeps them)."""
        if self.arch.positions != "rotary":
            return None
        turning = self.arch.mla.rope if self.arch.mla else self.arch.head_dim
        return self.kept("rotary_pos_emb", PARAMETERS, self.own // self.case.batch, turning, dtype=float32)

    def gathered(self) -> tuple[Any, Any]:
        """Where tokens are gathered for Megatron's own linear layers, and for experts (GlobalMemoryBuffer of utils.py).

        Its own attention gives the same buffer to the products of queries and keys, as what they are added to.
        """
        case, arch, layout = self.case, self.arch, self.case.layout
        last = case.rank.stage == layout.pp - 1
        gathers = layout.sequence_parallel and (last or case.local_modules)
        scores = case.local_modules and case.attention == EAGER
        ranks = len(expert_peers(case).both) if arch.moe and case.dispatcher == "allgather" else 1
        sizes = [
            self.own * arch.hidden if gathers else 0,
            case.batch * arch.heads * case.seq**2 if scores else 0,
            ranks * self.tokens * arch.hidden if ranks > 1 else 0,
        ]
        if not any(sizes):
            return None, None
        buffer = self.kept("mpu", COMMUNICATION, max(sizes))
        of_layers, _, of_experts = (buffer.narrow(0, 0, size).view(-1, arch.hidden) if size else None for size in sizes)
        return of_layers, of_experts

    def mask(self) -> None:
        """The mask of attention, which comes with a batch (get_batch_on_this_tp_rank of megatron/training/utils.py)."""
        case = self.case
        if case.attention_mask:
            self.kept("attention_mask", "", case.batch, 1, case.seq // case.layout.cp, case.seq, dtype=bool_)

    def update(self, handles: Any) -> None:
        """The optimizer's step."""
        names = ("-".join(ALL_BATCHES), "experts")
        for buffers, name in zip(self.buffers(), names, strict=False):
            buffers.update(self.case.layout.number(self.case.rank), handles.get(name))

    def _weight(self, weight: Weight) -> Any:
        buffers = self.experts if self.experts and of_experts(weight) else self.dense
        if buffers is self.dense or not self.case.sequential_experts:
            return buffers.weight(weight)
        count, *shape = weight.shape
        return [buffers.weight(weight._replace(shape=tuple(shape))) for _ in range(int(count))]


def peers_of(case: ModelCase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ranks that sum gradients with this one: of the dense parameters, and of the same experts."""
    dense = case.layout.peers(case.rank, *(SHARING if case.layout.zero == 1 else ALL_BATCHES))
    return dense, expert_peers(case).same


def weights_of(case: ModelCase) -> tuple[list[Weight], list[list[Weight]]]:
    """A rank's share of the weights: outside of the layers, and of each of its layers."""
    layout, rank, arch = case.layout, case.rank, share_of(case)
    first, last = rank.stage == 0, rank.stage == layout.pp - 1
    outer = [w for w in outer_weights(arch) if on_stage(w, first, last, arch.tied)]
    kinds = arch.kinds()
    mine = [index for layers in layout.layers_of(rank, arch.layers) for index in layers]
    return outer, [[_share(weight, layout) for weight in layer_weights(arch, kinds[index])] for index in mine]


def _share(weight: Weight, layout: Layout) -> Weight:
    """A weight with the experts of this rank alone."""
    if not of_experts(weight):
        return weight
    experts, *shape = weight.shape
    return weight._replace(shape=(experts // layout.ep, *shape))


def of_experts(weight: Weight) -> bool:
    """Whether a weight is of a mixture's experts."""
    return weight.name.startswith("experts.")


def _adding_to(total: Any) -> Any:
    def add(parameter: Any) -> None:
        total.add_(parameter.grad)
        parameter.grad = None

    return add


def padded(sizes: list[Any], shards: int, aligned: bool) -> Any:
    """The elements of a flat buffer of parameters of these sizes; shared ones are aligned (`_pad_if_needed`)."""
    if not aligned:
        return sum(sizes)
    whole = sum(ceil_div(size, ALIGNED) * ALIGNED for size in sizes)
    multiple = lcm(shards, _BUCKET)
    return ceil_div(whole, multiple) * multiple
