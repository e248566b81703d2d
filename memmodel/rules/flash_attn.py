"""The flash-attn package, version 2, on recording tensors: `flash_attn_func` as its Python and C++ code run it.

Tensors are (batch, length, heads, head dim); of `flash_attn_varlen_func` they are (tokens, heads, head dim), where
sequences lie behind one another. Sources: Dao-AILab/flash-attention v2.8.3, flash_attn/flash_attn_interface.py
(FlashAttnFunc, FlashAttnVarlenFunc) and csrc/flash_attn/flash_api.cpp (mha_fwd, mha_bwd, mha_varlen_fwd,
mha_varlen_bwd).
"""

from typing import Any, NamedTuple

from memmodel.attention.masks import Mask
from memmodel.base.dtypes import bfloat16, float16, float32, int64
from memmodel.base.errors import UsageError
from memmodel.rules.dispatch import aten, several
from memmodel.rules.flash_buffers import (
    LARGE_SHARED_MEMORY,
    ROWS,
    Sizes,
    gradient_sums,
    grid,
    row_dots,
    seen,
    split_outputs,
    summed_heads,
    width_of,
)
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, rule
from memmodel.rules.pointwise import kept_strides
from memmodel.sizes.dims import Dim, hint, same
from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor

_FORWARD, _BACKWARD = "flash_attn_forward", "flash_attn_backward"


class Packed(NamedTuple):
    """The number of sequences in packed tensors, and their length in queries and keys.

    `lengths`: the length of each sequence, where these differ; `queries` and `keys` are then the longest.
    """

    sequences: Dim
    queries: Dim
    keys: Dim
    lengths: tuple[int, ...] = ()

    def pairs(self, mask: Mask) -> Dim:
        """Unmasked pairs of a head, of all sequences together."""
        if self.lengths:
            return sum(mask.pairs(length, length) for length in self.lengths)
        return self.sequences * mask.pairs(self.queries, self.keys)


def sizes_of(q: Any, k: Any, packed: Packed | None) -> Sizes:
    """The sizes of a call, from (batch, length, heads, head dim) or packed tensors."""
    *_, h, d = q.shape
    b, n, m = (q.shape[0], q.shape[1], k.shape[1]) if packed is None else packed[:3]
    return Sizes(b, h, k.shape[-2], n, m, d, width_of(q))


