"""The modules of a Megatron layer, with what each keeps for backward.

Sources: TransformerEngine 2.11, transformer_engine/pytorch/module/layernorm_linear.py and linear.py, attention/rope.py,
cross_entropy.py; Megatron-LM 0.14, megatron/core/fusions/fused_bias_swiglu.py, fused_bias_gelu.py and fused_softmax.py,
tensor_parallel/layers.py. Activations are (tokens, channels); with sequence parallelism a rank has its share of the
tokens between the modules.
"""

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from memmodel_kernels.kernel import fused
from memmodel_kernels.namespace import namespace
from memmodel_kernels.parallel.group import Group, all_gathered, all_reduced, reduce_scattered

EPS = 1e-5


class Weight(NamedTuple):
    """A parameter, and the sum of its gradients (`main_grad`), mostly in fp32.

    `fused`: whether a linear layer adds its gradient to the sum by itself (`gradient_accumulation_fusion`); else the
    gradient is a tensor, which a hook adds.
    """

    value: Any
    total: Any
    fused: bool = True

    @property
    def into(self) -> Any:
        """Where a linear layer adds its gradient; None where it makes one."""
        return self.total if self.fused else None


class Sharing(NamedTuple):
    """Ranks that share each layer (None: this one has all of it); `sequence`: whether they share the tokens too."""

    group: Group | None = None
    sequence: bool = False

    def gathered(self, x: Any) -> Any:
        """All tokens."""
        return all_gathered(x, self.group) if self.group and self.sequence else x

    def summed(self, x: Any) -> Any:
        """The sum over the ranks: of all tokens, or of this rank's."""
        if self.group is None:
            return x
        return reduce_scattered(x, self.group) if self.sequence else all_reduced(x, self.group)


class Deferred(NamedTuple):
    """Of the first micro-batches, what the head's gradient is made of, which waits for the end of the step.

    `waiting`: gradients of outputs with inputs, of at most `limit` micro-batches (`--defer-embedding-wgrad-compute`).
    """

    limit: int
    waiting: list[tuple[Any, Any]]


def product(a: Any, b: Any, into: Any = None, local: bool = False) -> Any:
    """a b in TransformerEngine's workspace, or in PyTorch's (`local`); added to `into` where that is given."""
    # TransformerEngine's products share a workspace of the device; PyTorch's have cuBLAS's, one a thread.
    xp = namespace(a)
    if xp.__name__ != "torch" and not (local and into is None):
        return xp.te_gemm(a, b, into)
    return a @ b if into is None else into.add_(a @ b)


def gradient_of_weight(grad: Any, x: Any, into: Any, local: bool = False) -> Any:
    """The gradient of a linear layer's weight, of its output's gradient and its input; None where it is added up."""
    made = product(grad.t(), x, into, local)
    return made if into is None else None


def normed(x: Any, weight: Any, bias: Any) -> tuple[Any, list[Any]]:
    """The norm of rows of x, and its statistics in fp32: 1 / deviation, and of a LayerNorm (with bias) the mean."""
    xp = namespace(x)
    out = x.new_empty(x.shape)
    statistics = [x.new_empty(x.shape[0], dtype=xp.float32) for _ in range(1 if bias is None else 2)]

    def compute() -> None:
        wide = x.float()
        centred = wide if bias is None else wide - wide.mean(-1, keepdim=True)
        statistics[0].copy_((centred.pow(2).mean(-1) + EPS).rsqrt())
        if bias is not None:
            statistics[1].copy_(wide.mean(-1))
        scaled = centred * statistics[0][:, None] * weight.float()
        out.copy_(scaled if bias is None else scaled + bias.float())

    fused("norm", (x, weight), (out, *statistics), compute)
    return out, statistics


