"""FlexAttention under torch.compile: a Triton kernel that visits the blocks that a block mask leaves.

Sources: torch/_inductor/kernel/flex/flex_attention.py and its templates (buffers; the loops of backward for dQ and for
dK and dV compute the scores anew, seven products in all), flex_decoding.py (few queries), torch/nn/attention/
flex_attention.py (BlockMask, blocks of 128 queries by 128 keys). The partitioner is taken not to keep the row maxima,
which backward does not read, and what combines the splits of a decoding to be one kernel beside its row maxima.
"""

from typing import Any, NamedTuple

from memmodel.attention.masks import Mask
from memmodel.base.dtypes import bfloat16, float16, float32, int32
from memmodel.base.errors import UsageError
from memmodel.events.work import Work
from memmodel.rules.copies import empty
from memmodel.rules.dispatch import several
from memmodel.rules.operator import (
    RESULTS,
    Call,
    Result,
    Scratch,
    Spec,
    Steps,
    kernel,
    makes,
    moves,
    rule,
    zeroed,
)
from memmodel.rules.pointwise import kept_strides
from memmodel.sizes.dims import Dim, ceil_div, hint, maximum, minimum, product, same
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor

BLOCK = 128  # queries and keys of a block of the mask
_DECODING = 128  # fewer queries run a kernel that splits the keys
_FORWARD, _BACKWARD = "flex_attention", "flex_attention_backward"


class Visits(NamedTuple):
    """The scores that a block mask leaves, of all sequences and heads together.

    Attributes:
        blocks: how many are visited, each of `rows` queries by `columns` keys.
        pairs: of query and key that the mask leaves in them.
    """

    blocks: Dim
    pairs: Dim
    rows: int = BLOCK
    columns: int = BLOCK


def visits(mask: Mask, q: Strided, k: Strided, rows: int = BLOCK, columns: int = BLOCK) -> Visits:
    """The visits under a mask that all sequences and heads share; q (b, h, n, d), k (b, g, m, d)."""
    b, h, n, _ = q.shape
    m = k.shape[2]
    blocks, pairs = product((b, h, mask.blocks(n, m, rows, columns))), product((b, h, mask.pairs(n, m)))
    return Visits(blocks, pairs, rows, columns)


class BlockMask(NamedTuple):
    """A mask, and the int32 tensors by which kernels find the blocks that it leaves."""

    mask: Mask
    tensors: tuple[Tensor, ...]


def create_block_mask(mask: Mask, n: Dim, m: Dim) -> BlockMask:
    """The block mask of n queries and m keys that all sequences and heads share.

    Numbers and indices of the blocks that a row sees in part and whole, and the same by column, in the order of
    BlockMask's fields; no tensors without a mask. What making it takes is not counted.
    """
    if not mask.causal:  # flex_attention without a block mask visits every block
        return BlockMask(mask, ())
    rows, columns = ceil_div(n, BLOCK), ceil_div(m, BLOCK)
    by_row, by_column = ((1, 1, rows), (1, 1, rows, columns)), ((1, 1, columns), (1, 1, columns, rows))
    shapes = (*by_row, *by_row, *by_column, *by_column)
    return BlockMask(mask, tuple(empty(*shape, dtype=int32) for shape in shapes))


@makes(_FORWARD)
def _made(q: Strided, k: Strided, v: Strided, *_: Any, **__: Any) -> list[Spec]:
    """The output in the queries' order, and its log-sum-exp."""
    b, h, n, _d = q.shape
    shape = (b, h, n, v.shape[-1])
    return [Spec(shape, q.dtype, kept_strides(q) if same(q.shape[-1], v.shape[-1]) else None), Spec((b, h, n), float32)]


@rule(_FORWARD)
def forward(call: Call) -> Steps:
    """One kernel; row maxima are allocated in any case. Few queries: a kernel by splits of the keys, and their sum."""
    q, k, v = call.args[:3]
    if _splits_keys(q, k):
        yield from _decoding(call)
        return
    yield RESULTS
    yield Scratch(tuple(q.shape[:3]), float32, "row maxima")
    yield _launch(call, "flex_attention", q, v, products=(1, 1), needed=(1, 1))


def _splits_keys(q: Strided, k: Strided) -> bool:
    """Whether the decoding kernel runs: of few queries, whose heads share keys by a power of two."""
    shared = hint(q.shape[1]) // hint(k.shape[1])
    return q.at_most(_DECODING - 1, 2) and not shared & (shared - 1)


