"""What Liger Kernel's benchmarks of cross-entropy run, on recording tensors: a loss repeated, its gradients kept.

Sources: benchmark/scripts/benchmark_cross_entropy.py and benchmark_fused_linear_cross_entropy.py; the fused loss as of
Liger Kernel 0.4.2, src/liger_kernel/ops/fused_linear_cross_entropy.py, whose chunks go through fp32.
"""

from collections.abc import Callable
from typing import Any

from memmodel import recording as t
from memmodel.events.program import Program
from memmodel_kernels.kernel import kernel
from memmodel_kernels.losses import chunk_rows, cross_entropy_in_place

_WIDTH = 4096  # hidden size of the benchmark of the head
_REPEATS = 2  # from the second on, gradients of the one before stand


def cross_entropy(by: str, tokens: int, vocabulary: int) -> Program:
    """The loss of ready logits in fp32, by "torch" or "liger"."""

    def setup() -> Callable[[], Any]:
        logits = t.empty(tokens, vocabulary, requires_grad=True)
        targets = t.zeros(tokens, dtype=t.int64)
        if by == "torch":
            return lambda: t.cross_entropy(logits, targets)
        return lambda: cross_entropy_in_place(logits, targets)

    return _repeated(setup)


def fused_cross_entropy(by: str, tokens: int, vocabulary: int) -> Program:
    """The head and its loss in bf16, by "torch" or "liger"; the benchmark holds both providers' heads."""

    def setup() -> Callable[[], Any]:
        x = t.empty(tokens, _WIDTH, dtype=t.bfloat16, requires_grad=True)
        targets = t.zeros(tokens, dtype=t.int64)
        heads = [t.empty(vocabulary, _WIDTH, dtype=t.bfloat16, requires_grad=True) for _ in range(2)]
        if by == "torch":
            return lambda: t.cross_entropy(t.linear(x, heads[0]), targets)
        return lambda: _LigerFusedCrossEntropy.apply(x, heads[0], targets)

    return _repeated(setup)


def _repeated(setup: Callable[[], Callable[[], Any]]) -> Program:
    with t.Tape(sites=False) as tape:
        tape.mark("inputs")
        loss = setup()
        for _ in range(_REPEATS):
            tape.mark("forward")
            value = loss()
            tape.mark("backward")
            value.backward()
            del value
        tape.mark("after")
    return tape.program


class _LigerFusedCrossEntropy(t.Function):
    """Logits of a chunk of tokens at a time; all gradients are made in forward."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, targets: Any) -> Any:
        of_x: Any = t.zeros(*x.shape, dtype=x.dtype)
        of_weight = t.zeros(*weight.shape, dtype=weight.dtype)
        losses = t.zeros(x.shape[0])
        rows = chunk_rows(x.shape[0], x.shape[1], weight.shape[0])
        for start in range(0, x.shape[0], rows):
            part: Any = x[start : start + rows]
            logits = part @ weight.t()  # the gradient of the chunk before is alive still
            logits = logits.float()
            with kernel("cross_entropy", reads=(logits, targets), writes=(logits, losses)):
                pass
            logits = logits.to(x.dtype)
            gradient = logits
            of_x[start : start + rows].addmm_(gradient, weight, beta=0)
            of_weight.addmm_(gradient.t(), part)
        ctx.save_for_backward(of_x, of_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return (*ctx.saved_tensors, None)
