"""NVML's readings of the GPU that torch uses; without NVML, or where it gives none, there are none."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def asked(question: Callable[[Any, Any], T], otherwise: T) -> T:
    """A reading, by a function of NVML and its handle of the GPU; `otherwise` if it fails."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return question(pynvml, _handle(pynvml))
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # NVML's errors differ by version, and not every GPU and driver gives every reading
        return otherwise


def _handle(nvml: Any) -> Any:
    """NVML's handle of torch's first GPU, which need not be NVML's first under CUDA_VISIBLE_DEVICES."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") if uuid else nvml.nvmlDeviceGetHandleByIndex(0)


def driver() -> str:
    """The driver's version; empty where it is not known."""
    return asked(lambda nvml, handle: str(nvml.nvmlSystemGetDriverVersion()), "")


def clocks() -> dict[str, float]:
    """SM and memory clocks in MHz, temperature in degrees Celsius and power in W, as they are now."""

    def read(nvml: Any, handle: Any) -> dict[str, float]:
        return {
            "sm_clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        }

    return asked(read, {})


def used_bytes() -> int | None:
    """Memory of this process on the GPU; None where NVML does not say, as in a container with its own process ids."""

    def read(nvml: Any, handle: Any) -> int | None:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return next((p.usedGpuMemory for p in running if p.pid == os.getpid() and p.usedGpuMemory), None)

    return asked(read, None)


def others() -> tuple[int, int]:
    """The number of other processes that compute on the GPU, and the per cent of time in which kernels ran."""

    def read(nvml: Any, handle: Any) -> tuple[int, int]:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return sum(p.pid != os.getpid() for p in running), int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)

    return asked(read, (0, 0))
