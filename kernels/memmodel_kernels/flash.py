"""FlashAttention-2: the operations of naive attention inside one kernel.

Dao, "FlashAttention-2: Faster attention with better parallelism and work partitioning" (2023), algorithms 1 and 2.
Scores and probabilities never leave the chip: only Q, K, V, O, LSE, dO, delta and the gradients are tensors in
memory. It differs from `naive` in where the kernel boundaries fall, and in the running maximum and sum that this takes.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from memmodel.attention import tiles
from memmodel.attention.masks import NO_MASK, Mask
from memmodel.attention.tiles import Tile
from memmodel.base.dtypes import DType
from memmodel.base.errors import UsageError
from memmodel.sizes.dims import same
from memmodel_kernels.bias import numbers
from memmodel_kernels.kernel import Part, kernel, seen
from memmodel_kernels.namespace import namespace

LOWEST = -1e30  # below any score, yet finite: exp(LOWEST - LOWEST) is 1, not nan
_DELTA_ROWS = 64


class FlashTiles(NamedTuple):
    """The tile of each pass; `fused` is None where no fused backward fits."""

    forward: Tile
    dkdv: Tile
    dq: Tile
    fused: Tile | None


def extras(softcap: Any, packed: Any, dropout: Any, bias: Any) -> tuple[tiles.Extra, ...]:
    """The names of what is there: None, 0 and False stand for nothing."""
    given = (tiles.SOFTCAP, softcap), (tiles.PACKED, packed), (tiles.DROPOUT, dropout), (tiles.BIAS, bias)
    return tuple(name for name, value in given if value)


def flash_tiles(arch: int, dtype: DType, head_dim: int, extras: tuple[tiles.Extra, ...] = ()) -> FlashTiles:
    """The default tiles of an architecture (80 is sm_80), with what a kernel has beside a mask.

    Raises UsageError for what the kernels do not support.
    """
    if dtype.name == "float64" or head_dim > tiles.MAX_HEAD_DIM:
        raise UsageError(
            f"flash attention of {dtype} with head dim {head_dim}: there are kernels for fp16, bf16 and fp32 up to "
            f"head dim {tiles.MAX_HEAD_DIM}; choose another algorithm with --algorithm"
        )

    def tile(pass_: tiles.Pass) -> Tile:
        return tiles.tile(arch, dtype, head_dim, pass_, extras=extras)

    fused = tile(tiles.FUSED) if tiles.supports(arch, dtype, head_dim, tiles.FUSED, extras=extras) else None
    return FlashTiles(tile(tiles.FORWARD), tile(tiles.DKDV), tile(tiles.DQ), fused)


def flash(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    tiles: FlashTiles | None = None,
    deterministic: bool = True,
    return_lse: bool = False,
    softcap: float | None = None,
    lengths: tuple[int, ...] = (),
    dropout: float = 0.0,
    bias: Any = None,
) -> Any:
    """Attention in one kernel. Shapes as for `naive`; `tiles` are those of sm_80 unless given.

    With `lengths` q, k and v are of packed sequences, (tokens, heads, head dim), and so is the output. Dropout is for
    recording tensors alone: what the Triton kernels draw, operations on whole tensors cannot. `bias`, as for `naive`,
    has no gradient.

    The backward of `deterministic` runs one program per key tile for dK and dV and one per query tile for dQ, seven
    matrix products in all; otherwise one per key tile with five, which adds to an fp32 dQ in memory.
    """
    given = extras(softcap, lengths, dropout, bias is not None)
    chosen = tiles or flash_tiles(80, q.dtype, q.shape[-1], given)
    if bias is not None:
        bias = numbers(bias, q, k.shape[-2])
    if lengths:
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    seed = (_drawn_seed(q),) if dropout else ()
    out, lse = _function(namespace(q)).apply(
        q, k, v, mask, chosen, deterministic, softcap, lengths, dropout, bias, *seed
    )
    if lengths:
        out, lse = out.squeeze(0).transpose(0, 1), lse.squeeze(0)
    return (out, lse) if return_lse else out


def _each_sequence(lengths: tuple[int, ...], queries: tuple[Any, ...], keys: tuple[Any, ...]) -> Iterator[list[Any]]:
    """The rows of tensors (b, h, n, ...) that a sequence has, of packed ones one after another; a batch is all rows."""
    start = 0
    for length in lengths:
        yield [x[:, :, start : start + length] for x in (*queries, *keys)]
        start += length
    if not lengths:
        yield [*queries, *keys]


def _seen(x: Any, mask: Mask, n: Any, lengths: tuple[int, ...]) -> Any:
    """Keys or values as a kernel reads them, a window's of each sequence alone."""
    if not lengths or mask.window is None:
        return seen(x, mask, n)
    _, g, _, d = x.shape
    return Part(g * d * x.dtype.itemsize * sum(mask.keys(length, length) for length in lengths))


