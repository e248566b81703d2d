"""A pass without gradients: a prompt, or one new token, into the cache; or whole sequences through an encoder."""

from collections.abc import Callable, Sequence
from typing import Any

from memmodel_kernels.decoder import Cache, Decoder, encoded, hidden_states
from memmodel_kernels.losses import logits_of
from memmodel_kernels.namespace import namespace, scope


def next_token_logits(
    model: Decoder, tokens: Any, caches: Sequence[Cache], mark: Callable[[str], None], source: Any = None
) -> None:
    """The scores of the token that follows tokens (b, n), which are the last n of those that the caches hold, or begin.

    Classes with an encoder, which reads `source` in front of a prompt, score every token of it.
    """
    with namespace(tokens).no_grad():
        mark("forward")
        read = encoded(model, source)
        hidden = hidden_states(model, tokens, caches, read=read)
        with scope(tokens, part="logits"):
            logits = logits_of(model, hidden if model.encoder else hidden[:, -1:, :])
        mark("after")
        del read, hidden, logits


def all_logits(model: Decoder, tokens: Any, mark: Callable[[str], None]) -> None:
    """The scores of every token of (b, n), by a model without a cache."""
    with namespace(tokens).no_grad():
        mark("forward")
        hidden = hidden_states(model, tokens)
        with scope(tokens, part="logits"):
            logits = logits_of(model, hidden)
        mark("after")
        del hidden, logits