@makes(_FORWARD)
def _made(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> list[Spec]:
    """The output like the queries, its log-sum-exp, the random generator's state."""
    *outer, n, h, _d = q.shape
    return [Spec(q.shape, q.dtype, kept_strides(q)), Spec((*outer, h, n), float32), Spec((2,), int64)]


@rule(_FORWARD)
def forward(call: Call) -> Steps:
    """One kernel, and one more that adds up what splits of the keys left."""
    yield RESULTS
    q, k, v = call.args[:3]
    mask, packed = call.named["mask"], call.named["packed"]
    sizes = sizes_of(q, k, packed)
    # seqlenq_ngroups_swapped makes rows of a group's heads: a window counts rows, slopes differ by head, so with
    # either nothing is swapped. Packed sequences split their keys only when swapped (mha_varlen_fwd).
    swaps = mask.window is None and not call.named["slopes"]
    if not call.named["dropout_p"] and (packed is None or (swaps and sizes.decoding is not sizes)):
        yield from split_outputs(sizes.decoding if swaps else sizes, call.device)
    pairs = sizes.h * _pairs(mask, sizes, packed)
    reads = seen(call.tensors(), k, v, mask, sizes.n)
    yield kernel(
        "flash_attention", reads, call.results, q.dtype, matmul=4 * pairs * sizes.d, exp=pairs, kind="fused",
        sizes=_grid(sizes, pairs, packed, mask),
    )  # fmt: skip


def _grid(sizes: Sizes, pairs: Dim, packed: Packed | None, mask: Mask) -> tuple[Dim, ...]:
    if packed is not None:  # whose rows are of sequences of unlike lengths
        return ()
    keys = sizes.m if mask.window is None else mask.window
    return grid(sizes.b * sizes.h, sizes.n, keys, sizes.d, pairs)


def _pairs(mask: Mask, sizes: Sizes, packed: Packed | None) -> Dim:
    """Unmasked pairs of a head over the batch."""
    return sizes.b * mask.pairs(sizes.n, sizes.m) if packed is None else packed.pairs(mask)


@makes(_BACKWARD)
def _row_dots(grad: Any, q: Any, *_: Any, packed: Packed | None, **__: Any) -> Spec:
    if packed is None:
        return Spec(row_dots(q.shape[0], q.shape[2], q.shape[1]), float32)
    return Spec((q.shape[1], _padded_tokens(q, packed)), float32)


def _padded_tokens(q: Any, packed: Packed) -> Dim:
    """Rows of accumulators: a block of rows more for each sequence, so that each may be rounded up."""
    return q.shape[0] + ROWS * packed.sequences


@rule(_BACKWARD)
def backward(call: Call) -> Steps:
    """dQ, dK and dV into tensors that are there already; returns the row dots, which nobody keeps."""
    q, k, v = call.args[1:4]
    mask, packed, deterministic = (call.named[name] for name in ("mask", "packed", "deterministic"))
    sizes = sizes_of(q, k, packed)
    tokens = None if packed is None else (_padded_tokens(q, packed), k.shape[0])
    yield RESULTS
    yield from gradient_sums(sizes, q.dtype, call.device, deterministic, tokens)
    pairs = sizes.h * _pairs(mask, sizes, packed)
    # Arguments 6 to 8 are dQ, dK and dV, which are written; ten FLOP a pair and channel are five products.
    read = seen((*call.args[:6], *call.args[9:]), k, v, mask, sizes.n)
    yield kernel(
        "flash_attention_backward", read, call.args[6:9], q.dtype, matmul=10 * pairs * sizes.d, exp=pairs,
        kind="fused", gradient=True, sizes=_grid(sizes._replace(n=sizes.m, m=sizes.n), pairs, packed, mask),
    )  # fmt: skip
    yield from summed_heads(sizes if packed is None else sizes._replace(b=1, m=k.shape[0]), q.dtype)


class FlashAttn(Op):
    """FlashAttnFunc: head dims that are no multiple of 8 are padded, and what is kept is the padded."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        offsets: Tensor | None,
        dropout: float,
        mask: Mask,
        deterministic: bool,
        slopes: Tensor | None = None,
        packed: Packed | None = None,
    ) -> Any:
        """One operator. Slopes are kept without autograd's knowledge."""
        self.read = tuple(x for x in (offsets, slopes) if x is not None)
        self.options: dict[str, Any] = {
            "dropout_p": dropout, "mask": mask, "packed": packed, "slopes": slopes is not None,
        }  # fmt: skip
        self.deterministic, self.head_dim = deterministic, q.shape[-1]
        q, k, v = (self._padded(x) for x in (q, k, v))
        labels = ("output", "log-sum-exp", "rng state")
        out, lse, rng = several(_FORWARD, q, k, v, *self.read, label=labels, **self.options)
        kept = {} if offsets is None else {"offsets": offsets}
        self.save(q=q, k=k, v=v, out=out, lse=lse, rng=rng, **kept)
        return self._cut(out)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """One operator, which writes into gradients made before it; views of these where they are padded."""
        q, k, v, out, lse = (self.unpack(name) for name in ("q", "k", "v", "out", "lse"))
        made = [aten("empty_like", x, label=f"d{name}") for x, name in ((q, "Q"), (k, "K"), (v, "V"))]
        grad = self._padded(grad)
        options = {**self.options, "deterministic": self.deterministic}
        aten(_BACKWARD, grad, q, k, v, out, lse, *made, *self.read, label="row dots", **options)
        return *map(self._cut, made), None

    def _padded(self, x: Tensor) -> Tensor:
        missing = -hint(x.shape[-1]) % 8
        return aten("constant_pad_nd", x, (0, missing)) if missing else x

    def _cut(self, x: Tensor) -> Tensor:
        cut: Any = x
        return x if same(x.shape[-1], self.head_dim) else cut[..., : self.head_dim]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[Dim, Dim] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
) -> Any:
    """`flash_attn.flash_attn_func`: q (b, n, h, d), k and v (b, m, g, d), h a multiple of g; returns (b, n, h, d).

    A causal mask is aligned at the bottom right; a window (left, right) is taken with right = 0 alone. `alibi_slopes`:
    (h,) in fp32. A soft cap changes no memory.

    Raises UsageError for what the package refuses: other types than fp16 and bf16, head dims above 256 or unlike the
    values', GPUs before compute capability 8.0, and training above head dim 192 with dropout where shared memory is
    small (there its backward launches nothing).
    """
    _check(q, v, dropout_p)
    if softcap and dropout_p:
        raise UsageError("flash-attn has no soft cap together with dropout: leave one out")
    mask = mask_of(causal, window_size)
    return FlashAttn.apply(
        q, k, v, None, dropout=dropout_p, mask=mask, deterministic=deterministic, slopes=alibi_slopes
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    queries: Dim,
    keys: Dim,
    dropout_p: float = 0.0,
    causal: bool = False,
    window_size: tuple[Dim, Dim] = (-1, -1),
    deterministic: bool = False,
    lengths: tuple[int, ...] = (),
) -> Any:
    """`flash_attn.flash_attn_varlen_func` of packed sequences: q (queries of all, h, d), k and v (keys of all, g, d).

    `cu_seqlens` (b + 1,) int32 are the offsets of sequences, `queries` and `keys` their lengths, or the longest where
    `lengths` tells each. Raises as `flash_attn_func` does.
    """
    _check(q, v, dropout_p)
    packed = Packed(cu_seqlens.shape[0] - 1, queries, keys, lengths)
    mask = mask_of(causal, window_size)
    options = {"dropout": dropout_p, "mask": mask, "deterministic": deterministic, "packed": packed}
    return FlashAttn.apply(q, k, v, cu_seqlens, **options)


