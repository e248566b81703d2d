"""GPUs: a database with a source per value, user files in the same format, and the GPU of this machine."""

from memmodel.gpus.database import all_gpus, load_gpu, load_gpu_file
from memmodel.gpus.gpu import Gpu, Measured, Pipe, Value
from memmodel.gpus.local import local_gpu
from memmodel.gpus.names import gpu_ids

__all__ = [
    "Gpu",
    "Measured",
    "Pipe",
    "Value",
    "all_gpus",
    "gpu_ids",
    "load_gpu",
    "load_gpu_file",
    "local_gpu",
]
