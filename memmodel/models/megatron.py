"""A rank's step as Megatron-LM allocates it: the tensors that it keeps, then the step (`memmodel_kernels.megatron`).

Sources: Megatron-LM 0.14, megatron/core/distributed/param_and_grad_buffer.py and optimizer/distrib_optimizer.py;
TransformerEngine 2.11, transformer_engine/pytorch/module/base.py (workspaces, get_dummy_wgrad).
"""

from dataclasses import replace
from math import lcm
from types import MappingProxyType
from typing import Any

from memmodel.dims import ceil_div
from memmodel.dtypes import bool_, float16, float32, int64, uint8
from memmodel.errors import UsageError
from memmodel.groups import COMMUNICATION, GRADIENTS, OPTIMIZER, PARAMETERS, WORKSPACE
from memmodel.models.architecture import Architecture, Weight, layer_weights, on_stage, outer_weights
from memmodel.models.layout import ALL_BATCHES, Layout, Rank
from memmodel.models.schedule import order
from memmodel.models.setting import EAGER, SDPA, ModelCase

FLASH = "flash"  # attention by FlashAttention's package, where TransformerEngine would take cuDNN's
_ALIGNED, _BUCKET = 64, 128  # elements that a parameter starts at, and that each rank's part of a bucket ends at
_VOCABULARY = 128  # rows per rank that the vocabulary is padded to (--make-vocab-size-divisible-by)
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
    made.update(_group(layout, rank, *ALL_BATCHES, handles=handles))
    mark("after")
    return chunks, made, batch, like


def _chunks(made: "_Made", handles: Any) -> list[Any]:
    """The chunks of layers of a rank: one, or one for each of its virtual stages."""
    from memmodel_kernels.megatron.gpt import Gpt
    from memmodel_kernels.megatron.modules import Sharing
    from memmodel_kernels.megatron.schedule import Chunk

    case, arch, layers = made.case, made.arch, iter(made.layers)
    layout, rank = case.layout, case.rank
    sharing = Sharing(_group(layout, rank, "tensor", handles=handles), layout.sequence_parallel)
    context, table, gathered = _group(layout, rank, "context", handles=handles), made.table(), made.gathered()
    chunks = []
    for turn, part in enumerate(layout.layers_of(rank, arch.layers)):
        model = Gpt(
            arch, [next(layers) for _ in part], made.outer, case.batch, sharing, context, table, gathered,
            loss=case.loss, attention=_attention(case), local=case.local_modules,
            dropout=case.dropout, attention_dropout=case.attention_dropout, recompute=case.checkpoint == "block",
        )  # fmt: skip
        number = turn * layout.pp + rank.stage
        chunks.append(Chunk(model, number == 0, number == layout.stages - 1))
    return chunks


