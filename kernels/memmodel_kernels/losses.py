"""Cross-entropy of the next token, or of masked ones: from the residual stream (b, n, hidden) and targets (b, n).

Each loss returns a number and the logits, or None where these do not exist as a whole.
"""

from functools import cache
from typing import Any

from memmodel_kernels.decoder import Decoder
from memmodel_kernels.feed_forward import activated
from memmodel_kernels.kernel import kernel
from memmodel_kernels.namespace import checkpoint, functional, namespace, scope
from memmodel_kernels.parallel.group import all_reduced
from memmodel_kernels.parallel.vocabulary import cross_entropy, gradient_in_place

_PART = "logits"


def head_weight(model: Decoder) -> Any:
    """The weight of the head (vocabulary, hidden): the embedding's, where it is tied."""
    return model.outer["embedding.weight" if model.arch.tied else "head.weight"]


def before_head(model: Decoder, hidden: Any) -> Any:
    """The operand of the head: the residual stream; in BERT, after a linear layer, activation and norm.

    Of images, the class token alone, which one of the ranks that share tokens has.
    """
    if model.arch.patches:
        return (hidden if model.tensor is None else model.tensor.entered(hidden))[:, 0, :]
    if "output" in model.arch.scaled:
        hidden = hidden * 0.5  # any factor
    if not model.arch.head_dense:
        return hidden
    hidden = activated(model.linear(hidden, model.outer, "head_dense"), model.arch.activation)
    return model.norm(hidden, model.outer, "head_norm")


def logits_of(model: Decoder, hidden: Any) -> Any:
    """The scores (..., vocabulary) of each token that could come next, or be the masked one."""
    hidden = before_head(model, hidden)
    weight, bias = head_weight(model), model.outer.get("head.bias")
    if model.tensor is None or model.arch.patches:
        logits = functional(hidden).linear(hidden, weight, bias)
    else:
        (logits,) = model.tensor.columns(hidden, [(weight, None)])
        logits = logits if bias is None else logits + bias  # as Megatron-LM's linear layers add it
    if "logits" in model.arch.scaled:
        logits = logits * 0.5
    if model.arch.logit_cap:
        # Each step frees the one before it, as in transformers' classes, where they have one name.
        logits = logits / model.arch.logit_cap
        logits = logits.tanh()
        logits = logits * model.arch.logit_cap
    return logits


def full_loss(model: Decoder, hidden: Any, targets: Any) -> tuple[Any, Any]:
    """All logits at once, in fp32 where the class makes them so (ForCausalLMLoss of transformers)."""
    if _compiled(model):
        return in_place_loss(model, hidden, targets)
    with scope(hidden, part=_PART):
        logits = logits_of(model, hidden)
        # The upcast makes a second copy of all logits, beside those that the caller has in the output.
        return _entropy(model, logits.float() if model.arch.wide_logits else logits, targets), logits


def native_loss(model: Decoder, hidden: Any, targets: Any) -> tuple[Any, Any]:
    """All logits at once, in the dtype of the model."""
    if _compiled(model):
        return in_place_loss(model, hidden, targets)
    with scope(hidden, part=_PART):
        logits = logits_of(model, hidden)
        return _entropy(model, logits, targets), logits


def parallel_loss(model: Decoder, hidden: Any, targets: Any) -> tuple[Any, Any]:
    """All logits at once, in fp32, as PyTorch's loss_parallel of a vocabulary that ranks share."""
    with scope(hidden, part=_PART):
        logits = logits_of(model, hidden)
        wide = logits.float().view(-1, logits.shape[-1])
        assert model.tensor is not None
        return cross_entropy(wide, targets.reshape(-1), model.tensor.group, in_place=False), logits


def _compiled(model: Decoder) -> bool:
    """Whether the cross-entropy is one kernel; that of a shared vocabulary has collectives within."""
    return model.compiled and not model.eager_loss and model.tensor is None


