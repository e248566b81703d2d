"""Naive attention under torch.compile: on torch the real thing, on recording tensors a model of the compiler.

The model is not derived from the code that runs: it restates what the min-cut partitioner keeps and which buffers
Inductor allocates for this function (torch/_functorch/partitioners.py, torch/_inductor), as seen in generated code
and in recorded runs. Matrix products stay library calls; everything between them is one kernel.
"""

from functools import cache
from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel_kernels.kernel import kernel
from memmodel_kernels.naive import naive, naive_by_hand, repeated
from memmodel_kernels.namespace import namespace


def compiled(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    by_hand: bool = False,
) -> Any:
    """`naive` (or `naive_by_hand`) after torch.compile. Shapes as for `naive`."""
    xp = namespace(q)
    if xp.__name__ == "torch":
        return xp.compile(naive_by_hand if by_hand else naive)(q, k, v, mask, dropout)
    blocked = mask.blocked(xp, q, q.shape[-2], k.shape[-2])
    return compiled_with(q, repeated(k, q), repeated(v, q), blocked, dropout, by_hand)


def compiled_with(q: Any, k: Any, v: Any, blocked: Any = None, dropout: float = 0.0, by_hand: bool = False) -> Any:
    """The compiler's model on recording tensors, for a bool mask (n, m) that the caller made and keeps.

    Shapes: q (b, h, n, d), k (b, h, m, d), v (b, h, m, e). The graph keeps the mask as it is, without a copy.
    """
    return _function(namespace(q)).apply(q, k, v, blocked, dropout, by_hand)


@cache
def _function(xp: Any) -> Any:
    class CompiledAttention(xp.Function):  # type: ignore[misc]
        """The two graphs that the partitioner makes of naive attention."""

        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, blocked: Any, dropout: float, by_hand: bool) -> Any:
            scores = q @ k.transpose(-2, -1)
            learns = any(ctx.needs_input_grad)
            rows, dropped, probs = [], [], scores  # written over the scores, where nothing else needs these
            if learns and (by_hand or dropout):
                rows = [scores.new_empty(*scores.shape[:-1], 1)]  # row maximum
                if by_hand:
                    rows.append(scores.new_empty(*scores.shape[:-1], 1, dtype=xp.int64))  # max keeps its indices
                rows.append(scores.new_empty(*scores.shape[:-1], 1))  # row sum
                probs = scores.new_empty(scores.shape)
                dropped = [scores.new_empty(scores.shape, dtype=xp.bool)] if dropout else []
            _softmax_kernel([scores], [probs, *rows, *dropped])
            masks = [] if blocked is None else [blocked]
            if not learns:
                kept = []
            elif not (by_hand or dropout):
                kept = [probs]
            elif by_hand and not ctx.needs_input_grad[2]:  # only v's gradient needs the probabilities whole
                kept = [scores, *rows, *dropped]
            else:
                kept = [scores, *rows, *dropped, probs]
            ctx.save_for_backward(q, k, v, *kept, *masks)
            ctx.by_hand, ctx.kept = by_hand, len(kept)
            del scores, rows, dropped, kept  # a buffer that backward does not need dies before the second product
            return probs @ v

        @staticmethod
        def backward(ctx: Any, dout: Any) -> Any:
            q, k, v, *kept = ctx.saved_tensors
            ctx.maybe_clear_saved_tensors()
            dout = dout.contiguous()
            dv = kept[ctx.kept - 1].transpose(-2, -1) @ dout if ctx.needs_input_grad[2] else None
            dprobs = dout @ v.transpose(-2, -1)
            del dout  # a copy of an expanded gradient, of a sum, is stolen by the graph and dies at its last use
            if ctx.by_hand and _scatters_apart(xp, dprobs):
                sums = dprobs.new_empty(*dprobs.shape[:-1], 1)
                _softmax_kernel([dprobs] * 3, [dprobs, sums], gradient=True)
                del kept
                scattered = dprobs.new_empty(dprobs.shape)
                _softmax_kernel([dprobs] * 2, [scattered] * 2 + [dprobs], gradient=True)
                del sums, scattered
                dscores = dprobs
            else:
                dscores = dprobs.new_empty(dprobs.shape) if ctx.by_hand else dprobs  # written in place where it can be
                # What v's gradient needs is read too: else the probabilities are made of the scores again.
                reads, writes = (4 + ctx.needs_input_grad[2], 3) if ctx.by_hand else (2, 1)
                _softmax_kernel([dprobs] * reads, [dscores] * writes, gradient=True)
                del kept  # each buffer dies with its last use
            del dprobs
            dq = dscores @ k
            dk = dscores.transpose(-2, -1) @ q
            return dq, dk, dv, None, None, None

    return CompiledAttention


def _scatters_apart(xp: Any, scores: Any) -> bool:
    """Whether the maximum's gradient is scattered by ATen's kernel, after the fused one that makes its row sums.

    Inductor leaves scatter of bf16 to it before compute capability 9.0 (torch/_inductor/utils.py, use_scatter_fallback)
    """
    return scores.dtype is xp.bfloat16 and scores.storage.tape.device.capability < 90


def _softmax_kernel(scores: list[Any], outputs: list[Any], gradient: bool = False) -> None:
    """Scale, mask, softmax (or its gradient) and dropout of whole rows; tensors as often as memory moves them.

    A row of more than 1024 elements is not kept on chip (torch/_inductor, persistent reductions): each loop over it
    reads it again, from L2, where Inductor's eviction policies keep it. So forward reads the scores and writes the
    probabilities. Backward reads the gradient and the probabilities; written out also the scores, and it scatters the
    maximum's gradient into zeros and adds that in a kernel of its own (the code that PyTorch 2.13 generates).
    """
    with kernel("fused softmax", reads=scores, writes=outputs, gradient=gradient) as on_chip:
        for rows in on_chip.tiles(scores[0].shape[-2], 1):
            row = on_chip.load(scores[0], rows)
            row = row - row.amax(-1, keepdim=True)
            row = row.exp()
            row = row / row.sum(-1, keepdim=True)
            on_chip.store(outputs[0], rows, row)
