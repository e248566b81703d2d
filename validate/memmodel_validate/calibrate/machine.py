"""What a calibration was made on, and whether anything else is running there."""

import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import torch

from memmodel.errors import UsageError
from memmodel.gpus import Gpu, load_gpu, local_gpu
from memmodel_validate.cpu import busy, cpu, cpu_name

CPU_LIMIT = 0.25  # share of the cores that others may keep busy
WATCHED = 0.5  # seconds
GPU_LIMIT = 5  # per cent of the time that kernels ran


def device_of(name: str) -> Gpu:
    """The device that `--device` names. Raises UsageError where it is not there."""
    if name == "cpu":
        return cpu()
    if not torch.cuda.is_available():
        raise UsageError(
            "--device cuda, but PyTorch sees no GPU here: calibrate the processor with --device cpu, or check "
            "torch.cuda.is_available()"
        )
    return local_gpu() if _nvml() else load_gpu(torch.cuda.get_device_name())


def description(gpu: Gpu, device: str, threads: int) -> dict[str, str]:
    """The `machine` of a calibration: names and versions, nothing that identifies the host."""
    found = {"gpu": gpu.name} if device == "cuda" else {"cpu": cpu_name()}
    found |= {"gpu_id": gpu.id, "torch": torch.__version__, "triton": _triton(), "threads": str(threads)}
    found["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d")  # noqa: UP017 -- datetime.UTC hides from mypy 3.11
    if device == "cuda":
        found["driver"] = _asked("driver")
    return {name: value for name, value in found.items() if value}


def clocks(device: str) -> str:
    """SM and memory clocks and power as NVML has them now: "1980 MHz SM, 2619 MHz memory, 120 W"; "" without NVML."""
    return _asked("clocks") if device == "cuda" else ""


def reason_busy(device: str) -> str:
    """What else is running, in words; "" where nothing is."""
    if device == "cuda":
        return _asked("others")
    share = others_share()
    return f"others keep {100 * share:.0f} % of the cores busy" if share > CPU_LIMIT else ""


def others_share() -> float:
    """Share of the cores that others keep busy, while this process sleeps for WATCHED seconds; else by the load.

    The load average would count what this process itself did in the last minute, such as a calibration before.
    """
    before = _ticks()
    time.sleep(WATCHED)
    after = _ticks()
    if before is None or after is None or after[1] <= before[1]:
        return busy()
    return (after[0] - before[0]) / (after[1] - before[1])


def _ticks() -> tuple[int, int] | None:
    """Clock ticks of all cores since boot, busy and in all (proc(5), /proc/stat); None where the system has none."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            spent = [int(ticks) for ticks in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(spent) < 5:
        return None
    return sum(spent) - spent[3] - spent[4], sum(spent)  # idle, and waiting for disks


def _triton() -> str:
    with suppress(ImportError):
        import triton

        return str(triton.__version__)
    return ""


def _nvml() -> Any:
    with suppress(ImportError):
        import pynvml

        return pynvml
    return None


def _asked(what: str) -> str:
    """An answer of NVML about the first GPU; "" where there is no NVML or it does not say."""
    nvml = _nvml()
    if nvml is None:
        return ""
    try:
        nvml.nvmlInit()
        try:
            return _QUESTIONS[what](nvml, nvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return ""


def _driver(nvml: Any, handle: Any) -> str:
    version = nvml.nvmlSystemGetDriverVersion()
    return version.decode() if isinstance(version, bytes) else str(version)


def _clocks(nvml: Any, handle: Any) -> str:
    sm = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
    memory = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)
    return f"{sm} MHz SM, {memory} MHz memory, {nvml.nvmlDeviceGetPowerUsage(handle) / 1000:.0f} W"


def _others(nvml: Any, handle: Any) -> str:
    others = [p for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid != os.getpid()]
    if others:
        return f"{len(others)} other process{'es' * (len(others) > 1)} computing on the GPU"
    share = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    return f"the GPU is {share} % busy" if share > GPU_LIMIT else ""


_QUESTIONS = {"driver": _driver, "clocks": _clocks, "others": _others}
