"""A transformer, written once, decoder or encoder: its blocks, its layers and the residual stream through them.

Weights are a mapping from the names of `memmodel.models.architecture` to tensors. The code has the order of operations,
and the lifetimes of variables, of Hugging Face's classes, so that it allocates what they allocate.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from memmodel.attention.masks import Mask
from memmodel.models.architecture import CROSS, CROSS_PREFIX, Architecture, LayerKind, Spectrogram
from memmodel_kernels.feed_forward import feed_forward
from memmodel_kernels.fused import fused
from memmodel_kernels.latent import latent_projections
from memmodel_kernels.linear import columns, linear, row
from memmodel_kernels.mixture import mixture
from memmodel_kernels.namespace import autocast, checkpoint, functional, namespace, scope
from memmodel_kernels.norms import RMS_NORMS, norm
from memmodel_kernels.offloading import offloaded
from memmodel_kernels.parallel.experts import ExpertParallel
from memmodel_kernels.parallel.group import Group
from memmodel_kernels.parallel.tensor import TensorParallel
from memmodel_kernels.parallel.vocabulary import embedded
from memmodel_kernels.relative import distances_bias
from memmodel_kernels.ring.zigzag import places
from memmodel_kernels.rotary import TURNING, TURNS, angles

Weights = Mapping[str, Any]
# Runs a layer, or all of them (None), on x: a place for what comes before and after.
Around = Callable[[int | None, Callable[[Any], Any], Any], Any]
Attend = Callable[[Any, Any, Any, LayerKind, Any, Any, Any], Any]


def directly(layer: int | None, run: Callable[[Any], Any], x: Any) -> Any:
    """`run(x)`, with nothing around it."""
    return run(x)


FREQUENCIES = "frequencies"  # of the rotary positions: a buffer in fp32, beside the weights


@dataclass(frozen=True)
class Decoder:
    """A model: its architecture, its weights, and the ways in which its blocks are computed.

    Attributes:
        outer: weights outside the layers. layers: the weights of each layer.
        attend: attention of q (b, h, n, d), k (b, g, m, d) and v (b, g, m, e) in a layer of some kind, which gets the
            mask of such layers where there is one, the layer's sinks, and what relative positions add (1, h, n, m).
        masks: what masks the layers of a kind share: "windows" (bool, where a window hides keys), "added" (numbers, in
            every kind of layer) or "none" (`attend` sees to it). A mask is (b, 1, n, n).
        encoder: what reads the other sequence, where `arch` has an encoder before it.
        fused_norms: RMS norms by the library's one function. compiled: whether layers and loss are: norms, rotary
            positions, activations and the cross-entropy are one kernel each.
        eager_loss: whether the loss is not, though layers are.
        dropout: probability, on the residual branches; embedding_dropout: on the embeddings.
        recompute: what is computed again in backward: "none", "block" (each layer), "selective" (each layer but
            attention and every other matrix product) or "attention".
        adapter_dropout: probability, on the inputs of low-rank adapters.
        offload: whether what all but the head saves for backward waits on the host.
        tensor: ranks that share every layer; the weights, and the sizes of `arch`, are then this rank's.
        context: ranks that share each sequence by a zigzag, whose `attend` then sees the keys of all.
        experts: ranks that share the experts of mixtures. capacity: of each expert, as of `ModelCase`.
        around: what runs the layers, as a module's call does with its hooks.
        first, last: whether it has the embedding, and the final norm and the head, as not every pipeline stage does.
        start: the layers of `arch` before its own.
    """

    arch: Architecture
    outer: Weights
    layers: Sequence[Weights]
    attend: Attend
    masks: str = "windows"
    encoder: "Decoder | None" = None
    fused_norms: bool = False
    compiled: bool = False
    eager_loss: bool = False
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    recompute: str = "none"
    adapter_dropout: float = 0.0
    offload: bool = False
    tensor: TensorParallel | None = None
    context: Group | None = None
    experts: ExpertParallel | None = None
    capacity: float = 0.0
    around: Around = directly
    first: bool = True
    last: bool = True
    start: int = 0

    def linear(self, x: Any, weights: Weights, name: str) -> Any:
        """One of the model's linear layers."""
        return linear(x, weights, name, self.adapter_dropout)

    def columns(self, x: Any, weights: Weights, *names: str) -> list[Any]:
        """Linear layers that read one input; of their features a rank has its share."""
        return columns(x, weights, names, self.tensor, self.adapter_dropout)

    def row(self, x: Any, weights: Weights, name: str) -> Any:
        """A linear layer whose input's features ranks share."""
        return row(x, weights, name, self.tensor, self.adapter_dropout)

    def feed(self, x: Any, weights: Weights, held: list[Any] | None = None) -> Any:
        """The feed-forward of a layer, whose hidden layer goes to `held` too, or its mixture of experts."""
        if "router.weight" in weights:
            moe, compiled = self.arch.moe, self.compiled
            return mixture(x, weights, self.arch.activation, moe, self.tensor, self.experts, compiled, self.capacity)
        return feed_forward(
            x, weights, self.arch.activation, adapter_dropout=self.adapter_dropout, tensor=self.tensor,
            compiled=self.compiled, dropout=self.dropout if "hidden" in self.arch.dropped else 0.0, held=held,
        )  # fmt: skip

    def norm(self, x: Any, weights: Weights, name: str) -> Any:
        """One of the model's norms."""
        return norm(x, weights, name, self.arch.norm, self.fused_norms, self.compiled)


