"""Attention written plainly, in any dtype: the fp64 reference and the same-dtype PyTorch computation.

A kernel passes when its error against fp64 is at most a small multiple of what PyTorch's own arithmetic in the same
dtype makes (FlashAttention-2's criterion), plus what rounding alone does: no absolute tolerance appears anywhere.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter computes bfloat16 wrongly, so that type is for a GPU.
DTYPES = [torch.float16, torch.float32, *([torch.bfloat16] if DEVICE == "cuda" else [])]


@dataclass(frozen=True)
class Case:
    """One attention call; `g` key/value heads, `h` query heads."""

    b: int = 1
    h: int = 2
    g: int = 2
    n: int = 63
    m: int = 63
    d: int = 64
    causal: bool = False
    window: int | None = None
    scale: float | None = None
    dtype: torch.dtype = torch.float16
    softcap: float | None = None
    dropout: float = 0.0
    bias: tuple[int, ...] | None = None  # its shape
    order: int = 0  # of queries, keys and head dims: as they come, or shuffled from this seed

    def __str__(self) -> str:
        mask = ("-causal" if self.causal else "") + (f"-window{self.window}" if self.window else "")
        mask += f"-cap{self.softcap:g}" if self.softcap else ""
        mask += f"-drop{self.dropout:g}" if self.dropout else ""
        mask += f"-bias{self.bias}" if self.bias else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"b{self.b}h{self.h}g{self.g}n{self.n}m{self.m}d{self.d}{mask}-{dtype}"

    def inputs(self, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Random normal q, k, v that need gradients."""
        generator = torch.Generator().manual_seed(seed)
        shapes = ((self.b, self.h, self.n, self.d), *[(self.b, self.g, self.m, self.d)] * 2)
        numbers = (torch.randn(s, generator=generator).to(DEVICE, self.dtype) for s in shapes)
        rows, columns, dims = self.shuffles()
        which = rows, columns, columns
        q, k, v = (
            x.index_select(2, i).index_select(3, dims).requires_grad_() for x, i in zip(numbers, which, strict=True)
        )
        return q, k, v

    def shuffles(self) -> list[Tensor]:
        """In what order queries, keys and head dims come."""
        generator = torch.Generator().manual_seed(self.order)
        sizes = self.n, self.m, self.d
        return [(torch.randperm(x, generator=generator) if self.order else torch.arange(x)).to(DEVICE) for x in sizes]

    def added(self) -> Tensor | None:
        """The bias, if there is one: numbers of the size of scores, -inf for one key in nine, but never the first."""
        if self.bias is None:
            return None
        numbers = torch.randn(self.bias, generator=torch.Generator().manual_seed(3))
        numbers[..., 7::9] = -torch.inf
        return numbers.to(DEVICE, self.dtype)

    def visible(self) -> Tensor:
        """(n, m) mask of the pairs that attend, aligned at the bottom right."""
        i = torch.arange(self.n, device=DEVICE)[:, None] + self.m - self.n
        j = torch.arange(self.m, device=DEVICE)[None, :]
        mask = torch.ones(self.n, self.m, dtype=torch.bool, device=DEVICE)
        if self.causal:
            mask &= j <= i
        if self.window is not None:
            mask &= (i - j < self.window) & (j - i < self.window)
        rows, columns, _ = self.shuffles()
        return mask[rows][:, columns]

    def draw(self) -> None:
        """Set the state of torch's generator from which a call draws its seed."""
        torch.manual_seed(self.n)

    def kept(self) -> Tensor:
        """(b, h, n, m) mask of the weights that dropout keeps, of numbers, with a sign, from p 2^32 - 2^31 on."""
        self.draw()
        seed = int(torch.randint(2**63 - 1, (1,), device=DEVICE))
        heads, i, j = np.arange(self.b * self.h)[:, None, None], np.arange(self.n)[:, None], np.arange(self.m)
        random = philox((j, heads, i, np.zeros(1)), seed)[0].astype(np.uint32).view(np.int32)
        kept = torch.from_numpy(random >= round(self.dropout * 2**32) - 2**31)
        return kept.view(self.b, self.h, self.n, self.m).to(DEVICE)


def philox(counter: Sequence[Any], seed: int, rounds: int = 7) -> list[Any]:
    """Philox 4x32: four arrays of 32-bit numbers. Salmon et al., "Parallel random numbers" (2011), section 3.3."""
    key, low = [seed & 0xFFFFFFFF, seed >> 32], np.uint64(0xFFFFFFFF)
    a, b, c, d = np.broadcast_arrays(*(np.asarray(x, np.uint64) for x in counter))
    for _ in range(rounds):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = (second >> np.uint64(32)) ^ b ^ np.uint64(key[0]), second & low
        c, d = (first >> np.uint64(32)) ^ d ^ np.uint64(key[1]), first & low
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [a, b, c, d]


