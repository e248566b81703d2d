"""The GPU of this machine, with a fake NVML in place of the driver."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest

from memmodel.base.errors import UsageError
from memmodel.gpus import load_gpu, local_gpu

MIB = 2**20
TOTAL, RESERVED = 81_559 * MIB, 551 * MIB  # an H100: nvidia-smi's total less PyTorch's 81008 MiB


class FakeNvml(ModuleType):
    """The part of pynvml that memmodel calls, for one GPU called `gpu_name`; None is for no GPU."""

    class NVMLError(Exception):
        pass

    nvmlMemory_v2 = 2  # noqa: N815 (NVML's own name)

    def __init__(self, gpu_name: str | None) -> None:
        super().__init__("pynvml")
        self.gpu_name = gpu_name
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's own name, here and below)
        if self.gpu_name is None:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index > 0:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | None:  # noqa: N802
        return self.gpu_name

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> SimpleNamespace:  # noqa: N802
        assert version == self.nvmlMemory_v2  # version 1 has no `reserved`
        return SimpleNamespace(total=TOTAL, reserved=RESERVED)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> list[int]:  # noqa: N802
        return [9, 0]


Install = Callable[[str | None], FakeNvml]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def installed(gpu_name: str | None) -> FakeNvml:
        nvml = FakeNvml(gpu_name)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return installed


def test_memory_is_read_and_rates_are_the_databases(install: Install) -> None:
    nvml = install("NVIDIA H100 80GB HBM3")
    gpu = local_gpu()
    listed = load_gpu("h100-sxm")
    assert gpu.id == "h100-sxm"
    assert gpu.capacity_bytes == TOTAL - RESERVED == 81_008 * MIB
    assert gpu.value("nvidia_smi") == TOTAL
    assert "NVML on this machine" in gpu.source("capacity")
    assert gpu.compute_capability == (9, 0)
    assert gpu.peak_by_name("bf16") == listed.peak_by_name("bf16")
    assert listed.capacity_bytes != gpu.capacity_bytes  # the database entry itself is untouched
    assert nvml.open == 0


def test_gpu_that_is_not_in_the_database(install: Install) -> None:
    install("NVIDIA A2")
    with pytest.raises(UsageError, match=r"unknown GPU 'NVIDIA A2'.*--gpu-file"):
        local_gpu()


def test_machine_without_a_gpu(install: Install) -> None:
    install(None)
    with pytest.raises(UsageError, match=r"cannot read GPU 0 .*NVML Shared Library Not Found.*--gpu"):
        local_gpu()


def test_index_beyond_the_last_gpu_closes_nvml(install: Install) -> None:
    nvml = install("NVIDIA H200")
    with pytest.raises(UsageError, match="cannot read GPU 3 of this machine"):
        local_gpu(3)
    assert nvml.open == 0


def test_machine_without_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UsageError, match=r"needs nvidia-ml-py: pip install 'memmodel\[local\]'"):
        local_gpu()
