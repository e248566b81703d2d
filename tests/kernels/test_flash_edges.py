"""Empty tensors, rows that see nothing, and wrong input."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from attention_reference import DEVICE, Case
from memmodel.base.errors import UsageError
from memmodel_kernels import flash_attention
from memmodel_kernels.triton_flash import choice


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("empty", ["b", "n", "m"])
def test_empty_dimensions(empty: str, deterministic: bool) -> None:
    case = Case(**{"b": 2, "h": 4, "g": 2, "n": 5, "m": 7, "d": 16, empty: 0})
    q, k, v = case.inputs()
    o, lse = flash_attention(q, k, v, deterministic=deterministic, return_lse=True)
    assert o.shape == q.shape
    assert (o == 0).all()
    assert lse.isneginf().all()
    for x, gradient in zip((q, k, v), torch.autograd.grad(o.sum() + lse.sum(), (q, k, v)), strict=True):
        assert gradient.shape == x.shape
        assert (gradient == 0).all()


@pytest.mark.parametrize("deterministic", [True, False])
def test_rows_that_see_no_key(deterministic: bool) -> None:
    """Causal with n > m: the first n - m queries stand before the first key."""
    case = Case(n=100, m=30, d=32, causal=True, dtype=torch.float32)
    q, k, v = case.inputs()
    o, lse = flash_attention(q, k, v, causal=True, deterministic=deterministic, return_lse=True)
    (dq,) = torch.autograd.grad(o.sum(), q)
    assert (o[:, :, :70] == 0).all()
    assert lse[:, :, :70].isneginf().all()
    assert (dq[:, :, :70] == 0).all()
    assert lse[:, :, 70:].isfinite().all()


def qkv(
    q: tuple[int, ...] = (1, 4, 8, 16), k: tuple[int, ...] = (1, 2, 8, 16), v: tuple[int, ...] | None = None
) -> list[torch.Tensor]:
    return [torch.zeros(shape, dtype=torch.float16, device=DEVICE) for shape in (q, k, v or k)]


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        (torch.zeros(8, 8, dtype=torch.bool), "given torch.bool"),
        (torch.zeros(8), r"bias \(8,\): it must broadcast to the scores \(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8), r"bias \(1, 3, 8, 8\): it must broadcast"),
        (torch.zeros(8, 8, requires_grad=True), "no gradient of its bias: pass bias.detach"),
        ([1.0], r"given \[1.0\]"),
    ],
)
def test_biases_that_are_refused(bias: Any, words: str) -> None:
    bias = bias.to(DEVICE) if isinstance(bias, torch.Tensor) else bias
    with pytest.raises(UsageError, match=words):
        flash_attention(*qkv(), bias=bias)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch.func
def test_no_transform_gives_a_wrong_derivative_of_the_bias() -> None:
    q, k, v = qkv()

    def total(bias: torch.Tensor) -> torch.Tensor:
        return flash_attention(q, k, v, bias=bias).sum()

    bias = torch.zeros(8, 8, device=DEVICE)
    for transform in (torch.func.grad, torch.func.jacfwd):
        with pytest.raises(UsageError, match="flash_attention has no"):
            transform(total)(bias)
    operator = torch.ops.memmodel.flash_attention
    with pytest.raises(UsageError, match="no gradient of its bias"):
        operator(q, k, v, False, None, None, None, True, bias=bias.requires_grad_())


WRONG_SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"q": (4, 8, 16)}, r"4 dimensions .* given q \(4, 8, 16\)"),
    ({"v": (1, 2, 9, 16)}, r"one shape: given .*v \(1, 2, 9, 16\)"),
    ({"q": (2, 4, 8, 16)}, r"one batch size: given q \(2, 4, 8, 16\)"),
    ({"q": (1, 4, 8, 32)}, r"one head dim"),
    ({"q": (1, 4, 8, 257), "k": (1, 2, 8, 257)}, r"head dim 257 is not supported: 1 to 256 are"),
    ({"q": (1, 3, 8, 16)}, r"multiple of key/value heads: given 3 and 2"),
    ({"k": (1, 0, 8, 16)}, r"multiple of key/value heads: given 4 and 0"),
    ({"q": (1, 3 << 20, 8, 16), "k": (1, 1, 8, 16)}, "25165824 queries meet one key head: at most 16777216 may"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG_SHAPES)
def test_wrong_shapes(shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flash_attention(*qkv(**shapes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0: a window holds at least 1 key"),
        ({"window": 2.5}, "window=2.5: a window is a whole number of keys; None means no window"),
        ({"window": True}, "window=True: a window is a whole number of keys"),
        ({"window": "8"}, "window='8': a window is a whole number of keys"),
        ({"causal": 1}, "causal=1: it must be True or False"),
        ({"deterministic": None}, "deterministic=None: it must be True or False"),
        ({"scale": True}, "scale=True: it must be a finite number"),
        ({"scale": float("nan")}, "scale=nan: it must be a finite number"),
        ({"softcap": True}, "softcap=True: it must be a positive number, such as 50"),
        ({"softcap": 0.0}, "softcap=0.0: it must be a positive number, such as 50"),
        ({"dropout": True}, "dropout=True: it must be a probability"),
        ({"dropout": 1.0}, "dropout=1.0: it must be a probability from 0 to below 1"),
        ({"precision": "tf32x4"}, "unknown precision 'tf32x4': did you mean tf32x3 or tf32"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flash_attention(*qkv(), **options)


def test_wrong_kinds() -> None:
    q, k, v = qkv()
    with pytest.raises(UsageError, match=r"one dtype: given torch.float16, torch.float32 and torch.float16"):
        flash_attention(q, k.float(), v)
    with pytest.raises(UsageError, match=r"torch.float64 is not supported: float16, bfloat16 and float32 are"):
        flash_attention(q.double(), k.double(), v.double())
    with pytest.raises(UsageError, match=r"one device: given .*meta"):
        flash_attention(q, k.to("meta"), v)
    with pytest.raises(UsageError, match=r"tensors on meta are not supported"):
        flash_attention(*(x.to("meta") for x in (q, k, v)))


def test_bfloat16_is_refused_by_the_interpreter() -> None:
    q, k, v = (x.cpu().bfloat16() for x in qkv())
    with pytest.raises(UsageError, match=r"CPU"):
        flash_attention(q, k, v)


def test_strides_too_large_for_a_block() -> None:
    _, k, v = qkv()
    q = torch.zeros(1, dtype=torch.float16, device=DEVICE).as_strided((1, 4, 1, 16), (0, 0, 2**24, 0))
    with pytest.raises(UsageError, match=r"q has strides .*: rows and columns may be at most 8388608 elements apart"):
        flash_attention(q, k, v)


def test_unsupported_architecture_and_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "arch", lambda device: 75)
    with pytest.raises(UsageError, match=r"sm_75 is not supported: there are tiles for sm_80, .*sm_120"):
        flash_attention(*qkv())
    monkeypatch.setattr(choice, "arch", lambda device: 90)
    monkeypatch.setattr(choice, "shared_limit", lambda device: 4096)
    with pytest.raises(UsageError, match=r"needs \d+ bytes of shared memory per program: 4096 are available"):
        flash_attention(*qkv())


def python(code: str, **environment: str) -> str:
    """Run `code` in a fresh interpreter; TRITON_INTERPRET is unset unless given."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    kept["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept | environment
    )
    return run.stdout


def test_cpu_tensors_need_the_interpreter() -> None:
    code = """
import torch
from memmodel_kernels import flash_attention
try:
    flash_attention(*[torch.zeros(1, 1, 8, 16)] * 3)
except ValueError as error:
    print(error)
"""
    assert "set TRITON_INTERPRET=1 before Triton is imported" in python(code)


def test_importing_the_package_imports_neither_torch_nor_triton() -> None:
    code = (
        "import memmodel_kernels, memmodel.attention.tiles, sys; print({'torch', 'triton', 'numpy'} & set(sys.modules))"
    )
    assert python(code).strip() == "set()"