class Shared(NamedTuple):
    """Tensors that all layers of a pass share.

    Attributes:
        rotary, masks: by kind of attention, cos and sin of the rotary positions, and the mask.
        biases: what relative positions add to scores, by kind of attention (1, h, n, m).
        source: the tokens of the encoder (b, m, hidden), on which layers have their second attention.
    """

    rotary: Mapping[str, tuple[Any, Any]]
    masks: Mapping[str, Any]
    biases: dict[str, Any]
    source: Any = None


# Keys (b, g, m, d) and values (b, g, m, e) of a layer, the newest last; of latent attention the latents (b, 1, m, rank)
# and the turned channels (b, 1, m, rope). Those of an encoder's tokens follow, where there is one. Empty at first.
Cache = list[Any]


def encoded(model: Decoder, source: Any) -> Any:
    """What the encoder before a decoder makes of `source`; None without either."""
    return None if model.encoder is None or source is None else hidden_states(model.encoder, source)


def hidden_states(
    model: Decoder, tokens: Any, caches: Sequence[Cache] | None = None, stream: Any = None, read: Any = None
) -> Any:
    """The normed residual stream (b, n, hidden) after the last layer, from token indices (b, n), images or sounds.

    With caches, the keys and values of the tokens are written to their ends, in place, or begin those that are empty. A
    pipeline stage goes on from the `stream` of the one before, and leaves the norm to the last. `read`: the states of
    the encoder; without them, the caches hold their keys and values already.
    """
    with offloaded(tokens) if model.offload else nullcontext():
        held: list[Any] = []  # to the end, by variables of Hugging Face's classes
        x = _embedded(model, tokens, held) if model.first else stream
        held = held or [x]
        biases = {} if _recomputed(model, x) else _biases(model, x, read, caches)
        shared = Shared(_rotary(model, tokens, x.dtype), _masks(model, tokens, x), biases, read)
        for index in range(len(model.layers)):
            run = partial(_run, model=model, index=index, shared=shared, cache=caches[index] if caches else None)
            with scope(x, layer=model.start + index):
                x = model.around(index, run, x)
        return _finished(x, model) if model.last else x


def _finished(x: Any, model: Decoder) -> Any:
    """The stream through the final norm, where there is one."""
    x = x if model.arch.placement == "post" else model.norm(x, model.outer, "final_norm")
    return _dropped(x, model, "final")


def _run(x: Any, model: Decoder, index: int, shared: Shared, cache: Cache | None) -> Any:
    """A layer, as a checkpoint where layers are recomputed."""
    weights, kind = model.layers[index], model.arch.kind(model.start + index)
    if not _recomputed(model, x):
        return _layer(x, model, weights, kind, shared, cache)
    policy = partial(every_other_product, _dropped_product(model, weights)) if model.recompute == "selective" else None
    if index == 0 and model.arch.positions == "relative":
        apart = shared._replace(biases={})  # what backward has of this layer does not hold what it made
        x, biases = checkpoint(_first_layer, x, model, weights, kind, apart, policy=policy)
        shared.biases.update(biases)
        return x
    return checkpoint(_layer, x, model, weights, kind, shared, cache, policy=policy)


