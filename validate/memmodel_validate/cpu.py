"""The CPU as a device: its name, a `Gpu` without listed values, and how busy others keep it. Imports no torch."""

import os
import platform
from dataclasses import replace

from memmodel.case import Case
from memmodel.gpus import Gpu
from memmodel.tiles import Tile
from memmodel_kernels.flash import FlashTiles

_ALONE = 1.0  # the load of the process that asks


def cpu() -> Gpu:
    """The processor of this machine as a device without datasheet values: its times come from a calibration alone."""
    return Gpu(id="cpu", name=cpu_name(), vendor="", arch="", compute_capability=None, values={})


def with_cpu_blocks(case: Case) -> Case:
    """The case with the blocks that PyTorch's fused attention walks on a CPU: 512 keys, whatever the mask.

    aten/src/ATen/native/cpu/FlashAttentionKernel.cpp: kvSplitSize 512; qSplitSize 32, 64 or 256 by the length. A causal
    mask ends the loop over keys at the block that holds the last one seen.
    """
    block = Tile(64, 512)
    return replace(case, tiles=FlashTiles(block, block, block, block))


def cpu_name() -> str:
    """The processor's model name, as /proc/cpuinfo or the platform has it; "unknown CPU" where neither does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass  # not a Linux
    return platform.processor() or platform.machine() or "unknown CPU"


def cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy(own: float = _ALONE) -> float:
    """Share of the cores that others keep busy, 0 to 1 and more: the last minute's load less `own`, over the cores.

    `own` is the load that the asking process has made itself. 0 where the system does not say.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0
    return max(load - own, 0.0) / cores()


def available_bytes() -> int | None:
    """Memory that a new process can use without swapping (MemAvailable); None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not a Linux
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
