"""Parameters that every rank has, and whose gradients are of a rank's own share of the work alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memmodel_kernels.decoder import Decoder
from memmodel_kernels.namespace import same_scope
from memmodel_kernels.parallel.group import Group, all_reduced

_AFTER_SUMS = ("output.bias", "ffn.down.bias")  # added to own tokens of the residual stream
# Of own heads, and of own part of the experts' widths.
_OF_OWN_PART = ("q_norm.weight", "k_norm.weight", "router.weight", "router.bias", "shared_gate.weight")


def sum_partial(models: Sequence[Decoder], totals: Mapping[int, Any]) -> None:
    """Sum these gradients over the ranks that share each layer, one by one, in place.

    `totals`: by the id of a parameter, where its gradients are added up and dropped.

    As Megatron-LM does after the last backward, on one flat copy of them all
    (megatron/core/distributed/finalize_model_grads.py, _allreduce_non_tensor_model_parallel_grads).
    """
    for model in models:
        if model.tensor is not None:
            for parameter in _partial(model):
                with same_scope(parameter):
                    gradient = totals.get(id(parameter), parameter.grad)
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
            if name in _OF_OWN_PART or (model.tensor.sequence and _sees_own_tokens(name)):
                yield parameter


def _sees_own_tokens(name: str) -> bool:
    return name.startswith(("norm", "final_norm")) or name in _AFTER_SUMS
