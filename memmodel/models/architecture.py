"""The architecture of a transformer, decoder or encoder: its sizes and choices, and every tensor of its parameters.

Shapes are those of PyTorch's modules: a linear layer from `a` to `b` features has a weight (b, a). Sizes are ints; they
may be symbols, but for the number of layers.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from memmodel.base.frozen import Frozen
from memmodel.sizes.dims import Dim

Part = Literal["embedding", "attention", "feed-forward", "experts", "norms", "head"]
PARTS: tuple[Part, ...] = ("embedding", "attention", "feed-forward", "experts", "norms", "head")

# Norms by name, with the parameters that each has per channel. "rmsnorm+1" multiplies by 1 + weight (Gemma),
# "rmsnorm-fp32" by the weight before the result is back in the model's dtype (OLMo 2), "rmsnorm-t5" divides what is in
# the model's dtype. "layernorm-no-bias" is in plain operators (Cohere), "layernorm-native-no-bias" the library's.
NORMS = {
    **{"rmsnorm": 1, "rmsnorm+1": 1, "rmsnorm-fp32": 1, "rmsnorm-t5": 1},
    **{"layernorm": 2, "layernorm-no-bias": 1, "layernorm-native-no-bias": 1, "layernorm-no-weight": 0},
}

# Where the norms of a block f stand, with their number in a layer (two blocks):
#   pre     x + f(norm(x))         GPT-2, Llama
#   both    x + norm(f(norm(x)))   Gemma 2, GLM-4
#   output  x + norm(f(x))         OLMo 2
#   post    norm(x + f(x))         BERT: no norm is left for the end
PLACEMENTS = {"pre": 2, "both": 4, "output": 2, "post": 2}

# Feed-forward activations; a gated one ("glu") multiplies act(x W_gate) by x W_up.
ACTIVATIONS = (
    *("silu-glu", "gelu-glu", "gelu-tanh-glu", "relu-glu", "clamped-swiglu"),
    *("silu", "gelu", "gelu-tanh", "gelu-new", "relu", "relu2"),
)


class Mixture(NamedTuple):
    """A mixture of experts in place of the dense feed-forward.

    Attributes:
        experts: how many there are. top_k: how many a token goes to.
        width: of one expert's hidden layer. shared: of the shared experts together; 0 without any.
        shared_gate: whether a sigmoid gate (hidden to 1) weighs the shared experts.
        first_dense: the number of dense layers at the start. every: of the layers after those, each `every`-th, counted
            from the model's first layer, is a mixture.
        scores: how the router weighs experts: "softmax" (of all, in fp32, the best made to add up to 1), "softmax-cast"
            (the same in the model's dtype), "softmax-as-is" (not made to add up), "softmax-of-top-k", "sigmoid", or
            "sigmoid-before" (of the inputs of all experts, which then take every token: Llama 4).
        bias: whether the router and the experts have biases.
        groups, best_groups: a token's experts are of its best few groups of them; 0 without groups.
        own: the experts that a rank has, where ranks share them; 0 for all.
    """

    experts: Dim
    top_k: Dim
    width: Dim
    shared: Dim = 0
    shared_gate: bool = False
    first_dense: int = 0
    every: int = 1
    scores: str = "softmax"
    bias: bool = False
    groups: int = 0
    best_groups: int = 0
    own: Dim = 0

    @property
    def in_fp32(self) -> bool:
        """Whether the router's weight is in fp32, whatever the model is (DeepSeek)."""
        return self.scores in ("sigmoid", "softmax-as-is")

    def holds(self, layer: int) -> bool:
        """Whether a layer, counted from 0, is a mixture."""
        return layer >= self.first_dense and (layer + 1) % self.every == 0  # as decoder_sparse_step counts, from 1


class Latent(NamedTuple):
    """Multi-head latent attention: keys and values come from one latent of `kv_rank` channels (DeepSeek-V2).

    Attributes:
        kv_rank: channels of the latent of keys and values. q_rank: of queries; 0 where these have none.
        rope: channels of a head with rotary positions; all heads share one key of them. The rest of head_dim has none.
    """

    kv_rank: Dim
    rope: Dim
    q_rank: Dim = 0


class Patches(NamedTuple):
    """Square images that are read as squares of `size` x `size` pixels, with `channels` each."""

    image: int
    size: int
    channels: int = 3

    @property
    def per_image(self) -> int:
        """The patches of an image; it is one token less than the model sees, which reads its class off another."""
        return (self.image // self.size) ** 2


class Spectrogram(NamedTuple):
    """Sounds as `channels` numbers a moment; two convolutions make a token of every two moments (Whisper)."""

    channels: int
    kernel: int = 3
    stride: int = 2


CROSS_PREFIX = "cross_"  # of the names of the weights of CROSS
CROSS = "X"  # attention of a decoder's layer on all tokens of the encoder before it


class LayerKind(NamedTuple):
    """The ways in which layers of one model differ.

    Attributes:
        attention: F (all keys), S (a window) or C (chunks of a window); CROSS for that on an encoder's tokens.
        mixture, rotary: whether it has these. normed: whether a norm stands before its attention.
    """

    attention: str
    mixture: bool = False
    rotary: bool = False
    normed: bool = True


class Weight(NamedTuple):
    """One parameter tensor. A linear weight (out, in), or (experts, out, in), is one that quantization packs.

    `in_fp32`: whatever the model's dtype. `frozen`: whether it never learns.
    """

    part: Part
    name: str
    shape: tuple[Dim, ...]
    linear: bool = False
    in_fp32: bool = False
    frozen: bool = False

    @property
    def numel(self) -> Dim:
        """The number of elements."""
        count: Dim = 1
        for size in self.shape:
            count = count * size
        return count


class Architecture(Frozen):
    """A transformer of one kind of layers: a decoder, or an encoder.

    Attributes:
        name: for people. vocab: V. layers: L. hidden: H, width of the residual stream. ffn: F, width of a dense
            feed-forward.
        heads, kv_heads, head_dim, value_dim: of attention; head_dim of queries and keys.
        causal: whether a token sees only itself and those before it, as in a decoder; in an encoder it sees all.
        tied: whether the head is the embedding's weight. head_bias: whether the head has a bias. head_dense: whether a
            linear layer (head_dense_bias: with a bias), the activation and a norm stand before it.
        norm: a key of NORMS. placement: a key of PLACEMENTS. parallel_norms: 0 where attention and feed-forward follow
            each other; else both read the layer's input, through 1 shared norm or 2.
        qk_norm: "none", "head" (RMSNorm over each head), "all" (over all heads together) or "l2" (without a weight).
        qkv_bias, output_bias, ffn_bias: whether these linear layers have biases.
        fused_qkv, fused_gate_up: whether q, k, v, and gate and up, are one linear layer each.
        activation: one of ACTIVATIONS.
        positions: "rotary", "learned" (a table of max_pos rows), "relative" (a learned number a head for each of
            `buckets` distances, added to scores) or "none". rotary_dim: channels of a head that turn.
        turning: a key of `memmodel_kernels.rotary.TURNS`. rotary_by_kind: whether layers of each letter of the pattern
            turn by frequencies of their own.
        no_rotary_every: each such layer, counted from 1, has no rotary positions; 0 for none.
        max_pos: the longest context the model is made for. padded: rows of the table of positions beyond these.
        segments: rows of a second table, of which all tokens take one; 0 without. embedding_norm: whether a norm
            follows the embeddings.
        pattern: a letter a layer, repeated: F all keys, S the last `window` keys, C chunks of `window` keys.
        attention_cap, logit_cap: soft caps, cap·tanh(x / cap); 0 without. sinks: a learned logit a head.
        scaled: which are multiplied by a constant: "embedding", "residual", "output" (before the head), "logits".
        bare_start: whether the first layer has no norm before its attention (ModernBERT).
        masked: whether the library's attention gets a causal mask in all layers too, as the class makes one (Falcon);
            "unread" where it makes one for windows that the model has not (Qwen2-MoE). sharing: how "sdpa" shares keys
            and values among heads: "grouped", "broadcast" (a single head for all, without saying that heads are
            grouped, which fused kernels refuse) or "copied" (each to its heads, in training).
        copied_heads: whether queries, keys and values are copied with each head's rows together, queries scaled before
            (Whisper). k_bias: whether keys have the bias that `qkv_bias` gives.
        wide_softmax: whether plain attention has its softmax in fp32. wide_logits: whether "full" has logits in fp32.
        patches: of a model of images. Its vocabulary is the classes; it reads the class off one more token.
        spectrogram: of an encoder of sounds, as an encoder before a decoder may be.
        encoder: what reads another sequence, on whose tokens each of these layers has a second attention; None without.
            Its embedding is this one's, and it has no head.
        moe, mla: mixture of experts, and latent attention, where the model has them.
        dropout, attention_dropout, embedding_dropout: what its configuration trains with, as of a `ModelCase`.
        dropped: what has dropout: results of blocks, "hidden" layers of feed-forwards, and the "final" norm's.
        holds: what variables of its class hold: "positions" to the end, "every-position" those of each sequence apart;
            "norm" (of parallel ones both), "attention" and the "hidden" layer of the feed-forward to the end of a
            layer; "qkv", where they are fused, to that of attention; and "mask", a causal one of max_pos x max_pos
            bools, which is a buffer beside the weights.
        before: layers before these, which another pipeline stage has.
    """

    name: str
    vocab: Dim
    layers: int
    hidden: Dim
    ffn: Dim
    heads: Dim
    kv_heads: Dim
    head_dim: Dim
    value_dim: Dim
    causal: bool = True
    tied: bool = False
    head_bias: bool = False
    head_dense: bool = False
    head_dense_bias: bool = True
    norm: str = "rmsnorm"
    placement: str = "pre"
    parallel_norms: int = 0
    qk_norm: str = "none"
    qkv_bias: bool = False
    k_bias: bool = True
    output_bias: bool = False
    ffn_bias: bool = False
    fused_qkv: bool = False
    fused_gate_up: bool = False
    activation: str = "silu-glu"
    positions: str = "rotary"
    rotary_dim: Dim = 0
    buckets: int = 0
    turning: str = "halves"
    rotary_by_kind: bool = False
    no_rotary_every: int = 0
    max_pos: int = 4096
    padded: int = 0
    segments: int = 0
    embedding_norm: bool = False
    window: int = 0
    pattern: str = "F"
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    sinks: bool = False
    scaled: tuple[str, ...] = ()
    bare_start: bool = False
    masked: bool | str = False
    sharing: str = "grouped"
    copied_heads: bool = False
    wide_softmax: bool = True
    wide_logits: bool = True
    patches: Patches | None = None
    spectrogram: Spectrogram | None = None
    encoder: "Architecture | None" = None
    moe: Mixture | None = None
    mla: Latent | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    dropped: tuple[str, ...] = ("attention", "feed-forward")
    holds: tuple[str, ...] = ()
    before: int = 0

    @property
    def eager(self) -> bool:
        """Whether Hugging Face's class runs attention by plain operators, as the library's own lacks caps and sinks."""
        return bool(self.attention_cap) or self.sinks

    @property
    def most_tokens(self) -> int | None:
        """The longest sequence that it takes: the rows of its table of positions; None where it has no table."""
        return self.max_pos if self.positions == "learned" else None

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate."""
        return self.activation.endswith("glu")

    def kind(self, layer: int) -> LayerKind:
        """The kind of a layer, counted from 0 among these."""
        layer += self.before
        rotary = self.positions == "rotary" and not (self.no_rotary_every and (layer + 1) % self.no_rotary_every == 0)
        mixture = self.moe is not None and self.moe.holds(layer)
        normed = not (self.bare_start and layer == 0)
        return LayerKind(self.pattern[layer % len(self.pattern)], mixture, rotary, normed)

    def kinds(self) -> list[LayerKind]:
        """The kind of each layer, in order."""
        return [self.kind(layer) for layer in range(self.layers)]


def parameters(arch: Architecture) -> dict[Part, Dim]:
    """The number of parameters by part; their sum is the model's."""
    counts: dict[Part, Dim] = dict.fromkeys(PARTS, 0)
    for weight, times in all_weights(arch):
        counts[weight.part] = counts[weight.part] + times * weight.numel
    return counts


def all_weights(arch: Architecture) -> Iterator[tuple[Weight, int]]:
    """Every tensor of the model, those of its encoder too, with how many layers have it."""
    kinds = arch.kinds()
    yield from ((weight, 1) for weight in outer_weights(arch))
    for kind in dict.fromkeys(kinds):
        yield from ((weight, kinds.count(kind)) for weight in layer_weights(arch, kind))
    if arch.encoder:
        yield from all_weights(arch.encoder)


def active_parameters(arch: Architecture) -> Dim:
    """The parameters that one token meets: all but the experts that it does not go to."""
    total = sum(parameters(arch).values(), start=0)
    if arch.moe is None:
        return total
    # Multiplied before it is divided, so that symbols give no floor: all experts together are a multiple.
    unused = sum(weight.numel for weight in _experts(arch, arch.moe)) * (arch.moe.experts - arch.moe.top_k)
    return total - sum(kind.mixture for kind in arch.kinds()) * (unused // arch.moe.experts)


def outer_weights(arch: Architecture) -> list[Weight]:
    """The tensors outside the layers: embedding, learned positions, final norm and head, in the order of modules.

    An encoder before a decoder, of no vocabulary, has neither embedding nor head.
    """
    found = list(_front(arch))
    if arch.positions == "learned":
        rows = (arch.max_pos + arch.padded, arch.hidden)
        found.append(Weight("embedding", "positions.weight", rows, frozen=arch.spectrogram is not None))
    if arch.positions == "relative":
        found.append(Weight("attention", "distances.weight", (arch.buckets, arch.heads)))
    if arch.segments:
        found.append(Weight("embedding", "segments.weight", (arch.segments, arch.hidden)))
    if arch.embedding_norm:
        found += _norm(arch, "embedding_norm", "embedding")
    if arch.placement != "post":
        found += _norm(arch, "final_norm")
    if arch.head_dense:
        found += [
            *_linear("head", "head_dense", arch.hidden, arch.hidden, arch.head_dense_bias),
            *_norm(arch, "head_norm", "head"),
        ]
    if arch.vocab and not arch.tied:  # a tied head is the embedding's weight, counted there
        found.append(Weight("head", "head.weight", (arch.vocab, arch.hidden)))
    if arch.head_bias:
        found.append(Weight("head", "head.bias", (arch.vocab,)))
    return found


def on_stage(weight: Weight, first: bool, last: bool, tied: bool) -> bool:
    """Whether a stage has a weight outside of the layers; of a tied embedding the last stage has a copy."""
    if weight.part == "embedding":
        return first or (last and tied and weight.name == "embedding.weight")
    return last


def _front(arch: Architecture) -> Iterator[Weight]:
    """What makes the first residual stream: a table, or convolutions of images or sounds."""
    if arch.patches:
        size, channels = arch.patches.size, arch.patches.channels
        yield Weight("embedding", "class_token", (1, 1, arch.hidden))
        yield Weight("embedding", "patches.weight", (arch.hidden, channels, size, size))
        yield Weight("embedding", "patches.bias", (arch.hidden,))
    elif arch.spectrogram:
        widths = (arch.spectrogram.channels, arch.hidden)
        for name, width in zip(("conv1", "conv2"), widths, strict=True):
            yield Weight("embedding", f"{name}.weight", (arch.hidden, width, arch.spectrogram.kernel))
            yield Weight("embedding", f"{name}.bias", (arch.hidden,))
    elif arch.vocab:
        yield Weight("embedding", "embedding.weight", (arch.vocab, arch.hidden))


def layer_weights(arch: Architecture, kind: LayerKind) -> list[Weight]:
    """The tensors of one layer."""
    count = arch.parallel_norms or PLACEMENTS[arch.placement]  # blocks side by side may share the norm before them
    count += arch.encoder is not None
    norms = range(1 if kind.normed else 2, count + 1)
    found = [weight for index in norms for weight in _norm(arch, f"norm{index}")]
    found += _latent(arch, arch.mla) if arch.mla else _projections(arch)
    found += _linear("attention", "output", arch.heads * arch.value_dim, arch.hidden, arch.output_bias)
    if arch.encoder:
        own = [weight for weight in found if weight.part == "attention"]
        found += [weight._replace(name=f"{CROSS_PREFIX}{weight.name}") for weight in own]
    if arch.sinks:
        found.append(Weight("attention", "sinks", (arch.heads,)))
    found += _mixture(arch, arch.moe) if kind.mixture and arch.moe else _dense(arch, "feed-forward", "ffn", arch.ffn)
    return found


def _linear(part: Part, name: str, width: Dim, features: Dim, bias: bool) -> Iterator[Weight]:
    """A linear layer from `width` to `features`."""
    yield Weight(part, f"{name}.weight", (features, width), linear=True)
    if bias:
        yield Weight(part, f"{name}.bias", (features,))


def _norm(arch: Architecture, name: str, part: Part = "norms") -> list[Weight]:
    names = ("weight", "bias")[: NORMS[arch.norm]]
    return [Weight(part, f"{name}.{one}", (arch.hidden,)) for one in names]


def _projections(arch: Architecture) -> Iterator[Weight]:
    """Linear layers of queries, keys and values, and the norms of queries and keys."""
    widths = {
        "q": arch.heads * arch.head_dim,
        "k": arch.kv_heads * arch.head_dim,
        "v": arch.kv_heads * arch.value_dim,
    }
    together = {"qkv": sum(widths.values(), start=0)}
    for name, width in (together if arch.fused_qkv else widths).items():
        yield from _linear("attention", name, arch.hidden, width, arch.qkv_bias and (arch.k_bias or name != "k"))
    if arch.qk_norm in ("head", "all"):
        for name in ("q", "k"):
            channels = arch.head_dim if arch.qk_norm == "head" else widths[name]
            yield Weight("norms", f"{name}_norm.weight", (channels,))


def _latent(arch: Architecture, mla: Latent) -> Iterator[Weight]:
    """Linear layers of latent attention, down to the latents and up from them, with a norm on each latent."""
    queries = arch.heads * arch.head_dim
    if mla.q_rank:
        yield from _linear("attention", "q_down", arch.hidden, mla.q_rank, arch.qkv_bias)
        yield Weight("norms", "q_norm.weight", (mla.q_rank,))
        yield from _linear("attention", "q_up", mla.q_rank, queries, bias=False)
    else:
        yield from _linear("attention", "q", arch.hidden, queries, bias=False)
    yield from _linear("attention", "kv_down", arch.hidden, mla.kv_rank + mla.rope, arch.qkv_bias)
    yield Weight("norms", "kv_norm.weight", (mla.kv_rank,))
    per_head = arch.head_dim - mla.rope + arch.value_dim
    yield from _linear("attention", "kv_up", mla.kv_rank, arch.heads * per_head, bias=False)


def _dense(arch: Architecture, part: Part, name: str, width: Dim) -> Iterator[Weight]:
    """A feed-forward with a hidden layer of `width`."""
    if arch.gated and arch.fused_gate_up:
        yield from _linear(part, f"{name}.gate_up", arch.hidden, 2 * width, arch.ffn_bias)
    elif arch.gated:
        yield from _linear(part, f"{name}.gate", arch.hidden, width, arch.ffn_bias)
    if not (arch.gated and arch.fused_gate_up):
        yield from _linear(part, f"{name}.up", arch.hidden, width, arch.ffn_bias)
    yield from _linear(part, f"{name}.down", width, arch.hidden, arch.ffn_bias)


def _mixture(arch: Architecture, moe: Mixture) -> Iterator[Weight]:
    """Router, experts and shared experts."""
    yield Weight("experts", "router.weight", (moe.experts, arch.hidden), in_fp32=moe.in_fp32)
    if moe.bias:
        yield Weight("experts", "router.bias", (moe.experts,))
    yield from _experts(arch, moe)
    if moe.shared:
        yield from _dense(arch, "experts", "shared", moe.shared)
    if moe.shared_gate:
        yield Weight("experts", "shared_gate.weight", (1, arch.hidden))


def _experts(arch: Architecture, moe: Mixture) -> Iterator[Weight]:
    """The experts' weights, stacked, with gate and up together (as transformers 5 and grouped products have them)."""
    inner = 2 * moe.width if arch.gated else moe.width  # gate and up behind one another, for one grouped product
    experts = moe.own or moe.experts
    yield Weight("experts", "experts.gate_up", (experts, inner, arch.hidden), linear=True)
    if moe.bias:
        yield Weight("experts", "experts.gate_up_bias", (experts, inner))
    yield Weight("experts", "experts.down", (experts, arch.hidden, moe.width), linear=True)
    if moe.bias:
        yield Weight("experts", "experts.down_bias", (experts, arch.hidden))
