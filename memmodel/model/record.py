"""Recording a step of a model: its parameters, states and batch, then the step itself, as a program.

The code that runs is that of `memmodel_kernels`; here its tensors are made and named, and the choices become functions.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from memmodel import recording
from memmodel.algorithms import algorithm
from memmodel.case import Case
from memmodel.errors import UsageError, choice
from memmodel.groups import ACTIVATIONS, LOGITS, OPTIMIZER, PARAMETERS
from memmodel.masks import Mask
from memmodel.model.architecture import LayerKind, Weight, layer_weights, outer_weights
from memmodel.model.layers import Irregular, Recording, expanded, repetition
from memmodel.model.setting import ModelCase
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
        held = _train(tape, case)  # the inputs outlive the step
    del held
    return Recording.of(tape, tape.program._replace(groups=_groups(tape)))


def _train(tape: Tape, case: ModelCase) -> Any:
    """A training step; returns its inputs."""
    from memmodel_kernels.optimizers import OPTIMIZERS
    from memmodel_kernels.training import training_step

    optimizer = OPTIMIZERS[choice("optimizer", case.optimizer, OPTIMIZERS)]
    model, parameters = _decoder(tape, case)
    states = optimizer.fresh(parameters)
    for kind in states:
        tape.groups.update(dict.fromkeys((state.storage.key for state in kind), OPTIMIZER))
    batches = [_batch(tape, case)] * min(case.accumulate, 2)
    training_step(model, parameters, optimizer, states, batches, _loss(case), tape.mark, case.clip)
    return model, states, batches


def _batch(tape: Tape, case: ModelCase) -> tuple[Tensor, Tensor]:
    tokens, targets = (recording.zeros(case.batch, case.seq, dtype=recording.int64) for _ in range(2))
    tape.names |= {tokens.storage.key: "tokens", targets.storage.key: "targets"}
    return tokens, targets


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
    model = Decoder(arch, outer, layers, _attend(case), case.fused_norms, case.dropout, case.checkpoint)
    return model, parameters


def _tensors(tape: Tape, case: ModelCase, weights: list[Weight], prefix: str, learns: bool) -> dict[str, Tensor]:
    made = {}
    for weight in weights:
        made[weight.name] = tensor = recording.empty(*weight.shape, dtype=case.dtype, requires_grad=learns)
        tape.names[tensor.storage.key] = prefix + weight.name
        tape.groups[tensor.storage.key] = f"{PARAMETERS} {weight.part}"
    return made


def _loss(case: ModelCase) -> Any:
    from memmodel_kernels.losses import full_loss

    return full_loss


def _attend(case: ModelCase) -> Callable[[Tensor, Tensor, Tensor, LayerKind], Any]:
    """Attention by the algorithm asked for, under the mask of the layer."""
    if case.attention == "sdpa":
        return _sdpa
    chosen = algorithm(case.attention)

    def run(q: Tensor, k: Tensor, v: Tensor, kind: LayerKind) -> Any:
        window = case.arch.window if kind.attention == "S" else None
        sizes = {"batch": q.shape[0], "heads": q.shape[1], "kv_heads": k.shape[1], "head_dim": q.shape[3]}
        alone = Case(
            chosen.name, **sizes, seq=q.shape[2], kv_seq=k.shape[2], value_dim=v.shape[3], dtype=q.dtype,
            mask=Mask(causal=True, window=window), device=case.device,
        )  # fmt: skip
        return chosen.run(alone, q, k, v)

    return run


def _sdpa(q: Tensor, k: Tensor, v: Tensor, kind: LayerKind) -> Any:
    if kind.attention != "F":
        raise UsageError(
            "a layer with a window under scaled_dot_product_attention: choose the attention flash or naive"
        )
    return recording.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


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
