"""A step of a model on tensors of either library: its parameters, states and batch are made, then the step runs.

The code of the step is that of `memmodel_kernels`; here its choices become functions. `xp` is `memmodel.recording`, to
record a step, or `torch`, to run it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from memmodel.algorithms import algorithm, supported
from memmodel.case import Case
from memmodel.dims import Dim
from memmodel.dtypes import float32, int64
from memmodel.errors import UsageError, choice
from memmodel.groups import GRADIENTS, KV_CACHE, OPTIMIZER, PARAMETERS
from memmodel.masks import Mask
from memmodel.models.architecture import Architecture, LayerKind, Weight, layer_weights, outer_weights
from memmodel.models.data_parallel import Sharder, average_gradients, distributed_update
from memmodel.models.kv_cache import kept_tokens
from memmodel.models.setting import SDPA, ModelCase
from memmodel.models.weights import stored

Label = Callable[[Any, str, str], None]  # is told a tensor that is made, its name and its group; "" for none
Handles = Mapping[str, Any]
NO_HANDLES: Handles = {}
Mark = Callable[[str], None]  # is told where phases begin


def train(xp: Any, case: ModelCase, label: Label, mark: Mark, steps: int = 1) -> Any:
    """Training steps; returns what outlives them."""
    step = training(xp, case, label)
    for _ in range(steps):
        step(mark)
    return step


def training(xp: Any, case: ModelCase, label: Label, handles: Handles = NO_HANDLES) -> Callable[[Mark], None]:
    """A function that trains a step of a rank's share of a case; it keeps parameters, states and batch.

    `handles`: torch's process groups, by the dimension of `memmodel.models.layout.Rank` along which they lie.
    """
    from memmodel_kernels.parallel.partial import sum_partial
    from memmodel_kernels.training import training_step, update_in_backward

    model, parameters = _decoder(xp, case, label, handles)
    average_gradients(model, case, handles)
    distributed = distributed_update(case, parameters, label, handles)
    updates = [distributed] if distributed else _updates(case, model, parameters, label)
    if case.in_backward:
        update_in_backward(updates)
    tokens, targets = (_indices(xp, label, name, case.batch, case.seq) for name in ("tokens", "targets"))
    batches = [(tokens, targets)] * min(case.accumulate, 2)
    after = [] if case.in_backward else updates
    low = getattr(xp, case.dtype.name) if case.autocast else None

    def after_backward() -> None:
        sum_partial(model)
        if distributed:
            distributed.reduce()

    before = {"before_backward": distributed.before_backward} if distributed else {}

    def step(mark: Mark) -> None:
        training_step(
            model, after, batches, _loss(case), mark, case.clip, case.keep_logits, low, **before,
            after_backward=after_backward,
        )  # fmt: skip

    return step


def _updates(case: ModelCase, model: Any, parameters: list[Any], label: Label) -> Any:
    from memmodel_kernels.optimizers import OPTIMIZERS
    from memmodel_kernels.training import updates_of

    optimizer = OPTIMIZERS[choice("optimizer", case.optimizer, OPTIMIZERS)]
    matrices = [x for weights in model.layers for x in weights.values() if x.requires_grad and x.dim() > 1]
    masters = case.masters and not case.layout.fully_sharded  # shards are in fp32 themselves
    updates = updates_of(optimizer, parameters, matrices, masters)
    for update in updates:
        for state in (x for kind in (*update.states, update.masters or ()) for x in kind if x is not None):
            label(state, "", OPTIMIZER)
        for total in update.sums or ():
            label(total, "", GRADIENTS)
    return updates


def generate(xp: Any, case: ModelCase, label: Label, mark: Mark, steps: int = 1) -> Any:
    """A prompt of `seq` tokens into the cache, or one token more than it holds; returns the inputs."""
    from memmodel_kernels.generation import next_token_logits

    model, _ = _decoder(xp, case, label)
    tokens = _indices(xp, label, "tokens", case.batch, case.seq if case.phase == "prefill" else 1)
    caches = [_cache(xp, case, layer, label) for layer in range(case.arch.layers)]
    for _ in range(steps):
        next_token_logits(model, tokens, caches, mark)
    return model, caches, tokens


def _cache(xp: Any, case: ModelCase, layer: int, label: Label) -> tuple[Any, Any]:
    """Keys and values of a layer, for every token that a query sees, or that a prompt writes."""
    arch, made = case.arch, []
    tokens = case.seq if case.phase == "prefill" else kept_tokens(arch, arch.kind(layer).attention, case.seq)
    with _layer(xp, layer):
        for name, heads, width in _cached(arch):
            kept = xp.zeros(case.batch, heads, tokens, width, dtype=getattr(xp, case.dtype.name))
            label(kept, f"layers.{layer}.{name}_cache", KV_CACHE)
            made.append(kept)
    return made[0], made[1]


def _cached(arch: Architecture) -> tuple[tuple[str, Dim, Dim], tuple[str, Dim, Dim]]:
    """Name, heads and channels of the two tensors that a layer caches."""
    if arch.mla:
        return ("latent", 1, arch.mla.kv_rank), ("turned", 1, arch.mla.rope)
    return ("k", arch.kv_heads, arch.head_dim), ("v", arch.kv_heads, arch.value_dim)


def _indices(xp: Any, label: Label, name: str, *shape: Dim) -> Any:
    indices = xp.zeros(*shape, dtype=getattr(xp, int64.name))
    label(indices, name, "")
    return indices


def _layer(xp: Any, layer: int | None) -> AbstractContextManager[Any]:
    """What is made inside is of a layer, where the library remembers that."""
    return xp.scope(layer) if layer is not None and hasattr(xp, "Tape") else nullcontext()


def _decoder(xp: Any, case: ModelCase, label: Label, handles: Handles = NO_HANDLES) -> tuple[Any, list[Any]]:
    """The model, and the parameters that learn."""
    from memmodel_kernels.decoder import FREQUENCIES, Decoder

    arch = case.arch
    sharder = Sharder(xp, case, handles)
    outer = _weights(xp, case, outer_weights(arch), label, sharder)
    layers = [
        _weights(xp, case, layer_weights(arch, kind), label, sharder, index) for index, kind in enumerate(arch.kinds())
    ]
    parameters = [x for weights in (outer, *layers) for x in weights.values() if x.requires_grad]
    if arch.positions == "rotary":
        turning = arch.mla.rope if arch.mla else arch.rotary_dim or arch.head_dim
        outer[FREQUENCIES] = xp.zeros(turning // 2, dtype=getattr(xp, float32.name))
        label(outer[FREQUENCIES], FREQUENCIES, PARAMETERS)
    model = Decoder(
        arch, outer, layers, _attend(case), masks_windows=case.attention == SDPA, fused_norms=case.fused_norms,
        dropout=case.dropout, recompute=case.checkpoint, adapter_dropout=case.adapter.dropout if case.adapter else 0.0,
        offload=case.offload, tensor=_tensor_parallel(case, handles), around=sharder.around,
    )  # fmt: skip
    return model, parameters


def _tensor_parallel(case: ModelCase, handles: Handles) -> Any:
    from memmodel_kernels.parallel.group import Group
    from memmodel_kernels.parallel.tensor import TensorParallel

    layout = case.layout
    if layout.tp == 1:
        return None
    handle = handles.get("tensor") or layout.peers(case.rank, "tensor")
    return TensorParallel(Group(case.rank.tensor, layout.tp, handle), layout.sequence_parallel, case.batch)


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


def _attend(case: ModelCase) -> Callable[[Any, Any, Any, LayerKind, Any], Any]:
    """Attention by the algorithm asked for, under the mask of the layer."""
    from memmodel_kernels.library_attention import library_attention, repeated

    dropout = case.attention_dropout
    if case.attention == SDPA and case.repeat_kv:
        return lambda q, k, v, kind, mask: library_attention(q, repeated(k, q), repeated(v, q), mask, dropout)
    if case.attention == SDPA:
        return lambda q, k, v, kind, mask: library_attention(q, k, v, mask, dropout)
    chosen = algorithm(case.attention)

    def run(q: Any, k: Any, v: Any, kind: LayerKind, _: Any) -> Any:
        if kind.attention == "C" and case.arch.window < case.seq:
            chunks = f"chunks of {case.arch.window} keys"
            raise UsageError(f"{chosen.name} on {chunks} is not modelled: take --attention {SDPA}")
        window = case.arch.window if kind.attention == "S" else None
        sizes = {"batch": q.shape[0], "heads": q.shape[1], "kv_heads": k.shape[1], "head_dim": q.shape[3]}
        alone = Case(
            chosen.name, **sizes, seq=q.shape[2], kv_seq=k.shape[2], value_dim=v.shape[3], dtype=case.dtype,
            dropout=dropout,
            mask=Mask(causal=True, window=window), phase="train" if case.phase == "train" else "inference",
            device=case.device,
        )  # fmt: skip
        if not (answer := supported(alone)):
            raise UsageError(answer.reason)
        return chosen.run(alone, q, k, v)

    return run
