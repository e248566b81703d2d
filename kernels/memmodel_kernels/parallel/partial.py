"""Parameters that every rank has, and whose gradients are of a rank's own share of the work alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memmodel_kernels.decoder import Decoder
from memmodel_kernels.namespace import same_scope
from memmodel_kernels.parallel.group import Group, all_reduced

_ROWS = ("output", "ffn.down")  # row-parallel layers, after which ranks have own tokens of the residual stream
_BETWEEN = ("norm", "final_norm", "embedding_norm", "head_norm", "head_dense")
_LATENT = ("q_down.weight", "q_down.bias", "q_norm.weight", "kv_down.weight", "kv_norm.weight")
_OF_OWN_HEADS = ("q_norm.weight", "k_norm.weight")
_OF_OWN_WIDTHS = ("router.weight", "router.bias", "shared_gate.weight")  # what weighs parts of experts


def sum_partial(models: Sequence[Decoder], totals: Mapping[int, Any]) -> None:
    """Sum these gradients over the ranks that share each layer, one by one, in place.

    `totals`: by the id of a parameter, where its gradients are added up and dropped; None where ranks with other
    batches keep them, as ranks that share a layer do alike.

    As Megatron-LM does after the last backward, on one flat copy of them all
    (megatron/core/distributed/finalize_model_grads.py, _allreduce_non_tensor_model_parallel_grads).
    """
    for model in models:
        if model.tensor is not None:
            for parameter in _partial(model):
                gradient = totals.get(id(parameter), parameter.grad)
                if gradient is not None:
                    with same_scope(parameter):
                        all_reduced(gradient, model.tensor.group)


def sum_tied(models: Sequence[Decoder], group: Group, totals: Mapping[int, Any]) -> None:
    """Sum the gradients of an embedding tied to the head, of which the first and the last stage have a copy each.

    As Megatron-LM does (_allreduce_word_embedding_grads there). `totals`: as above.
    """
    for model in models:
        parameter = model.outer.get("embedding.weight")
        if parameter is not None:
            all_reduced(totals.get(id(parameter), parameter.grad), group)


def _partial(model: Decoder) -> Iterator[Any]:
    assert model.tensor is not None
    for weights in (model.outer, *model.layers):
        for name, parameter in weights.items():
            own = _OF_OWN_WIDTHS if model.arch.mla else (*_OF_OWN_HEADS, *_OF_OWN_WIDTHS)
            if parameter.requires_grad and (name in own or (model.tensor.sequence and _sees_own_tokens(name, model))):
                yield parameter


def _sees_own_tokens(name: str, model: Decoder) -> bool:
    layer, _, part = name.rpartition(".")
    if part in ("lora_a", "lora_b"):
        return (layer in _ROWS) == (part == "lora_b")
    if part == "bias" and layer in _ROWS:
        return True
    return name.startswith(_BETWEEN) or (model.arch.mla is not None and name in _LATENT)
