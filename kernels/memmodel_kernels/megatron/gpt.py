"""A rank's part of a GPT: its layers, from token indices or from the stage before, to the loss or the stage after.

Order of operations and lifetimes of variables are those of Megatron-LM 0.14: megatron/core/transformer/
transformer_layer.py, attention.py, mlp.py and models/gpt/gpt_model.py, with TransformerEngine's modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memmodel.models.architecture import Architecture, Latent
from memmodel_kernels.library_attention import library_attention, repeated
from memmodel_kernels.megatron.latent import latent_operands
from memmodel_kernels.megatron.mixture import ALONE, Experts, mixture
from memmodel_kernels.megatron.modules import Deferred, Sharing, Weight, add_deferred, functions
from memmodel_kernels.namespace import checkpoint, functional, namespace, scope
from memmodel_kernels.parallel.group import Group

Weights = Mapping[str, Weight]


@dataclass(frozen=True)
class Gpt:
    """The part of a model that a rank has.

    Attributes:
        arch: the sizes of this rank's share. layers: the weights of each of its layers. outer: those outside of the
            layers that it has: the embedding on the first stage; final norm and head on the last.
        batch: sequences of a micro-batch. sharing: the ranks of tensor parallelism. context: those that share each
            sequence, who exchange heads for tokens (`cp_comm_type` a2a); None without. experts: of a mixture.
        table: angles (n, d) in fp32 of the rotary positions; None without.
        gathered: where the head gathers the tokens of all ranks; None where each has them.
        loss: "fused" (TransformerEngine's, `--cross-entropy-fusion-impl te`), or Megatron's own: "native" (compiled) or
            "full".
        attention: "fused" (cuDNN's), "flash" (FlashAttention's package, whose result is put in another order, and so
            kept twice) or "unfused" (scores in memory). local: whether the modules are Megatron's own, not
            TransformerEngine's (`--transformer-impl local`). dropout, attention_dropout: probabilities.
        deferred: what of the head's gradient waits for the end of the step; None where nothing does.
        recompute: whether each layer is computed again in backward (`--recompute-granularity full`).
    """

    arch: Architecture
    layers: Sequence[Weights]
    outer: Weights
    batch: Any
    sharing: Sharing
    context: Group | None = None
    experts: Experts = ALONE
    table: Any = None
    gathered: Any = None
    loss: str = "fused"
    attention: str = "fused"
    local: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    recompute: bool = False
    deferred: Deferred | None = None


def embedded(model: Gpt, tokens: Any) -> Any:
    """The rows of the embedding of tokens (b, n), as (tokens of this rank, hidden)."""
    f = functional(tokens)
    with scope(tokens, part="embedding"):
        x = f.embedding(tokens, model.outer["embedding.weight"].value)
        if "positions.weight" in model.outer:
            x = x + model.outer["positions.weight"].value[: tokens.shape[1]]
        x = x.view(-1, x.shape[-1])
        if model.sharing.group is not None:
            x = functions(namespace(x)).Summed(x, model.sharing)
        return f.dropout(x, model.dropout, True) if model.dropout else x


def through_layers(model: Gpt, x: Any) -> Any:
    """The residual stream (tokens of this rank, hidden) after this rank's layers."""
    for index, weights in enumerate(model.layers):
        with scope(x, layer=index):
            x = checkpoint(_layer, x, model, weights) if model.recompute else _layer(x, model, weights)
    return x


def loss(model: Gpt, x: Any, targets: Any) -> Any:
    """The sum of the cross-entropies of this rank's tokens, from the residual stream after the last layer."""
    f = functions(namespace(x))
    with scope(x, part="norms"):
        x = f.Norm(x, *_pair(model.outer, "final_norm"))
    with scope(x, part="logits"):
        # The output layer is Megatron's own ColumnParallelLinear, beside TransformerEngine's modules too.
        head = _head(model)
        logits = f.ColumnLinear(x, head.value, head.into, None, model.sharing, model.gathered, model.deferred)
        if model.loss == "fused":
            return f.CrossEntropy(logits, targets.view(-1))
        return f.VocabularyCrossEntropy(logits, targets.view(-1), model.loss == "native")


def finish(model: Gpt) -> None:
    """Make up for what has waited of the head's gradient."""
    if model.deferred is not None and model.deferred.waiting:
        add_deferred(model.deferred, _head(model).into, model.sharing, model.gathered)


def _head(model: Gpt) -> Weight:
    return model.outer["embedding.weight" if model.arch.tied else "head.weight"]


def _layer(x: Any, model: Gpt, weights: Weights) -> Any:
    with scope(x, part="attention"):
        x = _added(_attention(x, model, weights), x, model, weights.get("output.bias"))
    with scope(x, part="feed-forward"):
        return _added(_feed_forward(x, model, weights), x, model, weights.get("ffn.down.bias"))


def _added(out: Any, residual: Any, model: Gpt, bias: Weight | None) -> Any:
    """The residual stream plus the output, with its bias and dropout: one fused kernel there (bias_dropout_add)."""
    if bias is not None:
        out.add_(bias.value)
    if model.dropout:
        out = functional(out).dropout(out, model.dropout, True)
    return residual + out


def _attention(x: Any, model: Gpt, weights: Weights) -> Any:
    f = functions(namespace(x), model.local)
    mla = model.arch.mla
    q, k, v = _latent(x, model, weights, mla) if mla else _projections(x, model, weights)
    if model.context is not None:
        q, k, v = (f.Exchanged(y, model.context, True) for y in (q, k, v))
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    if model.attention == "unfused":
        out = _unfused(q, k, v, model.attention_dropout)
    else:
        out = library_attention(q, k, v, dropout=model.attention_dropout)
    # From here on they live by what attention saved of them.
    del q, k, v
    out = out.transpose(1, 2)
    if model.attention == "flash":
        # From (b, h, n, e) as the package has it to (tokens, h e), while autograd keeps the former too.
        out = out.clone()
    if model.context is not None:
        # Autograd keeps it beside what comes back, which the layer after keeps.
        out = f.Exchanged(out.contiguous(), model.context, False)
    out = out.reshape(out.shape[0] * out.shape[1], -1)
    return f.RowLinear(out, weights["output.weight"].value, weights["output.weight"].into, model.sharing)


def _projections(x: Any, model: Gpt, weights: Weights) -> Any:
    """q (b, n, heads, d), k and v (b, n, groups, d)."""
    arch = model.arch
    qkv = _columns(x, model, weights, "norm1", "qkv")
    sizes = (model.batch, qkv.shape[0] // model.batch, arch.heads, arch.kv_heads, arch.head_dim)
    f = functions(namespace(x))
    if "q_norm.weight" not in weights:
        return f.Rotated(qkv, model.table, sizes, model.attention == "unfused")
    # Norms of heads, which keep copies of their inputs, come before the turning.
    *turning, v = f.Rotated(qkv, None, sizes, False)
    del qkv
    q, k = (
        f.Norm(y.view(-1, arch.head_dim), *_pair(weights, f"{name}_norm")).view(y.shape)
        for name, y in zip("qk", turning, strict=True)
    )
    del turning
    return (q, k, v) if model.table is None else (*(f.Turned(y, model.table) for y in (q, k)), v)


def _latent(x: Any, model: Gpt, weights: Weights, mla: Latent) -> Any:
    """q and k (b, n, heads, d), v (b, n, heads, e), from latents of queries and of keys and values."""
    f, arch = functions(namespace(x)), model.arch
    rows = f.Norm(x, *_pair(weights, "norm1"))
    if mla.q_rank:
        q = _up(_linear(rows, model, weights, "q_down"), model, weights, "q")
    else:
        q = _linear(rows, model, weights, "q")
    latent = _linear(rows, model, weights, "kv_down")
    del rows
    shared = latent[:, mla.kv_rank :]
    kv = _up(latent[:, : mla.kv_rank].contiguous(), model, weights, "kv")
    sizes = (model.batch, arch.heads, arch.head_dim, arch.value_dim, mla.rope)
    return latent_operands(q, kv, shared, model.table, sizes)


def _linear(x: Any, model: Gpt, weights: Weights, name: str) -> Any:
    weight = weights[f"{name}.weight"]
    return functions(namespace(x)).Linear(x, weight.value, weight.into, model.sharing)


def _up(x: Any, model: Gpt, weights: Weights, name: str) -> Any:
    """From a latent to heads, through its norm."""
    weight = weights[f"{name}_up.weight"]
    norm = _pair(weights, f"{name}_norm")
    return functions(namespace(x)).NormLinear(x, *norm, weight.value, weight.into, None, model.sharing)


def _unfused(q: Any, k: Any, v: Any, dropout: float) -> Any:
    """Causal attention of q (b, h, n, d) on k, v (b, g, n, d) with scores in memory, in the dtype of q."""
    k, v = repeated(k, q), repeated(v, q)
    weights = functions(namespace(q)).CausalSoftmax(q @ k.transpose(2, 3), q.shape[-1] ** -0.5)
    return functional(q).dropout(weights, dropout, True) @ v


def _feed_forward(x: Any, model: Gpt, weights: Weights) -> Any:
    if model.arch.moe and "router.weight" in weights:
        rows = functions(namespace(x)).Norm(x, *_pair(weights, "norm2"))
        return mixture(rows, weights, model.arch.moe.top_k, model.experts, model.sharing)
    f, down = functions(namespace(x), model.local), weights["ffn.down.weight"]
    wide = _columns(x, model, weights, "norm2", "ffn.gate_up" if model.arch.gated else "ffn.up")
    wide = f.SwiGLU(wide) if model.arch.gated else f.Gelu(wide)
    return f.RowLinear(wide, down.value, down.into, model.sharing)


def _columns(x: Any, model: Gpt, weights: Weights, norm: str, name: str) -> Any:
    """A norm and a column-parallel layer: one module of TransformerEngine's, two of Megatron's own."""
    f, weight, bias = functions(namespace(x), model.local), weights[f"{name}.weight"], _bias(weights, name)
    if not model.local:
        return f.NormLinear(x, *_pair(weights, norm), weight.value, weight.into, bias, model.sharing)
    rows = f.Norm(x, *_pair(weights, norm))
    return f.ColumnLinear(rows, weight.value, weight.into, bias, model.sharing, model.gathered)


def _pair(weights: Weights, name: str) -> tuple[Any, Any]:
    """Weight and bias of a norm; None for a bias that it has not."""
    return weights[f"{name}.weight"].value, _bias(weights, name)


def _bias(weights: Weights, name: str) -> Any:
    bias = weights.get(f"{name}.bias")
    return None if bias is None else bias.value
