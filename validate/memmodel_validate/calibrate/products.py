"""Matrix products by element type and shape class: large square, Q K^T ("scores"), P V ("values").

Rates count what the machine computes: on a GPU whole tiles in whole waves (`memmodel.timing.terms.tiles_and_waves`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch

from memmodel.timing import Constant, Machine
from memmodel.timing.terms import tiles_and_waves
from memmodel_validate.calibrate.clock import Clock
from memmodel_validate.calibrate.samples import Samples, curve, rate

THIN = (16, 32, 64, 128)  # head dims
SQUARE = {"cpu": 1536, "cuda": 8192}  # side
LONG = {"cpu": 2048, "cuda": 8192}  # queries and keys
SUSTAINED = 1.0  # seconds of products before a GPU's clocks are those of a long run
TYPES = {"cpu": ("fp32",), "cuda": ("fp32", "tf32", "bf16", "fp16")}
_TORCH = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def precision(kind: str) -> Iterator[None]:
    """Whether fp32 products run as TF32; as before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def square(kind: str, clock: Clock, on: Machine, side: int | None = None) -> Constant:
    """FLOP/s of large square matrices; on a GPU of the last half of at least SUSTAINED seconds."""
    n = side or SQUARE[clock.device]
    a, b = (torch.randn(n, n, device=clock.device, dtype=_TORCH[kind]) for _ in range(2))
    out = torch.empty_like(a)
    with precision(kind):
        samples = clock.samples(lambda: torch.mm(a, b, out=out), 2 * SUSTAINED if clock.device == "cuda" else 0.4)
    if clock.device == "cuda":
        samples = samples[len(samples) // 2 :]
    return rate(computed((1, n, n, n), kind, on), samples, f"mm of {n} x {n}")


def scores(kind: str, clock: Clock, on: Machine, long: int | None = None) -> Constant:
    """FLOP/s of (n, d) x (d, n) over d: Q K^T, whose second operand is a transposed view."""
    n = long or LONG[clock.device]
    points: dict[float, tuple[float, Samples]] = {}
    for d in THIN:
        q, k = (torch.randn(1, n, d, device=clock.device, dtype=_TORCH[kind]) for _ in range(2))
        out = torch.empty(1, n, n, device=clock.device, dtype=_TORCH[kind])
        with precision(kind):
            samples = clock.samples(lambda q=q, k=k, out=out: torch.bmm(q, k.mT, out=out))  # type: ignore[misc]
        points[d] = computed((1, n, n, d), kind, on), samples
    return curve(points, f"bmm of (1, {n}, d) and (1, d, {n})")


def values(kind: str, clock: Clock, on: Machine, long: int | None = None) -> Constant:
    """FLOP/s of (n, n) x (n, d) over d: P V and dS K, and as many with the first operand transposed (P^T dO)."""
    n = long or LONG[clock.device]
    probs = torch.randn(1, n, n, device=clock.device, dtype=_TORCH[kind])
    points: dict[float, tuple[float, Samples]] = {}
    for d in THIN:
        v = torch.randn(1, n, d, device=clock.device, dtype=_TORCH[kind])
        out = torch.empty_like(v)
        with precision(kind):
            plain = clock.samples(lambda v=v, out=out: torch.bmm(probs, v, out=out))  # type: ignore[misc]
            turned = clock.samples(lambda v=v, out=out: torch.bmm(probs.mT, v, out=out))  # type: ignore[misc]
        points[d] = 2 * computed((1, n, d, n), kind, on), [a + b for a, b in zip(plain, turned, strict=False)]
    return curve(points, f"bmm of (1, {n}, {n}) and (1, {n}, d), plain and transposed")


def computed(sizes: tuple[int, int, int, int], kind: str, on: Machine) -> float:
    """FLOP of a product, with the edges of its tiles and the SMs without one in its last wave."""
    return 2.0 * prod(sizes) * tiles_and_waves(sizes, kind, on)
