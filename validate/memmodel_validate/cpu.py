"""The CPU as a device: its name, a `Gpu` without listed values, and its load by others. Imports no torch."""

import platform
from dataclasses import replace

from memmodel.attention.case import Case
from memmodel.attention.tiles import Tile
from memmodel.gpus import Gpu
from memmodel_kernels.flash import FlashTiles

WATCHED = 0.5  # seconds


def cpu() -> Gpu:
    """The processor of this machine as a device without datasheet values: its times come from a calibration alone."""
    return Gpu(id="cpu", name=cpu_name(), vendor="", arch="", compute_capability=None, values={})


def with_cpu_blocks(case: Case) -> Case:
    """The case with the blocks of PyTorch's fused attention on a CPU: 512 keys, whatever the mask.

    aten/src/ATen/native/cpu/FlashAttentionKernel.cpp: kvSplitSize 512; qSplitSize 32, 64 or 256 by the length. A causal
    mask ends the loop over keys at the block that holds the last one seen.
    """
    block = Tile(64, 512)
    return replace(case, tiles=FlashTiles(block, block, block, block))


def cpu_name() -> str:
    """The processor's model name, from /proc/cpuinfo or the platform; "unknown CPU" without either."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass  # not a Linux
    return platform.processor() or platform.machine() or "unknown CPU"


def busy() -> float:
    """Share of the cores, 0 to 1, that this machine keeps busy while this process sleeps for WATCHED seconds.

    The load average would count what this process itself did in the last minute, such as a calibration before.
    """
    import psutil

    return float(psutil.cpu_percent(interval=WATCHED)) / 100


def available_bytes() -> int:
    """Memory that a new process can use without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
