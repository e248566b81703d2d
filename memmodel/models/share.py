"""A rank's share of a model's step: the sizes of what one GPU of a layout holds and computes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from memmodel.base.dtypes import short_name
from memmodel.base.errors import UsageError
from memmodel.models.architecture import Architecture, layer_weights, outer_weights
from memmodel.models.setting import SDPA, ModelCase
from memmodel.models.weights import stored
from memmodel.sizes.dims import Dim, Shape, Size

TENSOR = "t"  # letter of the ranks that share each layer
CONTEXT = "c"  # of those that share each sequence
EXPERTS = "x"  # of those that share the experts
SHARDS = "s"  # of those that share parameters by rows
_WHOLE = ("muon", "adafactor")  # optimizers that need whole matrices


def share(case: ModelCase) -> ModelCase:
    """The case with the sizes of its rank. A size with a letter is then written over that of its divisor: h/t.

    Raises UsageError for choices whose share is not modelled.
    """
    for reason in _not_modelled(case):
        raise UsageError(reason)
    layers = case.arch.layers // case.layout.pp
    sizes: dict[str, Any] = {
        "layers": layers,
        "before": case.arch.before + case.rank.stage * layers // case.layout.virtual_stages,
    }
    layout = case.layout
    arch = _sized(case.arch, lambda size: over(size, layout.tp, TENSOR))
    if arch.moe is not None and layout.ep > 1:
        sizes["moe"] = arch.moe._replace(own=over(arch.moe.experts, layout.ep, EXPERTS))
    return replace(case, arch=replace(arch, **sizes), seq=over(case.seq, layout.cp, CONTEXT))


def assumed_of_shares(case: ModelCase) -> Iterator[str]:
    """A sentence for each assumption on how layers, experts, sequences and stages are shared."""
    if case.layout.tp > 1:
        yield "layers and vocabulary shared as Megatron-LM shares them"
    if case.layout.tp > 1 and case.loss in ("fused", "in-place"):
        yield "ranks exchange each token's maximum and sum for the loss, as TransformerEngine's parallel cross-entropy"
    if case.layout.tp > 1 and case.adapter is not None:
        yield "adapters: of the two matrices, that on the side of the shared features is shared"
    if case.layout.tp > 1 and case.arch.moe is not None:
        yield "mixtures shared by the width of each expert: every rank of tp routes all tokens"
    if case.layout.ep > 1:
        yield "experts shared as Megatron-LM's all-to-all of tokens; as many tokens for each rank and expert"
    if case.layout.cp > 1:
        yield "sequences shared by a zigzag of two pieces a rank; keys and values go around a ring of flash attention"
    if case.layout.pp > 1:
        yield "stages as torch.distributed.pipelining: a buffer for every micro-batch's input and output gradient"
    if case.layout.pp > 1 and case.arch.tied:
        yield "the first and the last stage have a copy of the tied embedding each, as in Megatron-LM"


def whole_weights(case: ModelCase) -> frozenset[str]:
    """The names of the parameters that every one of `tp` ranks has whole, from the case of one of them."""
    tp, arch = case.layout.tp, case.arch
    # Parameters with the same shape in a model of `tp` times the widths do not depend on the share.
    whole = replace(case, arch=_sized(arch, lambda size: tp * size))
    return frozenset(dict(_shapes(case).items() & _shapes(whole).items()))


def _shapes(case: ModelCase) -> dict[str, Shape]:
    arch = case.arch
    listed = [(weight, False) for weight in outer_weights(arch)]
    listed += [(weight, True) for kind in dict.fromkeys(arch.kinds()) for weight in layer_weights(arch, kind)]
    return {kept.name: kept.shape for weight, in_layer in listed for kept in stored(weight, case, in_layer)}


def _sized(arch: Architecture, size: Callable[[Dim], Dim]) -> Architecture:
    """The architecture with other sizes of what the ranks of tp share: heads, widths, rows of the vocabulary."""
    sizes: dict[str, Any] = {name: size(getattr(arch, name)) for name in ("vocab", "ffn", "heads", "kv_heads")}
    if arch.moe is not None:
        sizes["moe"] = arch.moe._replace(width=size(arch.moe.width), shared=size(arch.moe.shared))
    return replace(arch, **sizes)


def over(size: Dim, ranks: int, letter: str) -> Dim:
    """A size over the number of ranks, which divides it."""
    if ranks == 1:
        return size
    return Size(int(size) // ranks, f"{size.letter}/{letter}") if isinstance(size, Size) else size // ranks


def _not_modelled(case: ModelCase) -> Iterator[str]:
    """A sentence for each choice that does not go with the layout yet."""
    layout = case.layout
    for where, there, without in (
        (f"with tp {layout.tp}", layout.tp > 1, _without_tensor_parallel),
        (f"with pp {layout.pp}", layout.pp > 1, _without_stages),
        (f"with cp {layout.cp}", layout.cp > 1, _without_ring),
        (f"with ep {layout.ep}", layout.ep > 1, _without_shared_experts),
        ("under zero 3", layout.fully_sharded, _without_shards),
    ):
        for words, chosen in without(case).items() if there else ():
            if chosen:
                yield f"{words} {where} is not modelled yet: leave one of them out"
    shared = layout.zero in (1, 2) and layout.shards > 1
    if (layout.replicated or shared) and case.in_backward:
        yield "updates in backward on replicas of a model are not modelled: leave one of them out"
    if shared and case.optimizer in _WHOLE:
        yield f"optimizer {case.optimizer}, which needs whole matrices, under zero {layout.zero}: take adamw"
    if layout.zero == 2 and layout.shards > 1 and layout.pp > 1:
        yield f"zero 2 with pp {layout.pp}: DeepSpeed's pipelines refuse it (runtime/pipe/engine.py), take zero 1 or 3"


def _without_stages(case: ModelCase) -> dict[str, bool]:
    arch, layout = case.arch, case.layout
    return {
        "updates in backward": case.in_backward,
        "optimizer muon": case.optimizer == "muon",
        "offloading": case.offload,
        "groups of micro-batches": layout.microbatch_group > 0,
        "layers of several kinds in virtual stages": layout.virtual_stages > 1 and len(set(arch.kinds())) > 1,
    }


def _without_ring(case: ModelCase) -> dict[str, bool]:
    arch = case.arch
    on_gpu = case.device.name == "cuda"
    return {
        "an encoder of images": arch.patches is not None,
        f"attention {case.attention}": case.attention != SDPA,
        "attention in windows or chunks": any(kind.attention != "F" for kind in arch.kinds()),
        "latent attention": arch.mla is not None,
        "dropout in attention": bool(case.attention_dropout),
        f"a head dim of {arch.head_dim}, no multiple of 8 up to 256,": on_gpu
        and bool(arch.head_dim % 8 or arch.head_dim > 256),
        f"dtype {short_name(case.dtype)}, which flash attention lacks,": on_gpu and case.dtype.itemsize != 2,
    }


def _without_shared_experts(case: ModelCase) -> dict[str, bool]:
    arch = case.arch
    return {
        "experts with biases": arch.moe is not None and arch.moe.bias,
        "clipping and replicas": case.layout.replicated and case.clip,
    }


def _without_shards(case: ModelCase) -> dict[str, bool]:
    adapter = case.adapter
    return {
        f"optimizer {case.optimizer}, which needs whole matrices,": case.optimizer in _WHOLE,
        "updates in backward": case.in_backward,
        "weights in 4 bits": adapter is not None and adapter.four_bit,
        "adapters in another dtype": adapter is not None and adapter.in_fp32 and case.dtype.itemsize != 4,
    }


_BESIDE_HEADS = ("shared.gate", "shared.up", "shared.gate_up", "shared.down", "q_down", "kv_down")


def _linear_layers(arch: Architecture) -> set[str]:
    kinds = dict.fromkeys(arch.kinds())
    return {weight.name.removesuffix(".weight") for kind in kinds for weight in layer_weights(arch, kind)}


def _without_tensor_parallel(case: ModelCase) -> dict[str, bool]:
    arch, adapter = case.arch, case.adapter
    return {
        "experts with biases": arch.moe is not None and arch.moe.bias,
        "a norm over all heads of q and k": arch.qk_norm == "all",
        "magnitudes of adapters": adapter is not None and adapter.magnitudes,
        "weights in 4 bits": adapter is not None and adapter.four_bit,
        "adapters of shared experts or latents": adapter is not None
        and any(adapter.covers(name) for name in _BESIDE_HEADS if name in _linear_layers(arch)),
        f"optimizer {case.optimizer}": case.optimizer in ("muon", "adafactor"),
        "updates in backward": case.in_backward,
        f"sequence-parallel and loss {case.loss}": case.layout.sequence_parallel and case.loss.startswith("chunked"),
    }
