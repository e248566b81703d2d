"""The measured GPU that another is most like: of its architecture, else of the nearest one with the same memory."""

import math
from collections.abc import Iterable
from functools import cache

from memmodel.gpus import Gpu, load_gpu

# In order of time; GPUs with stacked memory, and with GDDR or LPDDR.
_STACKED = (
    *("volta", "ampere_ga100", "hopper", "blackwell_dc", "blackwell_ultra"),
    *("gfx90a", "gfx942", "gfx950", "gaudi2", "gaudi3"),
)
_OTHERS = ("turing", "ampere_ga10x", "ampere_ga10b", "ada", "blackwell_rtx", "blackwell_gb10")


def by_likeness(gpu: Gpu, measured: Iterable[str]) -> list[str]:
    """The ids of measured GPUs, the one most like `gpu` first."""
    return sorted(measured, key=lambda id_: _distance(gpu, _known(id_)))


@cache
def _known(id_: str) -> Gpu:
    return load_gpu(id_)


def relation(gpu: Gpu, measured: str) -> str:
    """How a GPU is related to a measured one: "measured" (the same), "architecture" (they share it), or "other"."""
    if gpu.id == measured:
        return "measured"
    return "architecture" if gpu.arch in (_known(measured).arch, *_TWINS.get(_known(measured).arch, ())) else "other"


_TWINS = {"blackwell_dc": ("blackwell_ultra",), "blackwell_ultra": ("blackwell_dc",)}  # one SM, but for exponentials


def _distance(gpu: Gpu, other: Gpu) -> tuple[float, float]:
    """Steps between architectures, then how far apart FLOP per byte are; what a file is based on is nearest."""
    if other.id in (gpu.id, gpu.base):
        return (-1.0, 0.0)
    return float(_steps(gpu.arch, other.arch)), abs(math.log(_balance(gpu) / _balance(other)))


def is_stacked(gpu: Gpu) -> bool:
    """Whether a GPU has stacked memory (HBM), and not GDDR or LPDDR."""
    return gpu.arch in _STACKED


def _steps(arch: str, other: str) -> int:
    for line in (_STACKED, _OTHERS):
        if arch in line and other in line:
            return abs(line.index(arch) - line.index(other))
    # Another kind of memory is farther than any architecture; an unknown architecture is the farthest.
    return len(_STACKED) + (0 if arch in (*_STACKED, *_OTHERS) else 1)


def _balance(gpu: Gpu) -> float:
    """FLOP per byte in 16 bits; that of an A100 where it is not known."""
    # Before Ampere there is no bf16, and fp16's peak stands for 16 bits.
    kind = "tensor.bf16" if "tensor.bf16" in gpu.values else "tensor.fp16"
    known = kind in gpu.values and "bandwidth" in gpu.values
    return gpu.value(kind) / gpu.bandwidth if known else 153.0