def _recomputed(model: Decoder, x: Any) -> bool:
    """Whether backward runs the layers again."""
    return model.recompute in ("block", "selective") and bool(namespace(x).is_grad_enabled())


def _first_layer(
    x: Any, model: Decoder, weights: Weights, kind: LayerKind, shared: Shared
) -> tuple[Any, dict[str, Any]]:
    """The layer that also makes what relative positions add, for all that follow (transformers, T5Attention)."""
    shared = shared._replace(biases=_biases(model, x, shared.source, None))
    return _layer(x, model, weights, kind, shared, None), shared.biases


def every_other_product(dropped: int = 0) -> Callable[[str], bool]:
    """A policy of recomputation: keep attention, and the first, third, ... matrix product (torchtitan's selective).

    `dropped`: the one that is not kept in any case.
    """
    products = 0

    def keeps(operator: str) -> bool:
        nonlocal products
        if operator in ("mm", "addmm"):
            products += 1
            return products % 2 == 1 and products != dropped
        return operator.startswith("_scaled_dot_product")

    return keeps


def _dropped_product(model: Decoder, weights: Weights) -> int:
    """The layer's last product, which is added to the residual stream: compiled, backward keeps but what it needs."""
    last = model.compiled and model.arch.placement == "pre" and "ffn.down.weight" in weights
    return sum(weight.dim() == 2 for name, weight in weights.items() if name.endswith(".weight")) if last else 0


def _embedded(model: Decoder, tokens: Any, held: list[Any]) -> Any:
    """The embeddings; of their parts those that the class's variables hold go to `held`."""
    with scope(tokens, part="embedding"):
        if model.arch.patches:
            return _of_images(model, tokens, model.arch.patches.size)
        if model.arch.spectrogram:
            return _of_sounds(model, tokens, model.arch.spectrogram)
        f, xp = functional(tokens), namespace(tokens)
        x = _table(model, tokens)
        if model.arch.segments:  # each token's segment, the first
            segments = xp.zeros(1, tokens.shape[1], dtype=xp.int64, device=tokens.device).expand(*tokens.shape)
            x = x + f.embedding(segments, model.outer["segments.weight"])
        if model.arch.positions == "learned":
            where = places(tokens, model.context).unsqueeze(0)
            where = where.expand(*tokens.shape) if "every-position" in model.arch.holds else where
            positions = f.embedding(where, model.outer["positions.weight"])
            held += [x, positions] if "positions" in model.arch.holds else []
            x = x + positions
            del positions
            x = x if model.tensor is None else model.tensor.own_tokens(x)
        if model.arch.embedding_norm:
            x = model.norm(x, model.outer, "embedding_norm")
        x = f.dropout(x, model.embedding_dropout, True) if model.embedding_dropout else x
        return x * 2.0 if "embedding" in model.arch.scaled else x  # any factor: bytes do not tell


def _of_images(model: Decoder, images: Any, patch: int) -> Any:
    """The tokens (b, n, hidden) of images (b, channels, height, width): that of the class, and one a patch."""
    f, xp, weights = functional(images), namespace(images), model.outer
    x = f.conv2d(images, weights["patches.weight"], weights["patches.bias"], stride=patch)
    x = x.view(*x.shape[:2], -1).transpose(1, 2)
    x = xp.cat((weights["class_token"].expand(x.shape[0], -1, -1), x), 1)
    x = x + weights["positions.weight"]
    x = x if model.tensor is None else model.tensor.own_tokens(x)
    return f.dropout(x, model.embedding_dropout, True) if model.embedding_dropout else x


def _of_sounds(model: Decoder, sounds: Any, read: Spectrogram) -> Any:
    """The tokens (b, n, hidden) of spectrograms (b, channels, stride x n)."""
    f, xp, weights = functional(sounds), namespace(sounds), model.outer
    pad = read.kernel // 2
    x = f.gelu(f.conv1d(sounds, weights["conv1.weight"], weights["conv1.bias"], padding=pad))
    x = f.gelu(f.conv1d(x, weights["conv2.weight"], weights["conv2.bias"], stride=read.stride, padding=pad))
    x = x.permute(0, 2, 1)
    x = x + f.embedding(xp.arange(x.shape[1], device=x.device), weights["positions.weight"])
    return f.dropout(x, model.embedding_dropout, True) if model.embedding_dropout else x


