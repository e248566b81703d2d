"""A recorded pass of generation with its weights and its cache in fewer bits.

The program is recorded in the model's own type; here the storages of packed weights and of the cache take the bytes
that their formats take, and the kernels that read them read so much less. Products run in the model's type.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from memmodel.events.program import Alloc, Event, Launch, Program
from memmodel.models.architecture import LayerKind, Weight, layer_weights
from memmodel.models.kv_cache import kept_tokens, layer_token_bytes
from memmodel.models.quantization import packed_bytes
from memmodel.models.setting import ModelCase
from memmodel.sizes.dims import Dim


class _Changes(NamedTuple):
    """Bytes of storages by name, bytes that a product with a matrix (outputs, inputs) and attention need not read."""

    sizes: Mapping[str, Dim]
    products: Mapping[tuple[Dim, ...], Dim]
    attention: Dim


def packed(program: Program, case: ModelCase) -> Program:
    """The program with the formats that `case` gives weights and cache."""
    windowed = case.phase == "decode" and set(case.arch.pattern) != {"F"}
    if case.quantize == "none" and case.kv_cache == "auto" and not windowed:
        return program
    changes = _Changes(dict(_sizes(case)), dict(_products(case)), _of_attention(case))
    return program._replace(events=[_changed(event, program.names, changes) for event in program.events])


def _sizes(case: ModelCase) -> Iterable[tuple[str, Dim]]:
    for index, kind in enumerate(case.arch.kinds()):
        for weight in layer_weights(case.arch, kind):
            if weight.linear and case.quantize != "none":
                yield f"layers.{index}.{weight.name}", _bytes(weight, case)
        together = _cache(case, kind, case.kv_cache)
        keys = together * case.arch.head_dim // (case.arch.head_dim + case.arch.value_dim)
        yield f"layers.{index}.k_cache", keys
        yield f"layers.{index}.v_cache", together - keys


def _bytes(weight: Weight, case: ModelCase) -> Dim:
    return packed_bytes(weight, case.arch, case.quantize, case.dtype.itemsize)


def _cache(case: ModelCase, kind: LayerKind, form: str) -> Dim:
    """Bytes of a layer's cache; behind a prompt, what a window keeps is a view of all (DynamicSlidingWindowLayer)."""
    tokens = case.seq if case.phase == "prefill" else kept_tokens(case.arch, kind.attention, case.seq)
    return case.batch * tokens * layer_token_bytes(case.arch, form, case.dtype.itemsize)


def _products(case: ModelCase) -> Iterable[tuple[tuple[Dim, ...], Dim]]:
    if case.quantize == "none":
        return
    for kind in dict.fromkeys(case.arch.kinds()):
        for weight in layer_weights(case.arch, kind):
            if weight.linear:
                yield weight.shape[-2:], weight.numel * case.dtype.itemsize - _bytes(weight, case)


def _of_attention(case: ModelCase) -> Dim:
    """Bytes of the cache that a layer's attention is spared while decoding; all layers are taken to see all keys."""
    if case.phase != "decode" or case.kv_cache == "auto":
        return 0
    kind = next((kind for kind in case.arch.kinds() if kind.attention == "F"), case.arch.kind(0))
    return _cache(case, kind, "auto") - _cache(case, kind, case.kv_cache)


def _changed(event: Event, names: Mapping[int, str], changes: _Changes) -> Event:
    if isinstance(event, Alloc):
        nbytes = changes.sizes.get(names.get(event.key, ""))
        return event if nbytes is None else event._replace(nbytes=nbytes)
    if not isinstance(event, Launch):
        return event
    less = changes.attention if event.kind == "fused" else 0
    # A product of one matrix is a linear layer's; batched ones are attention's, whose operands are not packed.
    if event.kind == "gemm" and event.sizes[0] == 1:
        less = changes.products.get((event.sizes[2], event.sizes[3]), 0)
    if not less or less >= event.work.read:
        return event
    return event._replace(work=event.work._replace(read=event.work.read - less), needed=None)
