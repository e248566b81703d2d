"""A step of a model on tensors of either library: its parameters, states and batch are made, then the step runs.

The code of the step is that of `memmodel_kernels`; here its choices become functions. `xp` is `memmodel.recording`, to
record a step, or `torch`, to run it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from memmodel.algorithms import algorithm
from memmodel.attention.case import Case
from memmodel.attention.masks import Mask
from memmodel.attention.scores import make_scores
from memmodel.base.dtypes import float32, int64
from memmodel.base.errors import UsageError, choice
from memmodel.events.groups import COMMUNICATION, GRADIENTS, KV_CACHE, OPTIMIZER, PARAMETERS
from memmodel.models.architecture import (
    CROSS,
    CROSS_PREFIX,
    Architecture,
    LayerKind,
    Weight,
    layer_weights,
    on_stage,
    outer_weights,
)
from memmodel.models.data_parallel import (
    Sharder,
    average_gradients,
    distributed_updates,
    norm_total,
    of_ranks,
    ranks_along,
    shared_experts,
)
from memmodel.models.kv_cache import kept_tokens
from memmodel.models.schedule import order, shown_micro_batches
from memmodel.models.setting import EAGER, SDPA, ModelCase
from memmodel.models.share import whole_weights
from memmodel.models.weights import stored
from memmodel.recorder import supported
from memmodel.sizes.dims import Dim

Label = Callable[[Any, str, str], None]  # called with each tensor that is made, its name and its group ("": none)
Handles = Mapping[str, Any]
NO_HANDLES: Handles = {}
Mark = Callable[[str], None]  # called with a phase's name where it begins


def train(xp: Any, case: ModelCase, label: Label, mark: Mark, steps: int = 1) -> Any:
    """Training steps; returns what outlives them."""
    step = training(xp, case, label, in_short=True)
    for _ in range(steps):
        step(mark)
    return step


def training(
    xp: Any, case: ModelCase, label: Label, handles: Handles = NO_HANDLES, in_short: bool = False
) -> Callable[[Mark], None]:
    """A function that trains a step of a rank's share of a case; it keeps parameters, states and batch.

    `handles`: as of `memmodel.models.data_parallel.ranks_along`.
    `in_short`: a pipeline stage runs only as many micro-batches as show the rest; stages that exchange them run all.
    """
    from memmodel_kernels.parallel.partial import sum_partial, sum_tied
    from memmodel_kernels.training import Batch, training_step, update_in_backward

    models, parameters = _chunks(xp, case, label, handles)
    for model in models:
        average_gradients(model, case, handles)
    distributed = distributed_updates(case, models, parameters, label, handles)
    updates = distributed or _updates(case, models, parameters, label)
    if case.in_backward:
        update_in_backward(updates)
    batch = Batch(_read(xp, case, label), _targets(xp, case, label), _source(xp, case, label))

    def before_backward() -> None:
        for one in distributed:
            one.before_backward()

    def after_backward() -> None:
        totals = dict(chain.from_iterable(one.totals.items() for one in distributed)) or _totals(updates)
        sum_partial(models, totals)
        if ends is not None:
            sum_tied(models, ends, totals)
        for one in distributed:
            one.reduce()

    ends = _ends(case, handles)
    clipping = _clipping(case, handles, models) if case.clip else None
    if case.layout.pp > 1:
        pipeline = _pipeline(xp, case, label, handles, models, in_short)
        return partial(_pipelined, pipeline, updates, batch[:2], _loss(case), after_backward, clipping)
    # The second micro-batch adds to gradients, and all after it do the same; it reads the same tokens.
    batches = [batch] * min(case.microbatches, 2)
    after = [] if case.in_backward else updates
    low = _low_precision(xp, case)

    def step(mark: Mark) -> None:
        training_step(
            models[0], after, batches, _loss(case), mark, clipping, case.keep_logits, low, before_backward,
            after_backward,
        )  # fmt: skip

    return step


def _low_precision(xp: Any, case: ModelCase) -> Any:
    """The dtype of autocast; None without."""
    return getattr(xp, case.dtype.name) if case.autocast else None


def _ends(case: ModelCase, handles: Handles) -> Any:
    """The first and the last stage, where they have a copy of one weight each."""
    layout, stage = case.layout, case.rank.stage
    if layout.pp == 1 or not case.arch.tied or 0 < stage < layout.pp - 1:
        return None
    return of_ranks(case, handles, "ends", layout.ends(case.rank))


def _clipping(case: ModelCase, handles: Handles, models: list[Any]) -> Any:
    """How gradients are clipped; of a parameter that several ranks hold, the first rank alone counts the gradient."""
    from memmodel_kernels.training import Clipping

    # Counted on another rank: norms and the like on the first of tp, a tied embedding on the first stage.
    elsewhere = whole_weights(case) if case.rank.tensor else frozenset()
    copied = {"embedding.weight"} if case.arch.tied and case.rank.stage else set()
    weights = [item for model in models for of in (model.outer, *model.layers) for item in of.items()]
    return Clipping(norm_total(case, handles), {id(x) for name, x in weights if name in elsewhere | copied})


def _pipelined(
    pipeline: Any, updates: Any, batch: Any, loss: Any, after_backward: Any, clipping: Any, mark: Mark
) -> None:
    """A step of a pipeline stage."""
    from memmodel_kernels.training import drop_gradients, update_all

    pipeline.forward_and_backward(batch, loss, mark)
    after_backward()
    update_all(updates, mark, clipping)
    mark("after")
    drop_gradients(updates)
    pipeline.forget()


def _updates(case: ModelCase, models: list[Any], parameters: list[Any], label: Label) -> Any:
    from memmodel_kernels.optimizers import OPTIMIZERS
    from memmodel_kernels.training import updates_of

    optimizer = OPTIMIZERS[choice("optimizer", case.optimizer, OPTIMIZERS)]
    matrices = [x for model in models for of in model.layers for x in of.values() if x.requires_grad and x.dim() > 1]
    masters = case.masters and not case.layout.fully_sharded  # shards are in fp32 themselves
    updates = updates_of(optimizer, parameters, matrices, masters)
    for update in updates:
        for state in (x for kind in (*update.states, update.masters or ()) for x in kind if x is not None):
            label(state, "", OPTIMIZER)
        for total in update.sums or ():
            label(total, "", GRADIENTS)
    return updates


def _totals(updates: Any) -> dict[int, Any]:
    """By the id of a parameter, where its gradients are added up."""
    return {
        id(parameter): total
        for update in updates
        for parameter, total in zip(update.parameters, update.sums or (), strict=False)
    }


def generate(xp: Any, case: ModelCase, label: Label, mark: Mark, steps: int = 1) -> Any:
    """A prompt of `seq` tokens into the cache, or one token more than it holds; returns the inputs.

    An encoder has no cache, and scores all tokens.
    """
    from memmodel_kernels.generation import all_logits, next_token_logits

    (model,), _ = _chunks(xp, case, label)
    tokens = _read(xp, case, label, case.seq if case.phase == "prefill" else 1)
    if not case.arch.causal:
        for _ in range(steps):
            all_logits(model, tokens, mark)
        return model, tokens
    source = _source(xp, case, label) if case.phase == "prefill" else None
    caches: list[list[Any]] = []
    for _ in range(steps):
        if case.phase == "prefill" or not caches:
            caches = [_cache(xp, case, layer) for layer in range(case.arch.layers)]
        next_token_logits(model, tokens, caches, mark, source)
        _label_caches(caches, case.arch, label)
    return model, caches, tokens, source


def _cache(xp: Any, case: ModelCase, layer: int) -> list[Any]:
    """Keys and values of a layer, for every token that a query sees, then an encoder's; nothing before a prompt."""
    arch = case.arch
    if case.phase == "prefill":
        return []
    tokens = kept_tokens(arch, arch.kind(layer).attention, case.seq)
    lengths = (tokens, case.read) if arch.encoder else (tokens,)
    with _layer(xp, layer):
        return [
            xp.zeros(case.batch, heads, length, width, dtype=getattr(xp, case.dtype.name))
            for length in lengths
            for _, heads, width in _cached(arch)
        ]