def _table(model: Decoder, tokens: Any) -> Any:
    """The embedding; where ranks share the vocabulary, the sum of what each of them has."""
    weight, tensor = model.outer["embedding.weight"], model.tensor
    if tensor is None:
        return functional(tokens).embedding(tokens, weight)
    found = embedded(tokens, weight, tensor.group)
    learned = model.arch.positions == "learned"  # these are added to all tokens
    return tensor._replace(sequence=tensor.sequence and not learned).summed(found)


def _rotary(model: Decoder, tokens: Any, dtype: Any) -> dict[str, tuple[Any, Any]]:
    """cos and sin of the rotary positions, by kind of attention; those of all kinds are the same, or each its own."""
    if model.arch.positions != "rotary":
        return {}
    kinds = dict.fromkeys(model.arch.pattern)
    dtype = namespace(tokens).float32 if model.arch.turning == "halves-by-fp32" else dtype
    with scope(tokens, part="positions"):
        where = places(tokens, model.context).unsqueeze(0)
        # Positions times frequencies stay in fp32, though they are a matrix product here.
        with autocast(tokens, dtype, enabled=False):
            made = [angles(model.outer[name], where, dtype) for name in frequencies(model.arch)]
    return dict(zip(kinds, made, strict=True)) if model.arch.rotary_by_kind else dict.fromkeys(kinds, made[0])


def frequencies(arch: Architecture) -> list[str]:
    """The names of the frequencies of rotary positions, in fp32, among the weights outside the layers."""
    if arch.positions != "rotary":
        return []
    return [f"{kind}.{FREQUENCIES}" for kind in dict.fromkeys(arch.pattern)] if arch.rotary_by_kind else [FREQUENCIES]


def _biases(model: Decoder, x: Any, source: Any, caches: Sequence[Cache] | None) -> dict[str, Any]:
    """What relative positions add to all scores, by kind of attention; T5's class adds zeros in CROSS."""
    if model.arch.positions != "relative":
        return {}
    kept = caches[0] if caches else []
    n, keys = x.shape[1], kept[0].shape[2] if kept else x.shape[1]
    with scope(x, part="positions"):
        found = {"F": distances_bias(model.outer["distances.weight"], n, keys, model.arch.causal)}
        if model.encoder:
            read = kept[2].shape[2] if kept else source.shape[1]
            found[CROSS] = x.new_zeros(1, model.arch.heads, n, read)
            if _recomputed(model, x):  # T5's class gives zeros a gradient, so that a checkpoint's results all have one
                found[CROSS].requires_grad_()
    return found


def _masks(model: Decoder, tokens: Any, x: Any) -> dict[str, Any]:
    """The mask of each kind of attention ("F", "S", "C") that needs one; a single token sees all keys there are."""
    windows = {kind for kind in model.arch.pattern if kind != "F"}
    if model.masks == "none" or tokens.shape[1] == 1 or not (model.arch.causal or windows):
        return {}
    with scope(tokens, part="positions"):
        if model.masks == "added":
            kinds = dict.fromkeys(model.arch.pattern if model.arch.causal else windows)
            return {kind: _added_mask(model, tokens, x, kind) for kind in kinds}
        if model.arch.masked:
            unread = model.arch.masked == "unread"  # under a letter of no layer
            return dict.fromkeys(["unread"] if unread else model.arch.pattern, _seen(model, tokens, None))
        # A window of all tokens hides none, yet has a mask (transformers, masking_utils.py, local_attention_size).
        if not windows or tokens.shape[1] < model.arch.window:
            return {}
        return dict.fromkeys(windows, _seen(model, tokens, model.arch.window))


def _seen(model: Decoder, tokens: Any, window: Any) -> Any:
    """True where a key is seen, (b, 1, n, n); an encoder's window is on both sides of a token."""
    b, n = tokens.shape
    if model.arch.causal:
        seen = ~Mask(True, window).blocked(namespace(tokens), tokens, n, n)
    else:
        where = namespace(tokens).arange(n, device=tokens.device)
        seen = (where[:, None] - where[None, :]).abs() <= window
    return seen[None, None].expand(b, 1, n, n)


def _added_mask(model: Decoder, tokens: Any, x: Any, kind: str) -> Any:
    """0 where a key is seen, else -inf, (b, 1, n, n) in the dtype of x."""
    seen = _seen(model, tokens, None if kind == "F" else model.arch.window)
    return namespace(x).where(seen, x.new_zeros(()), float("-inf"))