def check_options(causal: Any, window: Any, scale: Any, softcap: Any, deterministic: Any, dropout: Any = 0.0) -> None:
    """Refuse what Python would take for a number or a truth value without a word: window=True is not a window of 1."""
    for name, value in (("causal", causal), ("deterministic", deterministic)):
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r}: it must be True or False")
    if isinstance(window, bool | float | str):
        raise UsageError(f"window={window!r}: a window is a whole number of keys; None means no window")
    if isinstance(scale, bool | str):
        raise UsageError(f"scale={scale!r}: it must be a finite number; None means 1 / sqrt(head dim)")
    if isinstance(softcap, bool | str):
        raise UsageError(f"softcap={softcap!r}: it must be a positive number, such as 50; None means no cap")
    if dropout is None or isinstance(dropout, bool | str):
        raise UsageError(f"dropout={dropout!r}: it must be a probability from 0 to below 1, such as 0.1")


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class FlashAttention(base):  # type: ignore[misc]
        """Forward and backward of the library that the tensors belong to."""

        @staticmethod
        def forward(
            ctx: Any, q: Any, k: Any, v: Any, mask: Mask, tiles: FlashTiles, deterministic: bool,
            softcap: float | None, lengths: tuple[int, ...], dropout: float, bias: Any, *seed: Any,
        ) -> Any:  # fmt: skip
            out, lse = flash_forward(q, k, v, mask, tiles.forward, softcap, lengths, dropout, bias)
            ctx.biased = bias is not None
            ctx.save_for_backward(q, k, v, out, lse, *([bias] if ctx.biased else []), *seed)
            ctx.set_materialize_grads(False)
            ctx.options = mask, tiles, deterministic, softcap, lengths, dropout
            return out, lse

        @staticmethod
        def backward(ctx: Any, dout: Any, dlse: Any) -> Any:
            tensors, beside = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
            how = *ctx.options, beside[0] if ctx.biased else None
            grads = flash_backward((dout, dlse, *tensors), *how)
            return *grads, *[None] * (len(ctx.options) + 1 + len(beside) - ctx.biased)

    return FlashAttention


def online_softmax(total: Any, row_max: Any, row_sum: Any, scores: Any, v: Any) -> tuple[Any, Any, Any]:
    """Fold a block of keys into a running softmax: the new total, row maxima and row sums, in fp32.

    total (..., rows, e), row_max and row_sum (..., rows, 1), scores (..., rows, cols), v (..., cols, e). Source: Dao,
    "FlashAttention-2" (arXiv 2307.08691), algorithm 1.
    """
    xp = namespace(v)
    block_max = scores.amax(-1, keepdim=True)
    new_max = xp.where(block_max > row_max, block_max, row_max)
    probs = (scores - new_max).exp()
    correction = (row_max - new_max).exp()
    row_sum = row_sum * correction + probs.sum(-1, keepdim=True)
    # Tensor cores multiply in the operands' type and add in fp32.
    total = total * correction + (probs.to(v.dtype) @ v).to(xp.float32)
    return total, new_max, row_sum