def _label_caches(caches: list[list[Any]], arch: Architecture, label: Label) -> None:
    names = [f"{of}{name}_cache" for of in ("", CROSS_PREFIX) for name, _, _ in _cached(arch)]
    for layer, cache in enumerate(caches):
        for name, kept in zip(names, cache, strict=False):
            label(kept, f"layers.{layer}.{name}", KV_CACHE)


def _cached(arch: Architecture) -> tuple[tuple[str, Dim, Dim], tuple[str, Dim, Dim]]:
    """Name, heads and channels of the two tensors that a layer caches."""
    if arch.mla:
        return ("latent", 1, arch.mla.kv_rank), ("turned", 1, arch.mla.rope)
    return ("k", arch.kv_heads, arch.head_dim), ("v", arch.kv_heads, arch.value_dim)


def _read(xp: Any, case: ModelCase, label: Label, seq: Dim | None = None) -> Any:
    """The model's inputs: indices of tokens, or images."""
    patches = case.arch.patches
    if patches is None:
        return _indices(xp, label, "tokens", case.batch, case.seq if seq is None else seq)
    shape, dtype = (
        (case.batch, patches.channels, patches.image, patches.image),
        float32 if case.autocast else case.dtype,
    )
    images = xp.zeros(*shape, dtype=getattr(xp, dtype.name))
    label(images, "images", "")
    return images


