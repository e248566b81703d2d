"""An embedding and a cross-entropy whose vocabulary ranks share, after Megatron-LM.

Rank r has the rows from r·V/ranks on. Sources: megatron/core/tensor_parallel/layers.py (VocabParallelEmbedding) and
cross_entropy.py (VocabParallelCrossEntropy), whose softmax is computed in place of the logits' copy; PyTorch's
loss_parallel (torch/distributed/tensor/parallel/loss.py), which writes over nothing; and TransformerEngine's (2.11,
transformer_engine/pytorch/triton/cross_entropy.py), whose gradient takes the place of the logits.
"""

from functools import cache
from typing import Any

from memmodel_kernels.kernel import fused
from memmodel_kernels.namespace import functional, namespace
from memmodel_kernels.parallel.group import Group, all_gathered, all_reduced


def _local(indices: Any, group: Group, rows: int) -> tuple[Any, Any]:
    """Indices among this rank's rows, 0 for those of other ranks; and whether they are of others."""
    first = group.rank * rows
    outside = (indices < first) | (indices >= first + rows)
    return (indices - first).masked_fill(outside, 0), outside


def embedded(tokens: Any, weight: Any, group: Group) -> Any:
    """The rows (b, n, hidden) of the tokens that this rank has, zeros for the others: their sum is the embedding."""
    local, outside = _local(tokens, group, weight.shape[0])
    return functional(tokens).embedding(local, weight).masked_fill(outside.unsqueeze(-1), 0.0)


def cross_entropy(logits: Any, targets: Any, group: Group, reduction: str = "mean", in_place: bool = True) -> Any:
    """Cross-entropy of this rank's logits (rows, V/ranks), which may be overwritten, and targets (rows)."""
    make = _function if in_place else _parallel
    losses = make(namespace(logits)).apply(logits, targets, group)
    return losses.mean() if reduction == "mean" else losses.sum()


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class VocabularyParallelCrossEntropy(base):  # type: ignore[misc]
        """The loss of each row; keeps the softmax, in the place of the logits."""

        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any, group: Group) -> Any:
            # Each row's maximum, sum and wanted logit take one small all-reduce each: no rank sees the others' logits.
            logits.sub_(all_reduced(logits.amax(-1), group, "MAX").unsqueeze(-1))
            local, outside = _local(targets, group, logits.shape[-1])
            wanted = logits.gather(1, local.unsqueeze(1)).squeeze(1).masked_fill(outside, 0.0)
            all_reduced(wanted, group)
            exponentials = logits.exp_()
            total = all_reduced(exponentials.sum(-1), group)
            losses = total.log() - wanted
            exponentials.div_(total.unsqueeze(-1))
            ctx.save_for_backward(exponentials, local, outside)
            return losses

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            softmax, local, outside = ctx.saved_tensors
            rows = xp.arange(local.shape[0], device=local.device)
            # One is taken off the target's probability, on the rank that has it.
            wanted = softmax.gather(1, local.unsqueeze(1)).squeeze(1) - (~outside).to(softmax.dtype)
            softmax.index_put_((rows, local), wanted)
            return softmax.mul_(grad.unsqueeze(-1)), None, None

    return VocabularyParallelCrossEntropy


@cache
def _parallel(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class LossParallel(base):  # type: ignore[misc]
        """The loss of each row; keeps the logarithm of the softmax."""

        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any, group: Group) -> Any:
            shifted = logits - all_reduced(logits.amax(-1), group, "MAX").unsqueeze(-1)
            total = all_reduced(shifted.exp().sum(-1), group)
            logarithms = shifted - total.log().unsqueeze(-1)
            del shifted
            local, outside = _local(targets, group, logits.shape[-1])
            wanted = logarithms.gather(1, local.unsqueeze(1)).squeeze(1).masked_fill(outside, 0.0)
            ctx.save_for_backward(logarithms, local, outside)
            return all_reduced(wanted, group) * -1.0

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            logarithms, local, outside = ctx.saved_tensors
            taken = xp.zeros_like(logarithms)
            rows = xp.arange(local.shape[0], device=local.device)
            taken.index_put_((rows, local), outside.to(taken.dtype) - 1.0)
            return (taken + logarithms.exp()) * grad.unsqueeze(-1), None, None

    return LossParallel


def gradient_in_place(logits: Any, targets: Any, losses: Any, group: Group, count: Any) -> None:
    """Write the gradient of the mean of `count` rows' cross-entropies over logits (rows, V/ranks); add to `losses`.

    The ranks tell each other of every row the largest of their logits, the sum of exponentials, and the wanted one.
    """
    xp = namespace(logits)
    own = logits.new_zeros(3, logits.shape[0], dtype=xp.float32)

    def of_share() -> None:
        wide, (local, outside) = logits.float(), _local(targets, group, logits.shape[-1])
        largest, wanted = wide.amax(-1), wide.gather(1, local[:, None]).squeeze(1)
        sums = (wide - largest[:, None]).exp().sum(-1)
        own.copy_(xp.stack((largest, sums, wanted.masked_fill(outside, float("-inf")))))

    fused("online_softmax", (logits, targets), (own,), of_share)
    known = all_gathered(own, group)

    def of_all() -> None:
        largest, sums, wanted = known.view(group.size, 3, -1).unbind(1)
        top = largest.amax(0)
        total = (sums * (largest - top).exp()).sum(0)
        losses.copy_((total.log() + top - wanted.amax(0)) / count)
        softmax = (logits.float() - top[:, None]).exp() / total[:, None]
        local, outside = _local(targets, group, logits.shape[-1])
        logits.copy_(softmax.scatter_add(1, local[:, None], outside.to(softmax.dtype)[:, None] - 1) / count)

    fused("cross_entropy", (logits, targets, known), (logits, losses), of_all)
