"""The GPU of this machine, read through NVML."""

from typing import Any

from memmodel.base.errors import UsageError
from memmodel.gpus.database import load_gpu
from memmodel.gpus.gpu import Gpu, Value


def local_gpu(index: int = 0) -> Gpu:
    """Read GPU `index` of this machine; its rates are the database's, by its exact name.

    PyTorch's capacity is NVML's total less what the driver reserves.
    """
    pynvml = _pynvml()
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise UsageError(f"cannot read GPU {index} of this machine ({error}): name one with --gpu") from error
    gpu = load_gpu(name)
    read = {
        "capacity": Value(memory.total - memory.reserved, "NVML on this machine: total less reserved"),
        "nvidia_smi": Value(memory.total, "NVML on this machine: total"),
    }
    return gpu.replace(values={**gpu.values, **read}, compute_capability=(major, minor))


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise UsageError(
            "reading this machine's GPU needs nvidia-ml-py: pip install 'memmodel[local]', or name a GPU with --gpu"
        ) from error
    return pynvml
