"""The constants of PyTorch's flash attention on a CPU: two head dims at one length, solved for two rates.

A core multiplies, then exponentiates: products / flops + exponentials / exp = seconds, with the work that the model
itself records, so that there are as many equations as unknowns and nothing is fitted.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from memmodel.attention.case import make_case
from memmodel.base.errors import UsageError
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.recorder import record
from memmodel.recording import CPU
from memmodel.timing import Constant
from memmodel.timing.fused import is_flash
from memmodel_validate.calibrate.clock import Clock
from memmodel_validate.calibrate.samples import Samples, spread, typical
from memmodel_validate.cpu import with_cpu_blocks

LENGTH, HEADS = 1024, 2
HEAD_DIMS = (16, 64)  # small: at larger ones the exponentials vanish in the noise of the products
Equation = tuple[float, float, float]  # products in FLOP, exponentials, seconds


def flash_constants(clock: Clock) -> Iterator[tuple[str, Constant]]:
    """flash.* and flash_backward.*: flops, exp, and overlap 0."""
    times = {d: _times(d, clock) for d in HEAD_DIMS}
    for phase, prefix in (("forward", "flash"), ("backward", "flash_backward")):
        samples = [times[d][phase] for d in HEAD_DIMS]
        equations = [(*amounts(work_of(d, phase)), typical(found)) for d, found in zip(HEAD_DIMS, samples, strict=True)]
        flops, exp = solve(equations[0], equations[1])
        origin = f"SDPA's flash {phase} at n = {LENGTH}, head dims {HEAD_DIMS[0]} and {HEAD_DIMS[1]}"
        widest = max(spread(found) or 0.0 for found in samples)
        yield f"{prefix}.flops", Constant(flops, origin, widest)
        yield f"{prefix}.exp", Constant(exp, origin, widest)
        yield f"{prefix}.overlap", Constant(0.0, "a core does one after the other")


def solve(first: Equation, second: Equation) -> tuple[float, float]:
    """Rates (flops, exp) with products / flops + exponentials / exp = seconds for both. Raises UsageError."""
    work, seconds = np.array([first[:2], second[:2]]), np.array([first[2], second[2]])
    per_flop, per_exp = np.linalg.solve(work, seconds) if np.linalg.det(work) else (0.0, 0.0)
    if per_flop <= 0 or per_exp <= 0:
        raise UsageError(
            f"flash attention took {seconds[0]:.3g} s and {seconds[1]:.3g} s at two head dims, but more work takes "
            "longer: calibrate again on an idle machine"
        )
    return float(1 / per_flop), float(1 / per_exp)


def work_of(head_dim: int, phase: str) -> Work:
    """The launches that the model records for a phase of flash attention."""
    case = with_cpu_blocks(make_case("flash", heads=HEADS, seq=LENGTH, head_dim=head_dim, dtype_name="fp32"))
    events = record(case, CPU).phases()[phase]
    return sum((event.work for event in events if isinstance(event, Launch) and is_flash(event)), start=Work())


def amounts(work: Work) -> tuple[float, float]:
    """Products in FLOP, and exponentials."""
    return float(work.matmul), float(work.exp)


def _times(head_dim: int, clock: Clock) -> dict[str, Samples]:
    shape = (1, HEADS, LENGTH, head_dim)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    upstream = torch.randn(shape)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        with torch.no_grad():
            forward = clock.samples(lambda: scaled_dot_product_attention(q, k, v), 0.6)
        out = scaled_dot_product_attention(q, k, v)
        backward = clock.samples(lambda: torch.autograd.grad(out, (q, k, v), upstream, retain_graph=True), 0.8)
    return {"forward": forward, "backward": backward}
