"""flex_attention's operator: what runs in its place, and what its functions and its block mask hold."""

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor

from memmodel.attention.masks import NO_MASK, Mask
from memmodel.rules.flex import Visits, visits
from memmodel.tracer.corrections.autocast import Autocast
from memmodel.tracer.corrections.flex import flex_attention
from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.operators import Traced
from memmodel.tracer.private.dispatch import tensors_in, without_function_modes, without_modes
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.block_masks import Counted, counted, is_causal
from memmodel.tracer.watch.modules import in_reach
from memmodel.tracer.watch.watcher import Watcher

_SDPA = torch.ops.aten.scaled_dot_product_attention.default  # whose operands autocast casts alike
_EVERYTHING = 1 << 30  # size of the one block that there is without a block mask
_LARGER = 4  # a mask is causal in letters where it is at this many times the sizes too
_CAUSAL = Mask(causal=True)
_FUSED = "flex_attention is taken as after torch.compile, one fused kernel; without it PyTorch makes all scores"
_SAMPLED = "blocks of a block mask are counted in some of its rows, at equal distances"
_ASSUMED = "what a block mask reads and has no data is taken as all alike: one document, without padding"


class Flex:
    """Serves flex_attention's operator as CUDA does."""

    def __init__(self, watcher: Watcher, autocast: Autocast) -> None:
        self.watcher = watcher
        self.autocast = autocast
        self.masks = Masks(watcher.note)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, score_mod: Any, block_mask: Any, scale: float, options: Any,
        *_: Any, **__: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The output, its log-sum-exp, and the row maxima where they are asked for."""
        (q, k, v), _named = self.autocast.cast(_SDPA, (query, key, value), {})
        self.watcher.note(_FUSED)
        captured = [x for function in (score_mod, block_mask[-1]) for _, x in in_reach(function, (Tensor,))]
        unique = list({id(x): x for x in captured}.values())
        out, lse = flex_attention(q, k, v, self._visits(q, k, block_mask), unique, tensors_in(block_mask[:-1]))
        return out, lse, torch.empty_like(lse) if options.get("OUTPUT_MAX") else lse

    def _visits(self, q: Tensor, k: Tensor, block_mask: Any) -> Visits:
        if any(isinstance(size, torch.SymInt) for size in (*q.shape, *k.shape)):
            return _in_letters(q, k, block_mask)
        return self.masks.visits(q, k, block_mask)


class Masks:
    """Counts what block masks leave; layers share a mask, which is counted once."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._known: dict[Any, Counted] = {}  # by mask function and sizes

    def visits(self, q: Tensor, k: Tensor, block_mask: Any) -> Visits:
        """Count the blocks and pairs that a block mask leaves, as flex_attention hands it to its operator."""
        rows, columns, mask = block_mask[-3:]
        if rows >= _EVERYTHING:
            return visits(NO_MASK, Traced(q), Traced(k))
        numbers, whole = block_mask[2], block_mask[4]
        b, h = map(int, numbers.shape[:2])
        key = mask, b, h, q.shape[2], k.shape[2], rows, columns
        if key not in self._known:
            self._known[key] = counted(mask, (b, h, int(q.shape[2]), int(k.shape[2])), rows, columns)
        found = self._known[key]
        self._note(_SAMPLED if found.sampled else "")
        self._note(_ASSUMED if found.assumed else "")
        blocks = _kept([x for x in (numbers, whole) if x is not None])
        blocks = found.blocks if blocks is None else blocks
        pairs = min(found.pairs, blocks * rows * columns)
        alike = q.shape[0] * q.shape[1] // (b * h)
        return Visits(alike * blocks, alike * pairs, rows, columns)


def _kept(numbers: Sequence[Tensor]) -> int | None:
    """The blocks of a mask that was made before the trace; None where its tensors have no data."""
    if any(is_fake(x) for x in numbers):
        return None
    with without_modes(), without_function_modes():
        return sum(int(x.sum()) for x in numbers)


def _in_letters(q: Tensor, k: Tensor, block_mask: Any) -> Visits:
    """The visits as expressions: without a mask, and of a causal one. Of others no formula is known: nan."""
    rows, columns, mask = block_mask[-3:]
    n, m = number(q.shape[2]), number(k.shape[2])
    if rows >= _EVERYTHING:
        return visits(NO_MASK, Traced(q), Traced(k))
    if n == m and rows == columns and is_causal(mask, _LARGER * n):
        return visits(_CAUSAL, Traced(q), Traced(k), rows, columns)
    return Visits(sympy.nan, sympy.nan)