def flash_forward(
    q: Any, k: Any, v: Any, mask: Mask, tile: Tile, softcap: float | None = None, lengths: tuple[int, ...] = (),
    dropout: float = 0.0, bias: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """O (b, h, n, e) and LSE (b, h, n), the natural logarithm of each row's sum of exponentials, in fp32."""
    xp = namespace(q)
    h, n = q.shape[1:3]
    out = xp.empty_like(q)
    lse = q.new_empty(*q.shape[:3], dtype=xp.float32)
    reads = (q, _seen(k, mask, n, lengths), _seen(v, mask, n, lengths), *_seen_bias(bias, mask, n))
    with kernel("flash_forward", reads=reads, writes=(out, lse)) as on_chip:
        for q_s, out_s, lse_s, k_s, v_s in _each_sequence(lengths, (q, out, lse), (k, v)):
            n, m = q_s.shape[2], k_s.shape[2]
            for rows in on_chip.tiles(n, tile.rows):
                q_i = on_chip.load(q_s, rows)
                total = on_chip.full(q_i, (v.shape[-1],), 0.0, xp.float32)
                row_max = on_chip.full(q_i, (1,), LOWEST, xp.float32)
                row_sum = on_chip.full(q_i, (1,), 0.0, xp.float32)
                for cols in on_chip.visited(mask, rows, n, m, tile.rows, tile.cols):
                    k_j, v_j = on_chip.load(k_s, cols, h), on_chip.load(v_s, cols, h)
                    scores = _biased(on_chip, _scores(q_i, k_j, softcap), bias, rows, cols)
                    scores = on_chip.masked(scores, mask, rows, cols, n, m)
                    total, row_max, row_sum = online_softmax(total, row_max, row_sum, scores, v_j)
                    _drop(on_chip, scores, dropout)
                safe = xp.where(row_sum > 0, row_sum, 1.0)  # a row that sees no key: output 0
                on_chip.store(out_s, rows, (total / safe).to(q.dtype))
                on_chip.store(lse_s, rows, (row_max + row_sum.log()).squeeze(-1))
    return out, lse


def flash_backward(
    tensors: tuple[Any, ...],
    mask: Mask,
    tiles: FlashTiles,
    deterministic: bool,
    softcap: float | None = None,
    lengths: tuple[int, ...] = (),
    dropout: float = 0.0,
    bias: Any = None,
) -> tuple[Any, Any, Any]:
    """dQ, dK, dV. `tensors`: the gradients of O and of LSE (or None), then Q, K, V, O and LSE."""
    dout, dlse, q, k, v, out, lse = tensors
    delta = row_dots(dout, out, dlse)
    if deterministic or tiles.fused is None:
        return flash_backward_split(dout, q, k, v, lse, delta, mask, tiles, softcap, lengths, dropout, bias)
    return flash_backward_fused(dout, q, k, v, lse, delta, mask, tiles.fused, softcap, lengths, dropout, bias)


def flash_backward_split(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    lse: Any,
    delta: Any,
    mask: Mask,
    tiles: FlashTiles,
    softcap: float | None,
    lengths: tuple[int, ...] = (),
    dropout: float = 0.0,
    bias: Any = None,
) -> tuple[Any, Any, Any]:
    """dQ, dK, dV without atomics: the same sums in the same order every time."""
    xp = namespace(q)
    dq, dk, dv = xp.empty_like(q), xp.empty_like(k), xp.empty_like(v)
    _, h, n, d = q.shape
    g, scale = k.shape[1], d**-0.5
    reads = (q, _seen(k, mask, n, lengths), _seen(v, mask, n, lengths), dout, lse, delta, *_seen_bias(bias, mask, n))
    parts = list(_each_sequence(lengths, (q, dout, lse, delta, dq), (k, v, dk, dv)))
    with kernel("flash_backward", reads=reads, writes=(dq, dk, dv), gradient=True) as on_chip:
        for q_s, do_s, lse_s, delta_s, _, k_s, v_s, dk_s, dv_s in parts:
            n, m, tile = q_s.shape[2], k_s.shape[2], tiles.dkdv
            for cols in on_chip.tiles(m, tile.cols):
                k_j, v_j = on_chip.load(k_s, cols, h), on_chip.load(v_s, cols, h)
                # Sums over all query tiles stay in fp32 on chip; the scores' scale comes once, at the end.
                dk_j = on_chip.full(k_j, (d,), 0.0, xp.float32)
                dv_j = on_chip.full(v_j, (v.shape[-1],), 0.0, xp.float32)
                for rows in on_chip.visiting(mask, cols, n, m, tile.rows, tile.cols):
                    q_i, do_i = on_chip.load(q_s, rows), on_chip.load(do_s, rows)
                    probs, slope = _probabilities(on_chip, q_i, k_j, lse_s, mask, rows, cols, softcap, n, m, bias)
                    _drop(on_chip, probs, dropout)
                    dv_j = dv_j + (probs.to(q.dtype).transpose(-2, -1) @ do_i).to(xp.float32)
                    ds = _score_gradient(on_chip, slope, do_i, v_j, delta_s, rows)
                    dk_j = dk_j + (ds.to(q.dtype).transpose(-2, -1) @ q_i).to(xp.float32)
                on_chip.store(dk_s, cols, _per_key_head(dk_j * scale, g).to(k.dtype))
                on_chip.store(dv_s, cols, _per_key_head(dv_j, g).to(v.dtype))
        for q_s, do_s, lse_s, delta_s, dq_s, k_s, v_s, _, _ in parts:
            n, m, tile = q_s.shape[2], k_s.shape[2], tiles.dq
            for rows in on_chip.tiles(n, tile.rows):
                q_i, do_i = on_chip.load(q_s, rows), on_chip.load(do_s, rows)
                dq_i = on_chip.full(q_i, (d,), 0.0, xp.float32)
                for cols in on_chip.visited(mask, rows, n, m, tile.rows, tile.cols):
                    k_j, v_j = on_chip.load(k_s, cols, h), on_chip.load(v_s, cols, h)
                    probs, slope = _probabilities(on_chip, q_i, k_j, lse_s, mask, rows, cols, softcap, n, m, bias)
                    _drop(on_chip, probs, dropout)
                    ds = _score_gradient(on_chip, slope, do_i, v_j, delta_s, rows)
                    dq_i = dq_i + (ds.to(q.dtype) @ k_j).to(xp.float32)
                on_chip.store(dq_s, rows, (dq_i * scale).to(q.dtype))
    return dq, dk, dv


def flash_backward_fused(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    lse: Any,
    delta: Any,
    mask: Mask,
    tile: Tile,
    softcap: float | None,
    lengths: tuple[int, ...] = (),
    dropout: float = 0.0,
    bias: Any = None,
) -> tuple[Any, Any, Any]:
    """dQ, dK, dV with five matrix products: key tiles add to an fp32 dQ in memory, in no fixed order."""
    xp = namespace(q)
    dk, dv = xp.empty_like(k), xp.empty_like(v)
    dq_sum = xp.zeros_like(q, dtype=xp.float32)
    _, h, n, d = q.shape
    g, scale = k.shape[1], d**-0.5
    reads = (q, _seen(k, mask, n, lengths), _seen(v, mask, n, lengths), dout, lse, delta, *_seen_bias(bias, mask, n))
    parts = _each_sequence(lengths, (q, dout, lse, delta, dq_sum), (k, v, dk, dv))
    with kernel("flash_backward", reads=reads, writes=(dq_sum, dk, dv), gradient=True) as on_chip:
        for q_s, do_s, lse_s, delta_s, dq_s, k_s, v_s, dk_s, dv_s in parts:
            n, m = q_s.shape[2], k_s.shape[2]
            for cols in on_chip.tiles(m, tile.cols):
                k_j, v_j = on_chip.load(k_s, cols, h), on_chip.load(v_s, cols, h)
                dk_j = on_chip.full(k_j, (d,), 0.0, xp.float32)
                dv_j = on_chip.full(v_j, (v.shape[-1],), 0.0, xp.float32)
                for rows in on_chip.visiting(mask, cols, n, m, tile.rows, tile.cols):
                    q_i, do_i = on_chip.load(q_s, rows), on_chip.load(do_s, rows)
                    probs, slope = _probabilities(on_chip, q_i, k_j, lse_s, mask, rows, cols, softcap, n, m, bias)
                    _drop(on_chip, probs, dropout)
                    dv_j = dv_j + (probs.to(q.dtype).transpose(-2, -1) @ do_i).to(xp.float32)
                    ds = _score_gradient(on_chip, slope, do_i, v_j, delta_s, rows).to(q.dtype)
                    dk_j = dk_j + (ds.transpose(-2, -1) @ q_i).to(xp.float32)
                    on_chip.accumulate(dq_s, rows, (ds @ k_j).to(xp.float32) * scale)
                on_chip.store(dk_s, cols, _per_key_head(dk_j * scale, g).to(k.dtype))
                on_chip.store(dv_s, cols, _per_key_head(dv_j, g).to(v.dtype))
    return dq_sum.to(q.dtype), dk, dv


def row_dots(dout: Any, out: Any, dlse: Any = None) -> Any:
    """delta (b, h, n) in fp32: each row's sum of dO * O, less the gradient of its LSE; softmax's gradient needs it."""
    xp = namespace(dout)
    delta = dout.new_empty(*dout.shape[:-1], dtype=xp.float32)
    # dS = P (dP - delta) + P dLSE, row by row: taken off delta, the second term costs nothing.
    reads = (dout, out) if dlse is None else (dout, out, dlse)
    with kernel("flash_delta", reads=reads, writes=(delta,)) as on_chip:
        for rows in on_chip.tiles(dout.shape[2], _DELTA_ROWS):
            product = on_chip.load(dout, rows).to(xp.float32) * on_chip.load(out, rows).to(xp.float32)
            dots = product.sum(-1)
            on_chip.store(delta, rows, dots if dlse is None else dots - on_chip.load(dlse, rows))
    return delta


def _scores(q_i: Any, k_j: Any, softcap: float | None) -> Any:
    """A block of scaled scores in fp32, capped."""
    scores = (q_i @ k_j.transpose(-2, -1)).to(namespace(q_i).float32) * q_i.shape[-1] ** -0.5
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def _probabilities(
    on_chip: Any, q_i: Any, k_j: Any, lse: Any, mask: Mask, rows: Any, cols: Any, softcap: float | None, n: Any,
    m: Any, bias: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """A block of probabilities, from the scores and the rows' LSE, and the same with the slope of the soft cap."""
    scores = _scores(q_i, k_j, softcap)
    seen = on_chip.masked(_biased(on_chip, scores, bias, rows, cols), mask, rows, cols, n, m)
    probs = (seen - on_chip.load(lse, rows).unsqueeze(-1)).exp()
    if softcap is None:
        return probs, probs
    tanh = scores / softcap
    return probs, probs * (1.0 - tanh * tanh)


def _biased(on_chip: Any, scores: Any, bias: Any, rows: Any, cols: Any) -> Any:
    """A block of scores, with that of the bias added."""
    return scores if bias is None else scores + on_chip.load_pairs(bias, scores, rows, cols).to(scores.dtype)


def _seen_bias(bias: Any, mask: Mask, n: Any) -> tuple[Any, ...]:
    """The bias as a kernel reads it, if there is one: where its rows differ, the pairs that the mask leaves."""
    if bias is None or same(bias.shape[2], 1) or not mask.causal:
        return () if bias is None else (bias,)
    shared, heads, _, m = bias.shape
    return (Part(shared * heads * mask.pairs(n, m) * bias.dtype.itemsize),)


def _drop(on_chip: Any, probs: Any, dropout: float) -> None:
    """A block's random numbers, compared; they leave no tensor."""
    if dropout:
        on_chip.drop(probs)


def _drawn_seed(q: Any) -> Any:
    """The seed of dropout, on the device of q."""
    xp = namespace(q)
    if xp.__name__ == "torch":
        raise UsageError("flash with dropout on torch tensors: call flash_attention, whose kernels draw the numbers")
    return xp.randint(2**63 - 1, (1,))


def _score_gradient(on_chip: Any, slope: Any, do_i: Any, v_j: Any, delta: Any, rows: Any) -> Any:
    """A block of dS = P * (dP - delta), where `slope` is P, with that of the soft cap."""
    dprobs = (do_i @ v_j.transpose(-2, -1)).to(namespace(slope).float32)
    return slope * (dprobs - on_chip.load(delta, rows).unsqueeze(-1))


def _per_key_head(x: Any, g: Any) -> Any:
    """Gradients of query heads, summed over those that share a key head."""
    if same(x.shape[1], g):
        return x
    return x.unflatten(1, (g, x.shape[1] // g)).sum(2)
