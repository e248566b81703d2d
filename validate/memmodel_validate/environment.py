"""The environment of runs (versions, processor, GPU) and their protocol, which together name a source in the ledger.

No host, user or folder is in it.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from os.path import exists
from typing import Any

from memmodel.base.errors import UsageError
from memmodel.gpus import load_gpu
from memmodel_validate.cpu import cpu_name
from memmodel_validate.ledger import Source
from memmodel_validate.processes import ask

_DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_PROBE_SECONDS = 120

CPU_PROTOCOL = {
    "time": "forward and backward of one step by the host's clock (perf_counter)",
    "memory": "events of PyTorch's CPU allocator from torch.profiler, of one step after the times were taken; "
    "scratch inside matrix products and 0-d scalars left out",
    "saved": "storages seen by saved-tensor hooks, inputs left out",
    "warm_up": "3",
    "least": "7",
    "most": "25",
    "budget": "3",
}
CUDA_PROTOCOL = {
    "time": "forward and backward of one step by CUDA events, L2 flushed before each step",
    "memory": "the third step: peaks of torch.cuda.memory_stats, reset at the start of forward and backward; "
    "events of all three steps from the allocator's history, as requested",
    "saved": "storages seen by saved-tensor hooks, inputs left out",
    "warm_up": "5",
    "least": "10",
    "most": "50",
    "budget": "2",
}


def default_device() -> str:
    """The name "cuda" if torch can use a GPU of this machine, else "cpu"; torch is imported only if one is there."""
    # A process that imports torch to ask takes seconds.
    if not any(map(exists, _DEVICE_FILES)):
        return "cpu"
    return "cpu" if "gpu" not in probed() else "cuda"


def check_torch() -> None:
    """Raise UsageError if torch or psutil is not installed."""
    for package in ("torch", "psutil"):
        if find_spec(package) is None:
            raise UsageError(f"validating runs attention and needs {package}: pip install 'memmodel[torch]'")


def probed() -> dict[str, Any]:
    """The GPU as torch sees it, from a worker process, so that this one holds no CUDA context."""
    return ask({"do": "probe"}, _PROBE_SECONDS)


def environment(device: str, threads: int, gpu: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The environment of runs on a device; `gpu` is what `probed` found. Raises UsageError without the GPU asked for.

    Keys: gpu, gpu_id, compute_capability, torch, triton, driver, cpu, threads, python; those that do not apply are "".
    """
    found: Mapping[str, Any] = {}
    if device == "cuda":
        found = gpu or {}
        if "gpu" not in found:
            why = found.get("reason") or found.get("failed") or "none was found"
            raise UsageError(f"device cuda: {why}; choose --device cpu, or run this on a machine with a GPU")
    return {
        "gpu": str(found.get("gpu", "none")),
        "gpu_id": _gpu_id(str(found["gpu"])) if found else "cpu",
        "compute_capability": str(found.get("compute_capability", "")),
        "torch": _version("torch"),
        "triton": _version("triton"),
        "driver": str(found.get("driver", "")),
        "cpu": cpu_name(),
        "threads": str(threads),
        "python": platform.python_version(),
    }


def source(environment: dict[str, str], protocol: dict[str, str]) -> Source:
    """The source of runs in an environment by a protocol: the same of both has the same name, on any day."""
    text = json.dumps([environment, protocol], sort_keys=True)
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    place = environment["gpu_id"] or "gpu"
    return Source(f"validate-{place}-{short}", environment, protocol, {"citation": "own run of memmodel validate"})


def today() -> str:
    """The date, for a run's detail: a source has none, so that it stays the same from day to day."""
    return datetime.now(UTC).date().isoformat()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gpu_id(name: str) -> str:
    try:
        return load_gpu(name).id
    except UsageError:
        return ""  # not in the database: memory can be predicted all the same, time by a calibration
