"""The cache of keys and values: bytes for the tokens of a sequence, by kind of layer and format.

A layer that sees all keys keeps every token; one with a window or chunks of W keys keeps at most W; latent attention
keeps one latent and one rotary key for all heads. Source of the formats: vllm v1/kv_cache_interface.py.
"""

from collections.abc import Callable

from memmodel.models.architecture import Architecture
from memmodel.sizes.dims import Dim, minimum

# Bytes of `channels` of a head's key or value, or of a latent, by format; "auto" is the model's own type.
FORMATS: dict[str, Callable[[Dim, int], Dim]] = {
    "auto": lambda channels, itemsize: channels * itemsize,
    "fp16": lambda channels, itemsize: 2 * channels,
    "fp8": lambda channels, itemsize: channels,
    "fp8-token": lambda channels, itemsize: channels + 4,  # a scale for each token and head
    "nvfp4": lambda channels, itemsize: channels // 2 + channels // 16,
}
_SPARSE_MLA = 656  # bytes a layer of "fp8-mla": 512 in fp8, 16 of scales, 64 rotary channels in 16 bits
NAMES = (*FORMATS, "fp8-mla")


def kept_tokens(arch: Architecture, attention: str, tokens: Dim) -> Dim:
    """The tokens that a layer keeps of a sequence's `tokens`."""
    return tokens if attention == "F" else minimum(tokens, arch.window)


def layer_token_bytes(arch: Architecture, kv_cache: str = "auto", itemsize: int = 2) -> Dim:
    """Bytes of one token in one layer."""
    if arch.mla is not None:
        if kv_cache == "fp8-mla":
            return _SPARSE_MLA
        return FORMATS[kv_cache](arch.mla.kv_rank + arch.mla.rope, itemsize)
    form = FORMATS[kv_cache]
    return arch.kv_heads * (form(arch.head_dim, itemsize) + form(arch.value_dim, itemsize))


def cache_bytes(arch: Architecture, tokens: Dim, kv_cache: str = "auto", itemsize: int = 2, read: Dim = 0) -> Dim:
    """Bytes of a sequence of `tokens` in all layers, and of the `read` tokens of an encoder before them."""
    each = layer_token_bytes(arch, kv_cache, itemsize)
    kinds = [kind.attention for kind in arch.kinds()]
    total: Dim = arch.layers * each * read
    for kind in dict.fromkeys(kinds):
        total = total + kinds.count(kind) * each * kept_tokens(arch, kind, tokens)
    return total