def _source(xp: Any, case: ModelCase, label: Label) -> Any:
    """What an encoder before the decoder reads: indices of tokens, or sounds; None without one."""
    encoder = case.arch.encoder
    if encoder is None:
        return None
    if encoder.spectrogram is None:
        return _indices(xp, label, "source", case.batch, case.read)
    moments = encoder.spectrogram.stride * case.read
    dtype = float32 if case.autocast else case.dtype
    sounds = xp.zeros(case.batch, encoder.spectrogram.channels, moments, dtype=getattr(xp, dtype.name))
    label(sounds, "sounds", "")
    return sounds


def _targets(xp: Any, case: ModelCase, label: Label) -> Any:
    """The token that each one precedes, or the class of each image."""
    return _indices(xp, label, "targets", case.batch, *(() if case.arch.patches else (case.seq,)))


def _indices(xp: Any, label: Label, name: str, *shape: Dim) -> Any:
    indices = xp.zeros(*shape, dtype=getattr(xp, int64.name))
    label(indices, name, "")
    return indices


def _layer(xp: Any, layer: int | None) -> AbstractContextManager[Any]:
    """A context whose tensors belong to a layer, where the library records that."""
    return xp.scope(layer) if layer is not None and hasattr(xp, "Tape") else nullcontext()


def _chunks(xp: Any, case: ModelCase, label: Label, handles: Handles = NO_HANDLES) -> tuple[list[Any], list[Any]]:
    """The model, or this rank's parts of it, and the parameters that learn."""
    models = [_decoder(xp, case, label, handles, chunk) for chunk in range(case.layout.virtual_stages)]
    parts = [part for model in models for part in (model, model.encoder) if part is not None]
    weights = [weights for part in parts for weights in (part.outer, *part.layers)]
    # The encoder's embedding is the decoder's.
    learning = {id(x): x for of in weights for x in of.values() if x.requires_grad}
    return models, list(learning.values())


