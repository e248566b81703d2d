"""Training steps of small decoders on torch or recording tensors. `t` is either library."""

from collections.abc import Callable, Sequence
from typing import Any

from memmodel.masks import Mask
from memmodel.model.architecture import Architecture, Weight, layer_weights, outer_weights
from memmodel_kernels import checkpointed, chunked, naive
from memmodel_kernels.decoder import FREQUENCIES, Decoder
from memmodel_kernels.library_attention import library_attention
from memmodel_kernels.losses import full_loss
from memmodel_kernels.optimizers import OPTIMIZERS
from memmodel_kernels.training import training_step, update_in_backward, updates_of
from torch_events import Body

# Sizes unlike each other, so that a wrong tensor shows in its bytes.
B, N, V, H, F = 2, 11, 97, 48, 80


def llama(**changes: Any) -> Architecture:
    """Two layers of Llama: RMSNorm, rotary positions, grouped heads, SwiGLU."""
    sizes: dict[str, Any] = {"vocab": V, "layers": 2, "hidden": H, "ffn": F, "heads": 6, "kv_heads": 2, "head_dim": 8}
    return Architecture(**{"name": "small", **sizes, "value_dim": 8, **changes})


def under_mask(attention: Callable[..., Any]) -> Callable[..., Any]:
    return lambda q, k, v, kind, mask: attention(q, k, v, Mask(causal=True))


ATTENTION = {
    "sdpa": lambda q, k, v, kind, mask: library_attention(q, k, v, mask),
    "naive": under_mask(naive),
    "checkpointed": under_mask(checkpointed),
    "chunked": lambda q, k, v, kind, mask: chunked(q, k, v, Mask(causal=True), 4),
}


def weights(t: Any, listed: Sequence[Weight], dtype: str) -> dict[str, Any]:
    kind = getattr(t, dtype)
    return {weight.name: t.zeros(*weight.shape, dtype=kind).requires_grad_() for weight in listed}


def decoder(
    t: Any, arch: Architecture, dtype: str, attention: str = "sdpa", **choices: Any
) -> tuple[Decoder, list[Any]]:
    """A decoder, and its parameters."""
    outer = weights(t, outer_weights(arch), dtype)
    layers = [weights(t, layer_weights(arch, kind), dtype) for kind in arch.kinds()]
    parameters = [parameter for part in (outer, *layers) for parameter in part.values()]
    outer[FREQUENCIES] = t.zeros((arch.rotary_dim or arch.head_dim) // 2)
    return Decoder(arch, outer, layers, ATTENTION[attention], **choices), parameters


def two_steps(
    arch: Architecture, dtype: str = "float32", optimizer: str = "adamw", loss: Any = full_loss, clip: bool = False,
    micro_batches: int = 1, keep_logits: bool = False, masters: bool = False,
    in_backward: bool = False, **choices: Any,
) -> Body:  # fmt: skip
    """Two training steps, the first of which makes the optimizer's states."""

    def body(t: Any) -> None:
        model, parameters = decoder(t, arch, dtype, **choices)
        batch = t.zeros(B, N, dtype=t.int64), t.zeros(B, N, dtype=t.int64)
        matrices = [x for layer in model.layers for x in layer.values() if x.dim() > 1]
        updates = updates_of(OPTIMIZERS[optimizer], parameters, matrices, masters)
        if in_backward:
            update_in_backward(updates)
            updates = []
        for _ in range(2):
            training_step(model, updates, [batch] * micro_batches, loss, lambda _: None, clip, keep_logits)

    return body
