"""The machine of a calibration, and its load by other processes."""

from contextlib import suppress
from datetime import datetime, timezone
from importlib.util import find_spec

import psutil  # noqa: F401 - named at once where it is missing
import torch

from memmodel.base.errors import UsageError
from memmodel.gpus import Gpu, load_gpu, local_gpu
from memmodel_validate import nvml
from memmodel_validate.cpu import busy, cpu, cpu_name

CPU_LIMIT = 0.25  # share of the cores that others may keep busy
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
    return local_gpu() if find_spec("pynvml") else load_gpu(torch.cuda.get_device_name())


def description(gpu: Gpu, device: str, threads: int) -> dict[str, str]:
    """The `machine` of a calibration: names and versions, nothing that identifies the host."""
    found = {"gpu": gpu.name} if device == "cuda" else {"cpu": cpu_name()}
    found |= {"gpu_id": gpu.id, "torch": torch.__version__, "triton": _triton(), "threads": str(threads)}
    found["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d")  # noqa: UP017 -- datetime.UTC hides from mypy 3.11
    if device == "cuda":
        found["driver"] = nvml.driver()
    return {name: value for name, value in found.items() if value}


def clocks(device: str) -> str:
    """SM and memory clocks and power as NVML has them now: "1980 MHz SM, 2619 MHz memory, 120 W"; "" without NVML."""
    now = nvml.clocks() if device == "cuda" else {}
    return "{sm_clock_mhz} MHz SM, {memory_clock_mhz} MHz memory, {power_w:.0f} W".format(**now) if now else ""


def reason_busy(device: str) -> str:
    """A sentence on other load on the machine; "" without any."""
    if device == "cuda":
        others, share = nvml.others()
        if others:
            return f"{others} other process{'es' * (others > 1)} computing on the GPU"
        return f"the GPU is {share} % busy" if share > GPU_LIMIT else ""
    of_cores = busy()
    return f"others keep {100 * of_cores:.0f} % of the cores busy" if of_cores > CPU_LIMIT else ""


def _triton() -> str:
    with suppress(ImportError):
        import triton

        return str(triton.__version__)
    return ""
