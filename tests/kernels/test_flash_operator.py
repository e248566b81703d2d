"""The operators as PyTorch sees them: opcheck, fake tensors, torch.compile, numerical gradients."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_reference import Case, upstream
from memmodel_kernels import flash_attention
from memmodel_kernels.triton_flash.op import flash_attention_backward_op, flash_attention_op

CASE = Case(b=2, h=4, g=2, n=20, m=30, d=32, causal=True, dtype=torch.float32)


def test_opcheck() -> None:
    """With all that a call may have; `test_flash_sequences` has one without."""
    case = Case(h=2, g=1, n=5, m=6, d=16, causal=True, dtype=torch.float32)
    q, k, v = case.inputs()
    options = (True, 3, 0.2, "ieee", True, 2.0, None, 0.5, None, None, torch.tensor([7]))
    torch.library.opcheck(flash_attention_op, (q, k, v, *options))
    o, lse = flash_attention_op(q, k, v, *options)
    do, dlse = upstream(case)
    tensors = (x.detach() for x in (do, dlse, q, k, v, o, lse))
    torch.library.opcheck(flash_attention_backward_op, (*tensors, *options))


def test_fake_tensors_have_the_shapes_and_strides_of_real_ones() -> None:
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in CASE.inputs())
    real = flash_attention_op(q, k, v, True, None, 0.2, "ieee", True)
    with FakeTensorMode() as mode:
        fakes = (mode.from_tensor(x) for x in (q, k, v))
        fake = flash_attention_op(*fakes, True, None, 0.2, "ieee", True)
    for got, want in zip(fake, real, strict=True):
        assert (got.shape, got.stride(), got.dtype) == (want.shape, want.stride(), want.dtype)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch.compile
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic: bool) -> None:
    q, k, v = CASE.inputs()
    do, _ = upstream(CASE)

    def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flash_attention(q * 2, k, v, causal=True, softcap=3.0)

    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    results = []
    for function in (layer, compiled):
        o = function(q, k, v)
        results.append((o, *torch.autograd.grad(o, (q, k, v), do)))
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:Input #:UserWarning")  # gradcheck would rather have fp64
def test_numerical_gradients() -> None:
    """Central differences in fp32 (the kernels have no fp64): a coarse step, so that rounding stays small."""
    case = Case(h=2, g=1, n=4, m=5, d=16, causal=True, dtype=torch.float32)
    inputs = case.inputs()

    def both(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return flash_attention(q, k, v, causal=True, return_lse=True)

    assert torch.autograd.gradcheck(both, inputs, eps=1e-2, atol=1e-3, rtol=1e-2, fast_mode=True)
