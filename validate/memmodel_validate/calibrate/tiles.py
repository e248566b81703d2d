"""The tile of a matrix product, read from the name of the kernel that ran."""

import re

import torch

from memmodel_validate.calibrate.products import _TORCH, SQUARE, precision

_PAIR = re.compile(r"(?<![0-9a-z])(?:tilesize)?(\d{2,3})x(\d{2,3})(?!\d)")


def tile_of(kernel: str) -> tuple[int, int] | None:
    """(rows, columns) of the result that a program owns, for row-major matrices; None where the name does not say.

    cuBLAS, CUTLASS and nvjet name the tile before the depth and the stages: ampere_..._128x256_ldg8,
    tilesize128x128x64, nvjet_hsh_128x256_64x4. They see matrices column-major, so that the first number counts the
    columns of a row-major result.
    """
    for first, second in _PAIR.findall(kernel):
        cols, rows = int(first), int(second)
        if min(rows, cols) >= 16 and max(rows, cols) <= 512 and not rows % 8 and not cols % 8:
            return rows, cols
    return None


def product_kernel(kind: str) -> str:
    """The name of the kernel that multiplies large square matrices of a type, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    n = SQUARE["cuda"]
    a = torch.randn(n, n, device="cuda", dtype=_TORCH[kind])
    with precision(kind), profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        torch.mm(a, a)
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() if event.device_type.name == "CUDA"]
    return longest({str(event.name): float(event.device_time) for event in kernels})


def longest(seconds: dict[str, float]) -> str:
    """The kernel that took longest: the product, not a copy beside it."""
    return max(seconds, key=lambda name: seconds[name], default="")