def _entropy(model: Decoder, logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """The cross-entropy of all tokens; of a rank's share of the vocabulary, with the ranks that have the others."""
    logits = logits.view(-1, logits.shape[-1])
    targets = targets.reshape(-1)
    if model.tensor is not None:
        return cross_entropy(logits, targets, model.tensor.group, reduction)
    return functional(logits).cross_entropy(logits, targets, reduction=reduction)


def in_place_loss(model: Decoder, hidden: Any, targets: Any) -> tuple[Any, Any]:
    """All logits at once, in the dtype of the model; their gradient is written over them (Liger Kernel).

    So does a cross-entropy that torch.compile made, whose backward has the logits for itself; and TransformerEngine's
    of a vocabulary that ranks share.
    """
    with scope(hidden, part=_PART):
        logits = logits_of(model, hidden)
        group = model.tensor and model.tensor.group
        return cross_entropy_in_place(logits.view(-1, logits.shape[-1]), targets.reshape(-1), group), logits


def cross_entropy_in_place(logits: Any, targets: Any, group: Any = None) -> Any:
    """The mean of the cross-entropy of logits (rows, vocabulary), whose gradient takes their place in forward.

    After Liger Kernel's ops/cross_entropy.py, which keeps no more than a loss in fp32 a row. `group`: of the ranks that
    share the vocabulary.
    """
    return _in_place(namespace(logits)).apply(logits, targets, group)


def _gradient_in_place(logits: Any, targets: Any, losses: Any, group: Any, count: Any) -> None:
    if group is not None:
        gradient_in_place(logits, targets, losses, group, count)
        return
    # Alone it stands for the library's kernel: what that computes is not asked for.
    with kernel("cross_entropy", reads=(logits, targets), writes=(logits, losses)):
        pass


@cache
def _in_place(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class CrossEntropyInPlace(base):  # type: ignore[misc]
        """Cross-entropy that makes its gradient in forward."""

        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any, group: Any) -> Any:
            losses = logits.new_zeros(logits.shape[0], dtype=xp.float32)
            _gradient_in_place(logits, targets, losses, group, logits.shape[0])
            ctx.save_for_backward(logits)
            return losses.sum()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            # The gradient of the loss itself is 1, by which Liger does not multiply.
            return ctx.saved_tensors[0], None, None

    return CrossEntropyInPlace


def chunked_loss(model: Decoder, hidden: Any, targets: Any, chunks: int = 8) -> tuple[Any, Any]:
    """Logits of one of `chunks` parts of the tokens at a time, computed again in backward."""
    with scope(hidden, part=_PART):
        total: Any = 0
        for part, wanted in zip(hidden.chunk(chunks, 1), targets.chunk(chunks, 1), strict=True):
            total = total + checkpoint(_summed, part, model, wanted)
        # Any divisor: it stands for the number of tokens.
        return total / 2.0, None


def _summed(hidden: Any, model: Decoder, targets: Any) -> Any:
    return _of_logits(logits_of(model, hidden), model, targets)


def _of_logits(logits: Any, model: Decoder, targets: Any) -> Any:
    if _compiled(model):
        return cross_entropy_in_place(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
    return _entropy(model, logits.float(), targets, "sum")


def chunked_logits_loss(model: Decoder, hidden: Any, targets: Any, chunks: int = 8) -> tuple[Any, Any]:
    """The logits of all tokens, in `chunks` parts; of each part the cross-entropy in fp32, computed again in backward.

    After torchtune's CEWithChunkedOutputLoss, whose parts are compiled and keep no more than their logits.
    """
    with scope(hidden, part=_PART):
        parts = [logits_of(model, part) for part in hidden.chunk(chunks, 1)]
        total: Any = 0
        for logits, wanted in zip(parts, targets.chunk(chunks, 1), strict=True):
            # Recomputed, so that backward too upcasts one part at a time.
            part = (logits, model, wanted)
            total = total + (_of_logits(*part) if _compiled(model) else checkpoint(_of_logits, *part))
        return total / 2.0, None


def fused_loss(model: Decoder, hidden: Any, targets: Any) -> tuple[Any, Any]:
    """The head and its loss in one function, whose gradients are made in forward, a chunk of tokens at a time.

    After Liger Kernel (fused_linear_cross_entropy): the gradient of the logits is written over them. A chunk has as
    many tokens as make its logits no larger than the residual stream, up to a power of two. Of a vocabulary that ranks
    share, each has its part of the logits of a chunk.
    """
    with scope(hidden, part=_PART):
        rows = before_head(model, hidden).view(-1, hidden.shape[-1])
        weight, bias = head_weight(model), model.outer.get("head.bias")
        return _function(namespace(hidden)).apply(rows, weight, bias, targets.view(-1), model.tensor), None


def chunk_rows(rows: int, width: int, vocabulary: int) -> int:
    """Tokens of a chunk of the fused loss."""
    # inc_factor and chunk_size of Liger's ops/fused_linear_cross_entropy.py.
    wanted = -(-rows // -(-vocabulary // width))
    return min(rows, 1 << (wanted - 1).bit_length())


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class FusedLinearCrossEntropy(base):  # type: ignore[misc]
        """Cross-entropy of x W^T + bias, with the gradients of x, W and bias."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, targets: Any, tensor: Any) -> Any:
            if tensor is not None and tensor.sequence:
                x = tensor.gathered(x[None]).view(-1, x.shape[-1])
            of_x = xp.zeros_like(x)
            of_weight = xp.zeros_like(weight) if ctx.needs_input_grad[1] else None
            of_bias = None if bias is None else xp.zeros_like(bias)
            losses = x.new_zeros(x.shape[0], dtype=xp.float32)
            rows = chunk_rows(x.shape[0], x.shape[1], weight.shape[0])
            buffer = x.new_empty(rows, weight.shape[0])
            for start in range(0, x.shape[0], rows):
                part = x[start : start + rows]
                logits = buffer[: part.shape[0]]
                logits.addmm_(part, weight.t(), beta=0)
                if bias is not None:
                    logits.add_(bias)
                places = slice(start, start + part.shape[0])
                _gradient_in_place(logits, targets[places], losses[places], tensor and tensor.group, x.shape[0])
                of_x[start : start + rows].addmm_(logits, weight, beta=0)
                if of_weight is not None:
                    of_weight.addmm_(logits.t(), part)
                if of_bias is not None:
                    of_bias.add_(logits.sum(0))
            del buffer, logits
            if tensor is not None and tensor.sequence:
                of_x = tensor.scattered(of_x)[0]
            elif tensor is not None:
                all_reduced(of_x, tensor.group)
            # The gradients themselves: backward has nothing left to compute.
            ctx.save_for_backward(of_x, *(x for x in (of_weight, of_bias) if x is not None))
            ctx.has_weight, ctx.has_bias = of_weight is not None, of_bias is not None
            return losses.sum()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            of_x, *rest = ctx.saved_tensors
            of_bias = rest.pop() if ctx.has_bias else None
            return of_x, rest.pop() if ctx.has_weight else None, of_bias, None, None

    return FusedLinearCrossEntropy


IN_CHUNKS = {"chunked": chunked_loss, "chunked-logits": chunked_logits_loss}
LOSSES = {
    **{"full": full_loss, "native": native_loss, "in-place": in_place_loss},
    **IN_CHUNKS,
    "fused": fused_loss,
    "loss-parallel": parallel_loss,
}