def norm_gradients(grad: Any, x: Any, weight: Any, statistics: Sequence[Any]) -> tuple[Any, ...]:
    """The gradients of x, of the weight and of a LayerNorm's bias."""
    of_x, of_weight = x.new_empty(x.shape), weight.new_empty(weight.shape)
    of_bias = weight.new_empty(weight.shape) if len(statistics) > 1 else None

    def compute() -> None:
        wide, deviation = x.float(), statistics[0][:, None]
        centred = wide if of_bias is None else wide - statistics[1][:, None]
        y, g = centred * deviation, grad.float() * weight.float()
        inner = g - y * (g * y).mean(-1, keepdim=True)
        of_x.copy_(deviation * (inner if of_bias is None else inner - g.mean(-1, keepdim=True)))
        of_weight.copy_((grad.float() * y).sum(0))
        if of_bias is not None:
            of_bias.copy_(grad.float().sum(0))

    written = (of_x, of_weight) if of_bias is None else (of_x, of_weight, of_bias)
    fused("norm_backward", (grad, x, weight, *statistics), written, compute, gradient=True)
    return of_x, of_weight, of_bias


@cache
def functions(xp: Any, local: bool = False) -> Any:
    """The autograd functions on a library's tensors. `local`: linear layers are Megatron's own."""
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class Norm(base):  # type: ignore[misc]
        """TENorm: keeps its input and its statistics."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
            out, statistics = normed(x, weight, bias)
            ctx.save_for_backward(x, weight, *statistics)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight, *statistics = ctx.saved_tensors
            return norm_gradients(grad, x, weight, statistics)

    class NormLinear(base):  # type: ignore[misc]
        """TELayerNormColumnParallelLinear: keeps its input, the normed one and the statistics, of a rank's tokens."""

        @staticmethod
        def forward(
            ctx: Any, x: Any, norm: Any, shift: Any, weight: Any, into: Any, bias: Any, sharing: Sharing
        ) -> Any:
            rows, statistics = normed(x, norm, shift)
            out = product(sharing.gathered(rows), weight.t())
            if bias is not None:
                out.add_(bias)  # in cuBLASLt's epilogue there
            ctx.save_for_backward(x, rows, norm, weight, *statistics)
            ctx.into, ctx.sharing, ctx.biased = into, sharing, bias is not None
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, rows, norm, weight, *statistics = ctx.saved_tensors
            # Of other ranks' tokens nothing was kept: they are gathered again.
            whole = ctx.sharing.gathered(rows)
            of_rows = ctx.sharing.summed(product(grad, weight))
            of_weight = gradient_of_weight(grad, whole, ctx.into)
            del whole
            of_bias = grad.sum(0) if ctx.biased else None
            of_x, of_norm, of_shift = norm_gradients(of_rows, x, norm, statistics)
            return of_x, of_norm, of_shift, of_weight, None, of_bias, None

    class Linear(base):  # type: ignore[misc]
        """TEColumnParallelLinear and TELinear: keeps its input, of a rank's tokens."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, into: Any, sharing: Sharing) -> Any:
            ctx.save_for_backward(x, weight)
            ctx.into, ctx.sharing = into, sharing
            return product(sharing.gathered(x), weight.t())

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight = ctx.saved_tensors
            of_x = ctx.sharing.summed(product(grad, weight))
            return of_x, gradient_of_weight(grad, ctx.sharing.gathered(x), ctx.into), None, None

    class RowLinear(base):  # type: ignore[misc]
        """TERowParallelLinear, or RowParallelLinear of Megatron's own: keeps its input."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, into: Any, sharing: Sharing) -> Any:
            ctx.save_for_backward(x, weight)
            ctx.into, ctx.sharing = into, sharing
            return sharing.summed(product(x, weight.t(), local=local))

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight = ctx.saved_tensors
            # The output was shared out by tokens: its gradient is gathered again.
            whole = ctx.sharing.gathered(grad)
            of_x = product(whole, weight, local=local)
            return of_x, gradient_of_weight(whole, x, ctx.into, local), None, None

    class Rotated(base):  # type: ignore[misc]
        """q (b, n, heads, d), k and v (b, n, groups, d) from their fused projection, q and k turned: all new.

        `heads_first`: each lies in memory as (b, heads, n, d), so that products of heads need no copies.
        """

        @staticmethod
        def forward(ctx: Any, qkv: Any, table: Any, sizes: tuple[Any, ...], heads_first: bool) -> Any:
            b, n, heads, groups, d = sizes
            counts = (heads, groups, groups)
            if heads_first:
                made = [qkv.new_empty(b, count, n, d).transpose(1, 2) for count in counts]
            else:
                made = [qkv.new_empty(b, n, count, d) for count in counts]

            def compute() -> None:
                parts = qkv.view(b, n, -1).split([heads * d, groups * d, groups * d], -1)
                for new, part, turns in zip(made, parts, (True, True, False), strict=True):
                    x = part.view(b, n, -1, d)
                    new.copy_(turned(x, table) if turns else x)

            fused("rope", (qkv, *_given(table)), made, compute)
            ctx.shape, ctx.table = qkv.shape, table
            return tuple(made)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            grads = tuple(grad.contiguous() for grad in grads)
            of_qkv = grads[0].new_empty(ctx.shape)

            def compute() -> None:
                back = [turned(grads[0], ctx.table, -1), turned(grads[1], ctx.table, -1), grads[2]]
                of_qkv.copy_(xp.cat([x.flatten(2) for x in back], -1).view(ctx.shape))

            fused("rope_backward", (*grads, *_given(ctx.table)), (of_qkv,), compute, gradient=True)
            return of_qkv, None, None, None

    class Turned(base):  # type: ignore[misc]
        """Queries or keys (b, n, heads, d), turned by the angles of a table: new."""

        @staticmethod
        def forward(ctx: Any, x: Any, table: Any) -> Any:
            ctx.table = table
            out = x.new_empty(x.shape)
            fused("rope", (x, table), (out,), lambda: out.copy_(turned(x, table)))
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            grad, table = grad.contiguous(), ctx.table
            of_x = grad.new_empty(grad.shape)
            fused("rope_backward", (grad, table), (of_x,), lambda: of_x.copy_(turned(grad, table, -1)), gradient=True)
            return of_x, None

    class CausalSoftmax(base):  # type: ignore[misc]
        """The softmax of scores (b, h, n, n) times a scale, under a causal mask: keeps its result.

        The gradient is written over that of the result (fused_softmax.py, ScaledUpperTriangMaskedSoftmax).
        """

        @staticmethod
        def forward(ctx: Any, scores: Any, scale: float) -> Any:
            out = scores.new_empty(scores.shape)

            def compute() -> None:
                later = xp.ones(scores.shape[-2:], dtype=xp.bool, device=scores.device).triu(1)
                out.copy_((scores * scale).masked_fill(later, float("-inf")).softmax(-1))

            fused("softmax", (scores,), (out,), compute)
            ctx.save_for_backward(out)
            ctx.scale = scale
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (out,) = ctx.saved_tensors

            def compute() -> None:
                inner = (grad * out).sum(-1, keepdim=True)
                grad.copy_((grad - inner) * out * ctx.scale)

            fused("softmax_backward", (grad, out), (grad,), compute, gradient=True)
            return grad, None

    class Summed(base):  # type: ignore[misc]
        """The sum over the ranks of x, of all tokens or of this rank's; each rank gets the gradient of all."""

        @staticmethod
        def forward(ctx: Any, x: Any, sharing: Sharing) -> Any:
            ctx.sharing = sharing
            out = sharing.summed(x)
            # As a view, which PyTorch makes of an input that a function returns.
            return out.view(out.shape)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return ctx.sharing.gathered(grad), None

    class SwiGLU(base):  # type: ignore[misc]
        """silu(first half) * second half of x (tokens, 2 f): keeps x."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            out = x.new_empty(x.shape[0], x.shape[1] // 2)

            def compute() -> None:
                gate, up = x.chunk(2, -1)
                out.copy_(xp.nn.functional.silu(gate) * up)

            fused("swiglu", (x,), (out,), compute)
            ctx.save_for_backward(x)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (x,) = ctx.saved_tensors
            of_x = x.new_empty(x.shape)

            def compute() -> None:
                gate, up = x.chunk(2, -1)
                s = xp.sigmoid(gate)
                of_x.copy_(xp.cat([grad * up * s * (1 + gate * (1 - s)), grad * gate * s], -1))

            fused("swiglu_backward", (grad, x), (of_x,), compute, gradient=True)
            return of_x

    class Gelu(base):  # type: ignore[misc]
        """GELU by its tanh approximation, as bias_gelu: keeps its input."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            out = x.new_empty(x.shape)
            fused("gelu", (x,), (out,), lambda: out.copy_(xp.nn.functional.gelu(x, approximate="tanh")))
            ctx.save_for_backward(x)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (x,) = ctx.saved_tensors
            of_x = x.new_empty(x.shape)

            def compute() -> None:
                # sqrt(2 / pi), and three times 0.044715 of it (fused_bias_gelu.py, bias_gelu_back).
                t = xp.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
                slope = 0.5 * x * (1 - t * t) * (0.79788456 + 0.1070322243 * x * x) + 0.5 * (1 + t)
                of_x.copy_(slope * grad)

            fused("gelu_backward", (grad, x), (of_x,), compute, gradient=True)
            return of_x

    class ColumnLinear(base):  # type: ignore[misc]
        """ColumnParallelLinear of Megatron's own: gathers tokens into one buffer for ever, in forward and backward."""

        @staticmethod
        def forward(
            ctx: Any, x: Any, weight: Any, into: Any, bias: Any, sharing: Sharing, buffer: Any, deferred: Any = None
        ) -> Any:
            ctx.save_for_backward(x, weight)
            ctx.into, ctx.sharing, ctx.buffer, ctx.biased = into, sharing, buffer, bias is not None
            ctx.deferred = deferred
            # Megatron's GlobalMemoryBuffer ("mpu"): one for all micro-batches, kept for ever.
            out = _into(buffer, x, sharing) @ weight.t()
            return out if bias is None else out.add_(bias)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight = ctx.saved_tensors
            waits = ctx.deferred is not None and len(ctx.deferred.waiting) < ctx.deferred.limit
            whole = None if waits else _into(ctx.buffer, x, ctx.sharing)
            of_whole = grad @ weight
            # `of_whole` is alive until the end, as the local variable there.
            of_x = ctx.sharing.summed(of_whole)
            if waits:
                ctx.deferred.waiting.append((grad, x))
                return of_x, None, None, None, None, None, None
            of_weight = gradient_of_weight(grad, whole, ctx.into, local=True)
            if ctx.into is not None:
                weight.new_empty(weight.shape)  # stands for the gradient, which is in the sum already
            return of_x, of_weight, None, grad.sum(0) if ctx.biased else None, None, None, None

    class CrossEntropy(base):  # type: ignore[misc]
        """TransformerEngine's parallel cross-entropy: the gradient is written over the logits, in forward."""

        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any) -> Any:
            losses = logits.new_empty(logits.shape[0], dtype=xp.float32)

            def compute() -> None:
                wide = logits.float()
                losses.copy_(xp.nn.functional.cross_entropy(wide, targets, reduction="none"))
                logits.copy_(wide.softmax(-1) - xp.nn.functional.one_hot(targets, logits.shape[-1]))

            fused("cross_entropy", (logits, targets), (logits, losses), compute)
            # Nothing but the gradient, in the place of the logits.
            ctx.save_for_backward(logits)
            return losses.sum()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (logits,) = ctx.saved_tensors
            return logits, None

    class VocabularyCrossEntropy(base):  # type: ignore[misc]
        """Megatron's own: keeps the softmax in fp32, and makes the gradient of it in place.

        `jitted`: compiled (`--cross-entropy-loss-fusion`), where the update of the softmax by index is made in a copy.
        """

        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any, jitted: bool) -> Any:
            wide = logits.float()
            losses = wide.new_empty(wide.shape[0])

            def compute() -> None:
                losses.copy_(xp.nn.functional.cross_entropy(wide, targets, reduction="none"))
                wide.copy_(wide.softmax(-1))

            fused("cross_entropy", (wide, targets), (wide, losses), compute)
            ctx.save_for_backward(wide, targets)
            ctx.dtype, ctx.jitted = logits.dtype, jitted
            return losses.sum()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            wide, targets = ctx.saved_tensors
            if ctx.jitted:
                wide = wide.clone()

            def compute() -> None:
                wide.sub_(xp.nn.functional.one_hot(targets, wide.shape[-1]))

            fused("cross_entropy_backward", (wide, targets), (wide,), compute, gradient=True)
            return wide.to(ctx.dtype), None, None

    class Exchanged(base):  # type: ignore[misc]
        """All-to-all of a context-parallel group: (b, n / ranks, heads, d) to (b, n, heads / ranks, d), or back."""

        @staticmethod
        def forward(ctx: Any, x: Any, group: Group, to_heads: bool) -> Any:
            ctx.group, ctx.to_heads = group, to_heads
            return _exchanged(x, group, to_heads)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return _exchanged(grad, ctx.group, not ctx.to_heads), None, None

    found = (
        *(Norm, NormLinear, Linear, RowLinear, Summed, Rotated, Turned, CausalSoftmax, SwiGLU, Gelu, ColumnLinear),
        *(CrossEntropy, VocabularyCrossEntropy, Exchanged),
    )
    return SimpleNamespace(**{function.__name__: function.apply for function in found})