def _decoding(call: Call) -> Steps:
    """Each split of the keys leaves an output and two numbers per row in fp32."""
    q, k, v = call.args[:3]
    b, h, n, d = q.shape
    e, visited = v.shape[-1], call.named["visited"]
    # get_split_k: two splits an SM, shared out among the key heads of all sequences.
    splits = maximum(call.device.sms // (b * k.shape[1]) * 2, 1)
    parts, rows = Strided((b, splits, h, n, e), float32), Strided((b, splits, h, n), float32)
    yield Scratch(rows.shape, float32, "row maxima of each split")
    yield Scratch(rows.shape, float32, "row sums of each split")
    yield Scratch(parts.shape, float32, "output of each split")
    scores = visited.blocks * minimum(n, visited.rows) * visited.columns
    work = kernel(
        "flex_decoding", call.tensors(), [parts, rows, rows], q.dtype, matmul=2 * scores * (d + e), exp=scores,
        kind="fused",
    )  # fmt: skip
    least = kernel("", call.tensors(), call.results, q.dtype).work
    yield work._replace(needed=least + Work(matmul=2 * visited.pairs * (d + e), exp=visited.pairs))
    yield Scratch((b, h, n), float32, "row maxima")
    yield RESULTS
    summed = parts.numel()
    combined = kernel("flex_combine", [parts, rows, rows], call.results, q.dtype, vector=2 * summed, kind="fused")
    yield combined._replace(needed=Work())


@makes(_BACKWARD)
def _gradients(
    grad: Strided, q: Strided, k: Strided, v: Strided, *_: Any, learned: Any = None, **__: Any
) -> list[Spec]:
    made = (q, v, k) if learned is None else (q, v, k, learned)
    return [Spec(x.shape, x.dtype, kept_strides(x)) for x in made]


@rule(_BACKWARD)
def backward(call: Call) -> Steps:
    """One kernel for the row dots; then dQ, dV and dK by one kernel, without sums in fp32 beside them.

    The gradient of a bias is added up in fp32, and cast.
    """
    grad, q, _, v, out = call.args[:5]
    learned = call.results[3:]
    rows = Strided(tuple(q.shape[:3]), float32)
    yield Scratch(rows.shape, float32, "row dots")
    yield kernel("flex_delta", [grad, out], [rows], q.dtype, vector=2 * out.numel(), gradient=True)
    yield from (Result(i) for i in range(3))
    for bias in learned:
        yield from zeroed(tuple(bias.shape), float32, "sums of the bias' gradient")
    yield _launch(call, "flex_attention_backward", q, v, products=(4, 3), needed=(3, 2), gradient=True)
    for place, bias in enumerate(learned, start=3):
        yield Result(place)
        yield moves("copy", [Strided(bias.shape, float32)], [bias])


def _launch(
    call: Call, name: str, q: Strided, v: Strided, products: tuple[int, int], needed: tuple[int, int],
    gradient: bool = False,
) -> Any:  # fmt: skip
    """A kernel over the blocks that the mask leaves, whole; what is necessary are the pairs that it leaves.

    `products` and `needed`: matrix products over the keys' head dim, and over the values'.
    """
    visited = call.named["visited"]
    d, e, pairs = q.shape[-1], v.shape[-1], visited.pairs
    scores = visited.blocks * visited.rows * visited.columns
    found = kernel(
        name, call.tensors(), call.results, q.dtype, matmul=2 * scores * (products[0] * d + products[1] * e),
        exp=scores, kind="fused", gradient=gradient,
    )  # fmt: skip
    work = found.work
    least = Work(2 * pairs * (needed[0] * d + needed[1] * e), 0, pairs, work.read, work.written)
    return found._replace(needed=least)


class FlexAttention(Op):
    """The compiled kernels; keeps its operands, its output, the log-sum-exp and the block mask."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, block_mask: BlockMask) -> Tensor:
        """One kernel, which reads a bias that the score function captured."""
        self.block_mask, captured = block_mask, () if bias is None else (bias,)
        labels = ("output", "log-sum-exp")
        read = *captured, *block_mask.tensors
        out, lse = several(_FORWARD, q, k, v, *read, visited=visits(block_mask.mask, q, k), label=labels)
        self.save(query=q, key=k, value=v, output=out, logsumexp=lse)
        self.save(**{f"captured {i}": x for i, x in enumerate(read)})
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Two kernels."""
        names = [name for name in self.unpacked if name.startswith("captured")]
        saved = map(self.unpack, ("query", "key", "value", "output", "logsumexp", *names))
        learned = self.unpack("captured 0") if self.needs[3] else None
        q, k, *rest = saved
        made: tuple[Any, ...] = several(
            _BACKWARD, grad, q, k, *rest, visited=visits(self.block_mask.mask, q, k), learned=learned,
            label=("dQ", "dV", "dK", "gradient of the bias"),
        )  # fmt: skip
        dq, dv, dk, *dbias = made
        return dq, dk, dv, (dbias[0] if dbias else None)


def flex_attention(query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, bias: Tensor | None = None) -> Any:
    """torch.nn.attention.flex_attention.flex_attention, compiled; heads are shared where g < h.

    Shapes: query (b, h, n, d), key (b, g, m, d), value (b, g, m, e); returns (b, h, n, e). `bias`: what the score
    function reads beside the score. Its arithmetic is not counted.

    Raises UsageError for what its kernels refuse.
    """
    d, e = hint(query.shape[3]), hint(value.shape[3])
    if query.dtype not in (float16, bfloat16, float32):
        raise UsageError(f"flex_attention takes fp16, bf16 and fp32, not {query.dtype}")
    if min(d, e) < 16:
        raise UsageError(f"flex_attention takes head dims from 16, these are {d} and {e}")
    return FlexAttention.apply(query, key, value, bias, block_mask=block_mask)
