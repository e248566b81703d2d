"""Matrix products as TransformerEngine runs them: through cuBLASLt, with one workspace of its own for all of them.

Source: NVIDIA/TransformerEngine, transformer_engine/pytorch/cpp_extensions/gemm.py (general_gemm and its workspace).
"""

from memmodel.events.program import Launch
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, rule
from memmodel.sizes.dims import product
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor


@rule("te_gemm")
def gemm(call: Call) -> Steps:
    """(m, k) x (k, n) -> (m, n), or as many of them as there are experts, in one launch."""
    a, b = call.args
    yield RESULTS
    yield _product("te_gemm", [a, b], call.out, a, b)


@rule("te_gemm_")
def accumulated(call: Call) -> Steps:
    """The same, added to a result in fp32."""
    a, b = call.args
    yield _product("te_gemm", [call.out, a, b], call.out, a, b)


@makes("te_gemm")
def _shape(a: Strided, b: Strided) -> Spec:
    return Spec((*a.shape[:-1], b.shape[-1]), a.dtype)


def _product(name: str, reads: list[Strided], out: Strided, a: Strided, b: Strided) -> Launch:
    *experts, rows, width = a.shape
    return kernel(
        name, reads, [out], a.dtype, matmul=2 * product(a.shape) * b.shape[-1], kind="gemm",
        sizes=(product(experts), rows, b.shape[-1], width),
    )  # fmt: skip


def te_gemm(a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
    """a b for a (m, k) and b (k, n), or (experts, ...) each, into a new tensor; or added to `into`, maybe in fp32."""
    return aten("te_gemm", a, b) if into is None else aten("te_gemm_", a, b, into=into)