def _given(table: Any) -> tuple[Any, ...]:
    return () if table is None else (table,)


def turned(x: Any, table: Any, sign: int = 1) -> Any:
    """x (b, n, heads, d) turned by the angles (n, d) of a table, or back."""
    if table is None:
        return x
    cos, sin = (part.to(x.dtype)[None, :, None] for part in (table.cos(), sign * table.sin()))
    first, second = x.chunk(2, -1)
    return x * cos + namespace(x).cat((-second, first), -1) * sin


def add_deferred(deferred: Deferred, into: Any, sharing: Sharing, buffer: Any) -> None:
    """Add the gradients that have waited, one after the other."""
    while deferred.waiting:
        grad, x = deferred.waiting.pop(0)
        gradient_of_weight(grad, _into(buffer, x, sharing), into, local=True)


def _into(buffer: Any, x: Any, sharing: Sharing) -> Any:
    """All tokens, in the buffer; x itself where each rank has them all."""
    if sharing.group is None or not sharing.sequence:
        return x
    namespace(x).distributed.all_gather_into_tensor(buffer, x, group=sharing.group.handle)
    return buffer


def _exchanged(x: Any, group: Group, to_heads: bool) -> Any:
    """Pieces of heads for pieces of tokens, or back; what is sent lies in a copy."""
    b, n, heads, d = x.shape
    size = group.size
    if to_heads:
        # Pieces for one rank must lie together.
        sent = x.view(b, n, size, heads // size, d).permute(2, 0, 1, 3, 4).contiguous()
    else:
        sent = x.view(b, size, n // size, heads, d).permute(1, 0, 2, 3, 4).contiguous()
    got = sent.new_empty(sent.shape)
    namespace(x).distributed.all_to_all_single(got, sent, group=group.handle)
    del sent
    if to_heads:
        return got.permute(1, 0, 2, 3, 4).reshape(b, n * size, heads // size, d)
    return got.permute(1, 2, 0, 3, 4).reshape(b, n // size, heads * size, d)
