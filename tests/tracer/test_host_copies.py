"""Copies on the host: none of the GPU's memory, counted beside it."""

from typing import Any

import torch
from torch import Tensor, nn

import memmodel

MIB = 1 << 20
N = MIB // 4  # float32 of a MiB
DEPTH = 8


def traced(function: Any, step: str = "inference") -> Any:
    return memmodel.trace(function, {"x": "N"}, at={"N": N}, step=step, formulas=False)


def test_results_that_are_moved_to_the_host_are_kept_there() -> None:
    def run(x: Tensor) -> Any:
        kept = []
        for i in range(DEPTH):
            x = x * 2
            kept.append(x.cpu() if i % 2 else x.to("cpu"))
        assert [y.device.type for y in kept] == ["cpu"] * DEPTH
        assert not kept[0].is_cuda
        return sum(kept)

    found = traced(run)
    assert found.memory.live_peak_bytes == 3 * MIB  # the input, a result and the next
    assert found.host_peak_bytes == (DEPTH + 2) * MIB  # and the sum so far, with the next


def test_a_batch_of_a_tensor_made_without_a_device_is_said_to_count_before() -> None:
    def run(x: Tensor) -> Tensor:
        data = torch.randn(DEPTH, N)
        own = torch.zeros(N, device="cuda").to("cuda")
        return x + data[1].to("cuda") + own.cuda()

    _, note = traced(run).notes
    assert note.startswith("a tensor that was made without a device counts as the GPU's")
    assert note.endswith(f"line {run.__code__.co_firstlineno + 3})")


def test_a_tensor_made_without_a_device_that_meets_the_gpus_is_said() -> None:
    """On a GPU that is an error; numbers, indices and copies are none."""

    def refused(x: Tensor) -> Tensor:
        mask = torch.ones(N)
        shift = mask - 1
        return x + shift

    def taken(x: Tensor) -> Tensor:
        layer = nn.Linear(N, 2).to("cuda")
        y = x[torch.arange(4)].sum() + torch.tensor(2.0) + layer(x)
        y[:1].copy_(torch.zeros(1))
        return y * torch.ones(2).to(x.device)

    (note,) = traced(refused).notes[1:]
    assert note.startswith("a tensor is made without a device")
    assert note.endswith(f"line {refused.__code__.co_firstlineno + 2})")
    assert not [note for note in traced(taken).notes if note.startswith("a tensor is made without")]


def test_saved_tensors_on_the_host_come_back_for_backward() -> None:
    def run(x: Tensor) -> Any:
        with torch.autograd.graph.save_on_cpu(pin_memory=True):
            for _ in range(DEPTH):
                x = x.exp()
        return x

    found = traced(run, "train")
    assert found.memory.saved_bytes == 0
    assert found.memory.phase_peaks["forward"] == (2 + 2) * MIB  # input, upstream gradient, a result and the next
    # the result that the caller holds, a gradient, the next one, and what exp saved, back from the host
    assert found.memory.phase_peaks["backward"] == (2 + 1 + 3) * MIB
    assert found.host_peak_bytes == DEPTH * MIB


def test_hooks_that_offload_by_hand() -> None:
    def run(x: Tensor) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.cpu(), lambda x: x.to("cuda")):
            for _ in range(DEPTH):
                x = x.exp()
        return x

    found = traced(run, "train")
    assert found.memory.phase_peaks["forward"] == 4 * MIB
    assert found.host_peak_bytes == DEPTH * MIB


def test_what_is_put_on_the_cpu_by_name_alone_stays_the_gpus() -> None:
    """Where torch.cuda.is_available() is False, scripts say "cpu" for the device that they would train on."""

    def run(x: Tensor) -> Any:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return x.to(device) + torch.ones(N, device=device)

    found = traced(run)
    assert found.memory.live_peak_bytes == 3 * MIB
    assert found.host_peak_bytes == 0
