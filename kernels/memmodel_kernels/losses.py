"""Cross-entropy of the next token, from the residual stream to a number."""

from typing import Any

from memmodel_kernels.decoder import Decoder
from memmodel_kernels.namespace import functional, scope


def head_weight(model: Decoder) -> Any:
    """The weight of the head (vocabulary, hidden): the embedding's, where it is tied."""
    return model.outer["embedding.weight" if model.arch.tied else "head.weight"]


def logits_of(model: Decoder, hidden: Any) -> Any:
    """The scores (..., vocabulary) of each token that could come next."""
    logits = functional(hidden).linear(hidden, head_weight(model), model.outer.get("head.bias"))
    if "logits" in model.arch.scaled:
        logits = logits * 0.5
    if model.arch.logit_cap:
        logits = logits / model.arch.logit_cap
        logits = logits.tanh()
        logits = logits * model.arch.logit_cap
    return logits


def full_loss(model: Decoder, hidden: Any, targets: Any) -> Any:
    """The mean cross-entropy in fp32 of all logits at once (ForCausalLMLoss); hidden (b, n, h), targets (b, n)."""
    with scope(hidden, part="logits"):
        logits = logits_of(model, hidden)
        logits = logits.float()
        logits = logits.view(-1, logits.shape[-1])
        return functional(hidden).cross_entropy(logits, targets.view(-1))
