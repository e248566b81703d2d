"""A pass of generation: a prompt, or one new token, through the model into the cache."""

from collections.abc import Callable, Sequence
from typing import Any

from memmodel_kernels.decoder import Cache, Decoder, hidden_states
from memmodel_kernels.losses import logits_of
from memmodel_kernels.namespace import namespace, scope


def next_token_logits(model: Decoder, tokens: Any, caches: Sequence[Cache], mark: Callable[[str], None]) -> None:
    """The scores of the token that follows tokens (b, n), which are the last n of those that the caches hold."""
    with namespace(tokens).no_grad():
        mark("forward")
        hidden = hidden_states(model, tokens, caches)
        with scope(tokens, part="logits"):
            logits = logits_of(model, hidden[:, -1:, :])
        mark("after")
        del hidden, logits