def attention(q: Tensor, k: Tensor, v: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """(output, LSE) in the dtype of q; rows without keys give 0 and -inf, without NaN in any gradient."""
    group = case.h // case.g
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scale = case.d**-0.5 if case.scale is None else case.scale
    visible = case.visible()
    scores = q @ k.mT * scale
    if case.softcap is not None:
        scores = (scores / case.softcap).tanh() * case.softcap
    if case.bias is not None:
        scores = scores + case.added()
    scores = scores.masked_fill(~visible, -torch.inf)
    alive = visible.any(-1)
    lse = scores.masked_fill(~alive[:, None], 0.0).logsumexp(-1)
    probabilities = (scores - lse[..., None]).exp()
    if case.dropout:
        probabilities = probabilities * case.kept() / (1 - case.dropout)
    return probabilities @ v, lse.masked_fill(~alive, -torch.inf)


@dataclass(frozen=True)
class Result:
    """Everything that a call computes."""

    o: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor


def upstream(case: Case, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random gradients of the output and of the LSE; the LSE of a row without keys is a constant."""
    generator = torch.Generator().manual_seed(seed)
    do = torch.randn((case.b, case.h, case.n, case.d), generator=generator).to(DEVICE, case.dtype)
    dlse = torch.randn((case.b, case.h, case.n), generator=generator).to(DEVICE)
    rows, _, dims = case.shuffles()
    return do.index_select(2, rows).index_select(3, dims), dlse.index_select(2, rows) * case.visible().any(-1)


def plain(case: Case, dtype: torch.dtype, seed: int = 0) -> Result:
    """The result of plain PyTorch computed in `dtype` from the case's inputs."""
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in case.inputs(seed))
    do, dlse = upstream(case)
    o, lse = attention(q, k, v, case)
    alive = case.visible().any(-1)
    total = (o * do.to(dtype)).sum() + (torch.where(alive, lse, 0.0) * dlse.to(dtype)).sum()
    return Result(o.detach(), lse.detach(), *torch.autograd.grad(total, (q, k, v)))


NAMES = tuple(field.name for field in dataclasses.fields(Result))


def assert_close(got: Result, case: Case, seed: int = 0, gradient_factor: int = 3) -> None:
    """Output within 2x and gradients within 3x of plain operators' own error, plus four roundings of the largest value.

    Where they make no error at all (one visible key: its weight is exactly 1), the kernel still converts between base 2
    and base e, and its dP - delta still cancels.
    """
    exact, own = plain(case, torch.float64, seed), plain(case, case.dtype, seed)
    largest = max(_largest(x[x.isfinite()]) for x in (getattr(exact, name) for name in NAMES))
    rounding = 4 * torch.finfo(case.dtype).eps * largest
    for name in NAMES:
        actual, reference, torch_result = (getattr(r, name).double() for r in (got, exact, own))
        assert actual.shape == reference.shape, f"{case}: {name} has shape {tuple(actual.shape)}"
        finite = reference.isfinite()
        assert torch.equal(actual[~finite], reference[~finite]), f"{case}: {name} differs where it is infinite"
        factor = 2 if name in ("o", "lse") else gradient_factor
        allowed = factor * _largest((torch_result - reference)[finite]) + rounding
        error = _largest((actual - reference)[finite])
        assert error <= allowed, f"{case}: {name} is off by {error:.2e}, allowed {allowed:.2e}"


def by_sdpa(case: Case, seed: int = 0) -> Result:
    """The result of `scaled_dot_product_attention` in the case's dtype; the LSE, which it hides, by plain operators.

    Without a GPU that is PyTorch's flash kernel: it takes a mask, and its backward subtracts the sum of dO * O too.
    """
    q, k, v = case.inputs(seed)
    do, dlse = upstream(case)
    visible = case.visible()
    o = scaled_dot_product_attention(
        q, k, v, attn_mask=None if visible.all() else visible, scale=case.scale, enable_gqa=case.h != case.g
    )
    _, lse = attention(q, k, v, case)
    of_o = torch.autograd.grad(o, (q, k, v), do)
    total = (torch.where(visible.any(-1), lse, 0.0) * dlse.to(case.dtype)).sum()
    of_lse = torch.autograd.grad(total, (q, k, v), materialize_grads=True)
    return Result(o.detach(), lse.detach(), *(a + b for a, b in zip(of_o, of_lse, strict=True)))


def assert_at_most_twice(got: Result, case: Case, orders: int = 1) -> None:
    """No error above twice PyTorch's own in the case's dtype.

    That is the largest of plain operators and of PyTorch's own kernel, with the same numbers in `orders` orders of
    queries, keys and head dims: the exact result is the same, the order of each sum is another.
    """
    errors, own = _errors(got, plain(case, torch.float64)), dict.fromkeys(NAMES, 0.0)
    for order in range(orders):
        same = dataclasses.replace(case, order=order)
        exact = plain(same, torch.float64)
        for found in (plain(same, case.dtype), by_sdpa(same)):
            own = {name: max(own[name], error) for name, error in _errors(found, exact).items()}
    for name in NAMES:
        assert own[name] < torch.inf, f"{case}: PyTorch's own {name} differs in kind"
        assert errors[name] <= 2 * own[name], f"{case}: {name} is off by {errors[name]:.2e}, PyTorch by {own[name]:.2e}"


def _errors(found: Result, exact: Result) -> dict[str, float]:
    """The largest error of each result; infinite where shapes or infinities differ."""
    errors = {}
    for name in NAMES:
        actual, reference = (getattr(result, name).double() for result in (found, exact))
        finite = reference.isfinite()
        alike = actual.shape == reference.shape and torch.equal(actual[~finite], reference[~finite])
        errors[name] = _largest((actual - reference)[finite]) if alike else torch.inf
    return errors


def _largest(x: Tensor) -> float:
    """Largest magnitude; NaN counts as infinite."""
    return float(x.abs().nan_to_num(nan=torch.inf).max()) if x.numel() else 0.0
