"""Recording a step of a model: its parameters, states and batch, then the step itself, as a program.

The code that runs is that of `memmodel_kernels`; here its tensors are made and named, and the choices become functions.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from memmodel import recording
from memmodel.algorithms import algorithm
from memmodel.case import Case
from memmodel.dims import Dim
from memmodel.errors import UsageError, choice
from memmodel.groups import ACTIVATIONS, GRADIENTS, KV_CACHE, LOGITS, OPTIMIZER, PARAMETERS
from memmodel.masks import Mask
from memmodel.model.architecture import LayerKind, Weight, layer_weights, outer_weights
from memmodel.model.layers import Irregular, Recording, expanded, repetition
from memmodel.model.setting import SDPA, ModelCase
from memmodel.program import Alloc, Program, Save
from memmodel.recording import Tape, Tensor


def record(case: ModelCase) -> Program:
    """The program of a step in the steady state, with the optimizer's states among its inputs.

    Few layers are recorded, and repeated, where the rest are like them.
    """
    layers, repeats = case.arch.layers, repetition(case.arch.kinds())
    fewest = repeats.fewest(layers)
    if layers > fewest + repeats.period:
        few, more = (_recorded(_with_layers(case, count)) for count in (fewest, fewest + repeats.period))
        with suppress(Irregular):
            return expanded(few, more, repeats, (layers - fewest) // repeats.period)
    return record_in_full(case)


def record_in_full(case: ModelCase) -> Program:
    """The program of a step, every layer of it run."""
    return _recorded(case).program


def _with_layers(case: ModelCase, layers: int) -> ModelCase:
    return replace(case, arch=replace(case.arch, layers=layers))


def _recorded(case: ModelCase) -> Recording:
    with Tape(case.device, sites=False) as tape:
        tape.mark("inputs")
        run = _train if case.phase == "train" else _generate
        held = run(tape, case)  # the inputs outlive the step
    del held
    return Recording.of(tape, tape.program._replace(groups=_groups(tape)))


def _train(tape: Tape, case: ModelCase) -> Any:
    """A training step; returns its inputs."""
    from memmodel_kernels.optimizers import OPTIMIZERS
    from memmodel_kernels.training import training_step, update_in_backward, updates_of

    optimizer = OPTIMIZERS[choice("optimizer", case.optimizer, OPTIMIZERS)]
    model, parameters = _decoder(tape, case)
    matrices = [x for weights in model.layers for x in weights.values() if x.dim() > 1]
    updates = updates_of(optimizer, parameters, matrices, case.masters)
    for update in updates:
        states = [x for kind in (*update.states, update.masters or ()) for x in kind if x is not None]
        tape.groups.update((state.storage.key, OPTIMIZER) for state in states)
        tape.groups.update((total.storage.key, GRADIENTS) for total in update.sums or ())
    if case.in_backward:
        update_in_backward(updates)
    tokens, targets = (_indices(tape, name, case.batch, case.seq) for name in ("tokens", "targets"))
    batches = [(tokens, targets)] * min(case.accumulate, 2)
    after = [] if case.in_backward else updates
    training_step(model, after, batches, _loss(case), tape.mark, case.clip, case.keep_logits)
    return model, updates, batches


def _generate(tape: Tape, case: ModelCase) -> Any:
    """A prompt of `seq` tokens into the cache, or one token more than it holds; returns the inputs."""
    from memmodel_kernels.generation import next_token_logits

    if case.arch.mla is not None:
        raise UsageError(f"{case.phase} with latent attention is not modelled yet: take --phase train")
    model, _ = _decoder(tape, case)
    tokens = _indices(tape, "tokens", case.batch, case.seq if case.phase == "prefill" else 1)
    caches = [_cache(tape, case, layer) for layer in range(case.arch.layers)]
    next_token_logits(model, tokens, caches, tape.mark)
    return model, caches, tokens


def _cache(tape: Tape, case: ModelCase, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer, for every token of the sequences."""
    arch, made = case.arch, []
    with recording.scope(layer):
        for name, width in (("k", arch.head_dim), ("v", arch.value_dim)):
            made.append(kept := recording.empty(case.batch, arch.kv_heads, case.seq, width, dtype=case.dtype))
            tape.names[kept.storage.key], tape.groups[kept.storage.key] = f"layers.{layer}.{name}_cache", KV_CACHE
    return made[0], made[1]