def _layer(x: Any, model: Decoder, weights: Weights, kind: LayerKind, shared: Shared, cache: Cache | None) -> Any:
    """x plus its attention, plus the feed-forward of that; or both of the same input, where they are parallel."""
    if model.arch.parallel_norms:
        return _parallel(x, model, weights, kind, shared, cache)
    after = iter(("norm1", "norm2", "norm3", "norm4")[0 if kind.normed else 1 :])
    residual = x
    x = _before(x, model, weights, after) if kind.normed else x
    held = [x] if "norm" in model.arch.holds else []
    with scope(x, part="attention"):
        x, attended = self_attention(x, model, weights, kind, shared, cache)
    held.append(attended)
    x = _after(x, model, weights, after, "attention")
    held += [x] if "attention" in model.arch.holds else []
    x = _joined(residual, x, model, weights, after)
    if model.encoder:
        residual = x
        x = _before(x, model, weights, after)
        with scope(x, part="attention"):
            x, attended = cross_attention(x, model, weights, shared, cache)
        held.append(attended)
        x = _joined(residual, _after(x, model, weights, after, "attention"), model, weights, after)
    residual = x
    x = _before(x, model, weights, after)
    with scope(x, part="feed-forward"):
        x = model.feed(x, weights, held if "hidden" in model.arch.holds else None)
    return _joined(residual, _after(x, model, weights, after, "feed-forward"), model, weights, after)


def _before(x: Any, model: Decoder, weights: Weights, names: Any) -> Any:
    return model.norm(x, weights, next(names)) if model.arch.placement in ("pre", "both") else x


def _after(x: Any, model: Decoder, weights: Weights, names: Any, block: str) -> Any:
    if model.arch.placement in ("both", "output"):
        x = model.norm(x, weights, next(names))
    return _dropped(x, model, block)


def _joined(residual: Any, x: Any, model: Decoder, weights: Weights, names: Any) -> Any:
    """The residual stream with a block's result added."""
    x = residual + _scaled(x, model)
    return model.norm(x, weights, next(names)) if model.arch.placement == "post" else x


def _dropped(x: Any, model: Decoder, block: str) -> Any:
    return functional(x).dropout(x, model.dropout, True) if model.dropout and block in model.arch.dropped else x


def _scaled(x: Any, model: Decoder) -> Any:
    return x * 0.5 if "residual" in model.arch.scaled else x  # any factor


def _parallel(x: Any, model: Decoder, weights: Weights, kind: LayerKind, shared: Shared, cache: Cache | None) -> Any:
    residual, arch = x, model.arch
    normed = model.norm(x, weights, "norm1")
    other = normed if arch.parallel_norms == 1 else model.norm(x, weights, "norm2") if "norm" in arch.holds else None
    with scope(x, part="attention"):
        attended, _ = self_attention(normed, model, weights, kind, shared, cache)
    attended = _dropped(attended, model, "attention")
    if other is None:
        del normed
        other = model.norm(x, weights, "norm2")
    with scope(x, part="feed-forward"):
        fed = model.feed(other, weights)
    fed = _dropped(fed, model, "feed-forward")
    return residual + attended + fed


def self_attention(
    x: Any, model: Decoder, weights: Weights, kind: LayerKind, shared: Shared, cache: Cache | None = None
) -> tuple[Any, Any]:
    """Attention of the tokens x (b, n, hidden) on each other, and on those before them in the cache."""
    if model.arch.mla:
        kept = None if cache is None else partial(_cached, cache=cache)
        q, k, v = latent_projections(x, model, weights, shared.rotary.get(kind.attention), kept)
    else:
        held: list[Any] = []
        q, k, v = _projected(x, model, weights, held)
        if kind.rotary:
            turn, by = TURNS[model.arch.turning], shared.rotary[kind.attention]
            q, k = fused(turn, q, k, *by, **TURNING) if model.compiled else turn(q, k, *by)
        if cache is not None:
            k, v = _cached(k, v, cache)
    return _attended(q, k, v, model, weights, kind, shared)


def cross_attention(
    x: Any, model: Decoder, weights: Weights, shared: Shared, cache: Cache | None = None
) -> tuple[Any, Any]:
    """Attention of the tokens x (b, n, hidden) on the encoder's, of which the last two of the cache are for."""
    own = {name.removeprefix(CROSS_PREFIX): x for name, x in weights.items() if name.startswith(CROSS_PREFIX)}
    q = _heads(model, own, "q", x)
    if shared.source is None:
        assert cache is not None
        k, v = cache[2:]
    else:
        k, v = (_heads(model, own, name, shared.source) for name in "kv")
        if cache is not None:
            k, v = _begun(k, v, cache)
    return _attended(q, k, v, model, own, LayerKind(CROSS), shared)