def share_of(case: ModelCase) -> Architecture:
    """The sizes of a rank's share: projections fused, the vocabulary padded, all over the ranks of tp."""
    arch, tp = case.arch, case.layout.tp
    rows = ceil_div(arch.vocab, _VOCABULARY * tp) * _VOCABULARY
    sizes = {name: getattr(arch, name) // tp for name in ("ffn", "heads", "kv_heads")}
    return replace(arch, fused_qkv=True, fused_gate_up=arch.gated, vocab=rows, **sizes)


def check_megatron(case: ModelCase) -> None:
    """Raise UsageError for what this account of Megatron-LM does not hold."""
    layout, arch = case.layout, case.arch
    refused = {
        "mixtures of experts": arch.moe is not None,
        "latent attention": arch.mla is not None,
        "an encoder": not arch.causal,
        f"{arch.norm} {arch.placement}": arch.placement != "pre" or arch.norm not in ("rmsnorm", "layernorm"),
        "norms of queries and keys": arch.qk_norm != "none",
        "adapters": case.adapter is not None,
        f"checkpoint {case.checkpoint}": case.checkpoint not in ("none", "block"),
        "autocast": case.autocast,
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
    """Whose attention TransformerEngine takes (dot_product_attention/utils.py): from Hopper on cuDNN's, unless said."""
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


class _Made:
    """The tensors that a rank keeps."""

    def __init__(self, xp: Any, case: ModelCase, arch: Architecture, label: Any) -> None:
        self.xp, self.case, self.arch, self.label = xp, case, arch, label
        layout = case.layout
        self.shards = layout.dp_shard * layout.cp if layout.zero == 1 else 1
        self.own = case.seq // layout.cp * case.batch  # tokens of a rank of cp
        self.tokens = self.own // layout.tp if layout.sequence_parallel else self.own  # of those, of a rank of tp
        outer, layers = self._weights()
        sizes = [weight.numel for weight in (*outer, *(w for one in layers for w in one))]
        total = _padded(sizes, self.shards)
        self.summed = case.dtype if case.dtype is float16 else float32  # dtype of the sums of gradients
        self.totals = self.kept("main_grad", GRADIENTS, total, dtype=self.summed)
        self.values = self.kept("param_data", PARAMETERS, total) if self.shards > 1 else None
        self.start, self.loose = 0, list[Any]()
        self.outer = {weight.name: self._weight(weight) for weight in outer}
        self.layers = [{weight.name: self._weight(weight) for weight in one} for one in layers]
        names = ("master", "exp_avg", "exp_avg_sq")
        parts = [ceil_div(total, self.shards)] if self.shards > 1 else [one.value.numel() for one in self.loose]
        self.states = [[self.kept("", OPTIMIZER, size, dtype=float32) for size in parts] for _ in names]
        if not case.local_modules:
            workspace = _WORKSPACE if case.device.capability >= 90 else _WORKSPACE_BEFORE_HOPPER
            self.kept("", f"{WORKSPACE} TransformerEngine", workspace, dtype=uint8)
        if not case.local_modules and not case.separate_gradients:
            for shape in dict.fromkeys(w.shape for one in layers for w in one if w.linear and len(w.shape) > 1):
                self.kept("", f"{GRADIENTS} stand-ins", *shape)

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
        return self.kept("rotary_pos_emb", PARAMETERS, self.own // self.case.batch, self.arch.head_dim, dtype=float32)

    def gathered(self) -> Any:
        """Where Megatron's own linear layers gather all tokens (GlobalMemoryBuffer of megatron/core/utils.py).

        Its own attention gives the same buffer to the products of queries and keys, as what they are added to.
        """
        case, arch = self.case, self.arch
        last = case.rank.stage == case.layout.pp - 1
        gathers = case.layout.sequence_parallel and (last or case.local_modules)
        scores = case.local_modules and case.attention == EAGER
        numel = max(self.own * arch.hidden if gathers else 0, case.batch * arch.heads * case.seq**2 if scores else 0)
        if not numel:
            return None
        buffer = self.kept("mpu", COMMUNICATION, numel)
        return buffer.narrow(0, 0, self.own * arch.hidden).view(self.own, arch.hidden) if gathers else buffer

    def mask(self) -> None:
        """The mask of attention, which comes with a batch (get_batch_on_this_tp_rank of megatron/training/utils.py)."""
        case = self.case
        if case.attention_mask:
            self.kept("attention_mask", "", case.batch, 1, case.seq // case.layout.cp, case.seq, dtype=bool_)

    def update(self, group: Any) -> None:
        """Sum the gradients over `group`, ranks with other batches; Adam in one kernel; gather what others updated."""
        from memmodel_kernels.megatron.modules import fused

        states = [x for kind in self.states for x in kind]
        if self.values is None:
            if group is not None:
                self.xp.distributed.all_reduce(self.totals, group=group.handle)
            copies = self._in_fp32([one.total for one in self.loose])
            fused("adam", (*copies, *states), (*states, *(one.value for one in self.loose)), lambda: None)
            return
        own = states[0].numel()
        mine, values = (x.narrow(0, group.rank * own, own) for x in (self.totals, self.values))
        self.xp.distributed.reduce_scatter_tensor(mine, self.totals, group=group.handle)
        fused("adam", (*self._in_fp32([mine]), *states), (*states, values), lambda: None)
        self.xp.distributed.all_gather_into_tensor(self.values, values, group=group.handle)

    def _in_fp32(self, sums: list[Any]) -> list[Any]:
        """The gradients that the optimizer sees: the sums, or copies of those in fp16 (_copy_model_grads_...)."""
        return [x.float() for x in sums]

    def _weights(self) -> tuple[list[Weight], list[list[Weight]]]:
        layout, rank, arch = self.case.layout, self.case.rank, self.arch
        first, last = rank.stage == 0, rank.stage == layout.pp - 1
        outer = [w for w in outer_weights(arch) if on_stage(w, first, last, arch.tied)]
        kinds = arch.kinds()
        mine = [index for layers in layout.layers_of(rank, arch.layers) for index in layers]
        return outer, [layer_weights(arch, kinds[index]) for index in mine]

    def _weight(self, weight: Weight) -> Any:
        """A parameter with its part of the flat buffers; but for linear layers', gradients are added by a hook."""
        from memmodel_kernels.megatron.modules import Weight as Kept

        size = weight.numel
        total = self.totals.narrow(0, self.start, size).view(*weight.shape)
        if self.values is not None:
            value = self.values.narrow(0, self.start, size).view(*weight.shape)
        else:
            value = self.kept(weight.name, f"{PARAMETERS} {weight.part}", *weight.shape)
        self.start += ceil_div(size, _ALIGNED) * _ALIGNED if self.shards > 1 else size
        made = Kept(value.requires_grad_(), total, not self.case.separate_gradients)
        made.value.register_post_accumulate_grad_hook(_adding_to(total))
        self.loose.append(made)
        return made


def _adding_to(total: Any) -> Any:
    def add(parameter: Any) -> None:
        total.add_(parameter.grad)
        parameter.grad = None

    return add


def _padded(sizes: list[Any], shards: int) -> Any:
    """The elements of a flat buffer of parameters of these sizes; sharded ones are aligned (`_pad_if_needed`)."""
    if shards == 1:
        return sum(sizes)
    whole = sum(ceil_div(size, _ALIGNED) * _ALIGNED for size in sizes)
    multiple = lcm(shards, _BUCKET)
    return ceil_div(whole, multiple) * multiple