def _indices(tape: Tape, name: str, *shape: Dim) -> Tensor:
    indices = recording.zeros(*shape, dtype=recording.int64)
    tape.names[indices.storage.key] = name
    return indices


def _decoder(tape: Tape, case: ModelCase) -> tuple[Any, list[Tensor]]:
    """The model, and the parameters that learn."""
    from memmodel_kernels.decoder import FREQUENCIES, Decoder

    arch, learns = case.arch, case.phase == "train"
    outer = _tensors(tape, case, outer_weights(arch), "", learns)
    layers = []
    for index, kind in enumerate(arch.kinds()):
        with recording.scope(index):
            layers.append(_tensors(tape, case, layer_weights(arch, kind), f"layers.{index}.", learns))
    parameters = [tensor for weights in (outer, *layers) for tensor in weights.values()]
    if arch.positions == "rotary":
        outer[FREQUENCIES] = buffer = recording.empty((arch.rotary_dim or arch.head_dim) // 2)
        tape.names[buffer.storage.key], tape.groups[buffer.storage.key] = FREQUENCIES, PARAMETERS
    model = Decoder(
        arch, outer, layers, _attend(case), case.attention == SDPA, case.fused_norms, case.dropout, case.checkpoint
    )
    return model, parameters


def _tensors(tape: Tape, case: ModelCase, weights: list[Weight], prefix: str, learns: bool) -> dict[str, Tensor]:
    made = {}
    for weight in weights:
        made[weight.name] = tensor = recording.empty(*weight.shape, dtype=case.dtype, requires_grad=learns)
        tape.names[tensor.storage.key] = prefix + weight.name
        tape.groups[tensor.storage.key] = f"{PARAMETERS} {weight.part}"
    return made


def _loss(case: ModelCase) -> Any:
    from memmodel_kernels.losses import LOSSES, chunked_loss

    if case.loss == "chunked":
        return partial(chunked_loss, chunks=case.chunks)
    return LOSSES[choice("loss", case.loss, LOSSES)]


def _attend(case: ModelCase) -> Callable[[Tensor, Tensor, Tensor, LayerKind, Any], Any]:
    """Attention by the algorithm asked for, under the mask of the layer."""
    from memmodel_kernels.library_attention import library_attention

    if case.attention == SDPA:
        return lambda q, k, v, kind, mask: library_attention(q, k, v, mask)
    chosen = algorithm(case.attention)

    def run(q: Tensor, k: Tensor, v: Tensor, kind: LayerKind, _: Any) -> Any:
        if kind.attention == "C" and case.arch.window < case.seq:
            chunks = f"chunks of {case.arch.window} keys"
            raise UsageError(f"{chosen.name} on {chunks} is not modelled: take --attention {SDPA}")
        window = case.arch.window if kind.attention == "S" else None
        sizes = {"batch": q.shape[0], "heads": q.shape[1], "kv_heads": k.shape[1], "head_dim": q.shape[3]}
        alone = Case(
            chosen.name, **sizes, seq=q.shape[2], kv_seq=k.shape[2], value_dim=v.shape[3], dtype=q.dtype,
            mask=Mask(causal=True, window=window), device=case.device,
        )  # fmt: skip
        return chosen.run(alone, q, k, v)

    return run


def _groups(tape: Tape) -> dict[int, str]:
    """What storages belong to: as said when they were made, else by the part of the model that made them."""
    saved = {event.key for event in tape.events if type(event) is Save}
    groups = dict(tape.groups)
    starts = [*tape.scopes, (len(tape.events), tape.scope)]
    for (first, scope), (end, _) in pairwise(starts):
        for event in tape.events[first:end] if scope.part else ():
            if type(event) is Alloc and tape.gradients.get(event.key) not in tape.names:
                if scope.part == LOGITS:
                    groups[event.key] = LOGITS
                elif event.key in saved:
                    groups[event.key] = f"{ACTIVATIONS} {scope.part}"
    return groups