def _decoder(xp: Any, case: ModelCase, label: Label, handles: Handles, chunk: int) -> Any:
    from memmodel_kernels.decoder import Decoder, frequencies

    arch, layout, sharder = case.arch, case.layout, Sharder(xp, case, handles)
    first, last = chunk + case.rank.stage == 0, (chunk + 1, case.rank.stage + 1) == (layout.virtual_stages, layout.pp)
    outside = [weight for weight in outer_weights(arch) if on_stage(weight, first, last, arch.tied)]
    outer = _weights(xp, case, outside, label, sharder)
    count = arch.layers // layout.virtual_stages
    layers = [
        _weights(xp, case, layer_weights(arch, arch.kind(index)), label, sharder, index)
        for index in range(chunk * count, (chunk + 1) * count)
    ]
    for name in frequencies(arch):
        turning = arch.mla.rope if arch.mla else arch.rotary_dim or arch.head_dim
        # inv_freq, a buffer of the rotary module in fp32: one frequency for each pair of channels.
        outer[name] = xp.zeros(turning // 2, dtype=getattr(xp, float32.name))
        label(outer[name], name, PARAMETERS)
    if "mask" in arch.holds:
        outer["mask"] = xp.ones(arch.max_pos, arch.max_pos, dtype=xp.bool)
        label(outer["mask"], "mask", PARAMETERS)
    encoder = _encoder(xp, case, label, handles, outer) if arch.encoder else None
    context = ranks_along(case, handles, "context") if layout.cp > 1 else None
    return Decoder(
        arch, outer, layers, _attend(case, context), masks=_MASKS.get(case.attention, "none"), encoder=encoder,
        fused_norms=case.fused_norms, compiled=case.compiled, eager_loss=case.eager_loss, dropout=case.dropout,
        embedding_dropout=case.embedding_dropout,
        recompute=case.checkpoint, adapter_dropout=case.adapter.dropout if case.adapter else 0.0, offload=case.offload,
        tensor=_tensor_parallel(case, handles), context=context, experts=shared_experts(case, handles),
        capacity=case.capacity,
        around=sharder.around, first=first, last=last,
        start=chunk * count,
    )  # fmt: skip


def _encoder(xp: Any, case: ModelCase, label: Label, handles: Handles, outer: Handles) -> Any:
    """The encoder before a decoder; without a decoder's cache to write, nothing is asked of it but a pass."""
    assert case.arch.encoder is not None

    def of_encoder(tensor: Any, name: str, group: str) -> None:
        label(tensor, f"encoder.{name}", group)

    made = _decoder(xp, replace(case, arch=case.arch.encoder), of_encoder, handles, 0)
    if "embedding.weight" in outer and case.arch.encoder.spectrogram is None:
        made.outer["embedding.weight"] = outer["embedding.weight"]
    return made


def _tensor_parallel(case: ModelCase, handles: Handles) -> Any:
    from memmodel_kernels.parallel.tensor import TensorParallel

    if case.layout.tp == 1:
        return None
    return TensorParallel(ranks_along(case, handles, "tensor"), case.layout.sequence_parallel, (case.batch, case.seq))


def _pipeline(xp: Any, case: ModelCase, label: Label, handles: Handles, models: list[Any], in_short: bool) -> Any:
    """The stage of a rank, with its buffers.

    In short, of more micro-batches than show how a step goes on, the first have been done: of them the gradients of the
    inputs are there.
    """
    from memmodel_kernels.parallel.pipeline import Pipeline

    layout, count = case.layout, case.microbatches
    shown = shown_micro_batches(layout, case.rank.stage, count) if in_short else count

    def buffers(there: bool, learns: bool = False, copies: int = count) -> list[Any]:
        made = [_stream(xp, case, learns) for _ in range(copies if there else 0)]
        for buffer in made:
            label(buffer, "", COMMUNICATION)
        return made

    inputs = [buffers(not model.first, True) for model in models]
    gradients = [buffers(not model.last) for model in models]
    done = [buffers(not model.first, copies=count - shown) for model in models]
    actions = order(layout, case.rank.stage, shown)
    group = ranks_along(case, handles, "stage")
    return Pipeline(group, models, inputs, gradients, actions, done, _low_precision(xp, case))


def _stream(xp: Any, case: ModelCase, learns: bool) -> Any:
    """A residual stream between stages, with all tokens of a rank."""
    # Sequence parallelism cuts all tokens of the batch, so that batch and sequence are one dimension.
    shared = case.layout.sequence_parallel
    shape = (1, case.batch * case.seq // case.layout.tp) if shared else (case.batch, case.seq)
    dtype = float32 if case.autocast else case.dtype
    made = xp.zeros(*shape, case.arch.hidden, dtype=getattr(xp, dtype.name))
    return made.requires_grad_() if learns else made


def _weights(
    xp: Any, case: ModelCase, listed: list[Weight], label: Label, sharder: Sharder, layer: int | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    with _layer(xp, layer):
        for kept in (kept for weight in listed for kept in stored(weight, case, layer is not None)):
            made[kept.name] = sharder.parameter(kept)
            name = kept.name if layer is None else f"layers.{layer}.{kept.name}"
            label(made[kept.name], name, f"{PARAMETERS} {kept.part}")
    sharder.unit(made, layer)
    return made


def _loss(case: ModelCase) -> Any:
    from memmodel_kernels.losses import IN_CHUNKS, LOSSES

    if case.loss in IN_CHUNKS:
        return partial(IN_CHUNKS[case.loss], chunks=case.chunks)
    return LOSSES[choice("loss", case.loss, LOSSES)]


_MASKS = {SDPA: "windows", EAGER: "added"}


def _attend(case: ModelCase, context: Any) -> Callable[[Any, Any, Any, LayerKind, Any, Any, Any], Any]:
    """Attention by the algorithm asked for, under the mask of the layer; a ring of ranks that share sequences."""
    from memmodel_kernels.eager_attention import eager_attention
    from memmodel_kernels.library_attention import library_attention, repeated
    from memmodel_kernels.relative import mask_with_bias
    from memmodel_kernels.ring import ring_attention

    dropout, cap, causal = case.attention_dropout, case.arch.attention_cap, case.arch.causal
    if context is not None:
        return lambda q, k, v, *_: ring_attention(q, k, v, context, causal)
    if case.attention == EAGER:

        def by_operators(q: Any, k: Any, v: Any, kind: LayerKind, mask: Any, sinks: Any, bias: Any) -> Any:
            found = eager_attention(q, k, v, mask, dropout, cap, sinks, case.arch.wide_softmax, bias)
            return found[0] if case.checkpoint == "attention" else found  # recomputed, its weights are not held

        return by_operators
    if case.attention == SDPA:

        def by_library(q: Any, k: Any, v: Any, kind: LayerKind, mask: Any, _: Any, bias: Any) -> Any:
            if case.repeat_kv:
                k, v = repeated(k, q), repeated(v, q)
            hides = causal and kind.attention != CROSS
            mask = mask if bias is None else mask_with_bias(bias, hides)
            return library_attention(q, k, v, mask, dropout, hides, case.arch.sharing == "broadcast")

        return by_library
    chosen = algorithm(case.attention)

    def run(q: Any, k: Any, v: Any, kind: LayerKind, *_: Any) -> Any:
        if kind.attention == "S" and not causal:
            raise UsageError(f"{chosen.name} on windows on both sides is not modelled: take --attention {SDPA}")
        if kind.attention == "C" and case.arch.window < case.seq:
            chunks = f"chunks of {case.arch.window} keys"
            raise UsageError(f"{chosen.name} on {chunks} is not modelled: take --attention {SDPA}")
        window = case.arch.window if kind.attention == "S" else None
        sizes = {"batch": q.shape[0], "heads": q.shape[1], "kv_heads": k.shape[1], "head_dim": q.shape[3]}
        alone = Case(
            chosen.name, **sizes, seq=q.shape[2], kv_seq=k.shape[2], value_dim=v.shape[3], dtype=case.dtype,
            dropout=dropout, scores=make_scores(softcap=cap or None),
            mask=Mask(causal and kind.attention != CROSS, window), device=case.device,
            phase="train" if case.phase == "train" else "inference",
        )  # fmt: skip
        if not (answer := supported(alone)):
            raise UsageError(answer.reason)
        return chosen.run(alone, q, k, v)

    return run