def _heads(model: Decoder, weights: Weights, name: str, x: Any) -> Any:
    """Queries, keys or values (b, heads, n, d) of x, as a view of (b, n, heads, d) or copied."""
    x = model.linear(x, weights, name)
    width = model.arch.value_dim if name == "v" else model.arch.head_dim
    if not model.arch.copied_heads:
        return x.view(*x.shape[:2], -1, width).transpose(1, 2)
    x = x * 0.5 if name == "q" else x  # any factor
    return x.view(*x.shape[:2], -1, width).transpose(1, 2).contiguous()


def _attended(
    q: Any, k: Any, v: Any, model: Decoder, weights: Weights, kind: LayerKind, shared: Shared
) -> tuple[Any, Any]:
    """Attention and the linear layer behind it; and its weights, where they exist, which a layer's variable holds."""
    what = (shared.masks.get(kind.attention), weights.get("sinks"), shared.biases.get(kind.attention))
    if model.recompute == "attention" and q.requires_grad:
        out = checkpoint(model.attend, q, k, v, kind, *what)
    else:
        out = model.attend(q, k, v, kind, *what)
    out, attended = out if isinstance(out, tuple) else (out, None)
    out = out.transpose(1, 2).contiguous()
    out = out.reshape(*out.shape[:2], -1)
    return model.row(out, weights, "output"), attended


def _begun(k: Any, v: Any, cache: Cache) -> Cache:
    """The keys and values of a prompt, copied into a cache as its layer makes them (DynamicLayer of transformers)."""
    cat = namespace(k).cat
    kept = [cat((k,), 2), cat((v,), 2)]
    cache += kept
    return kept


def _cached(k: Any, v: Any, cache: Cache) -> Cache:
    """The cache, with the new keys and values written to its end."""
    if not cache:
        return _begun(k, v, cache)
    n, m = k.shape[2], cache[0].shape[2]
    for new, kept in zip((k, v), cache, strict=False):
        kept.narrow(2, m - n, n).copy_(new)
    return cache[:2]


def _projected(x: Any, model: Decoder, weights: Weights, held: list[Any]) -> tuple[Any, Any, Any]:
    """Queries, keys and values, (b, heads, n, d) as views of (b, n, heads, d); to `held` what a variable holds."""
    arch = model.arch
    if arch.copied_heads:
        q, k, v = (_heads(model, weights, name, x) for name in "qkv")
        return q, k, v
    if arch.fused_qkv:
        widths = [arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim, arch.kv_heads * arch.value_dim]
        together = model.columns(x, weights, "qkv")[0]
        held += [together] if "qkv" in arch.holds else []
        projected = list(together.split(widths, dim=-1))
        del together
    else:
        projected = model.columns(x, weights, *"qkv")
    if arch.qk_norm == "all":
        projected[:2] = [_normed(y, model, weights, name) for name, y in zip("qk", projected, strict=False)]
    dims = (arch.head_dim, arch.head_dim, arch.value_dim)
    heads = [y.view(*y.shape[:2], -1, d) for y, d in zip(projected, dims, strict=True)]
    if arch.sharing == "copied" and namespace(x).is_grad_enabled():
        heads = [heads[0].contiguous(), *(_for_all_heads(y, arch.heads) for y in heads[1:])]
    if arch.qk_norm == "head":
        heads[:2] = [_normed(y, model, weights, name) for name, y in zip("qk", heads, strict=False)]
    q, k, v = (y.transpose(1, 2) for y in heads)
    return q, k, v


def _for_all_heads(x: Any, heads: Any) -> Any:
    """Keys or values (b, n, g, d), a copy for each of the heads of queries that share them."""
    b, n, groups, d = x.shape
    return x[:, :, :, None].expand(b, n, groups, heads // groups, d).reshape(b, n, heads, d)


def _normed(x: Any, model: Decoder, weights: Weights, name: str) -> Any:
    """Queries or keys, through their norm, which is of the model's kind."""
    return RMS_NORMS[model.arch.norm](x, weights[f"{name}_norm.weight"])