def mask_of(causal: bool, window_size: tuple[Dim, Dim]) -> Mask:
    """The mask that the packages' arguments mean, aligned at the bottom right.

    Raises UsageError for a window on both sides, which is not modelled.
    """
    left, right = window_size
    windowed = not (isinstance(left, int) and left < 0)
    if windowed and not causal and not same(right, 0):
        raise UsageError(f"a window of {window_size}: keys after the query are not modelled, take (left, 0)")
    return Mask(causal or windowed, left + 1 if windowed else None)


def _check(q: Tensor, v: Tensor, dropout_p: float) -> None:
    device, d = q.storage.tape.device, hint(q.shape[-1])
    if q.dtype not in (float16, bfloat16):
        raise UsageError(f"flash-attn takes fp16 and bf16, not {q.dtype}")
    if not same(v.shape[-1], q.shape[-1]):
        raise UsageError(f"flash-attn takes one head dim, not {q.shape[-1]} for keys and {v.shape[-1]} for values")
    if d > 256:
        raise UsageError(f"flash-attn takes head dims up to 256, this is {d}")
    if device.capability < 80:
        raise UsageError(
            "flash-attn needs compute capability 8.0: this GPU has {}.{}".format(*divmod(device.capability, 10))
        )
    roomy = device.capability in LARGE_SHARED_MEMORY
    if d > 192 and dropout_p and q.storage.tape.grad_enabled and q.requires_grad and not roomy:
        raise UsageError(f"flash-attn does not train a head dim of {d} with dropout on this GPU: take 192 or less")
