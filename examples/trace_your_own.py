"""The memory of your own PyTorch function, without a GPU: which lines make the peak, and what rewriting them saves.

Tracing runs the functions below on tensors that have shapes and no data.
"""

import math

import torch
from torch import Tensor

import memmodel
from memmodel.base.units import bytes_text


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as it is often written first."""
    scores = q @ k.transpose(-2, -1)
    scaled = scores / math.sqrt(q.shape[-1])
    weights = torch.softmax(scaled, dim=-1)
    return weights @ v


def in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same; the scores are scaled where they are, and one name holds them."""
    scores = q @ k.transpose(-2, -1)
    scores /= math.sqrt(q.shape[-1])
    weights = torch.softmax(scores, dim=-1)
    return weights @ v


INPUTS = dict.fromkeys("qkv", "B,H,N,D:bf16")


def main() -> None:
    """The lines of the first spelling, the advice, and what the second saves."""
    sizes = {"B": 8, "H": 12, "N": 4096, "D": 64}
    first = memmodel.trace(attention, INPUTS, at=sizes, gpu="A100", formulas=False)
    print(f"{first.title} peaks at {bytes_text(first.memory.live_peak_bytes)}:")
    for line in first.lines:
        print(f"  {bytes_text(line.nbytes):>10}  line {line.line}: {line.text}")
    for tip in first.advice:
        print(f"  less by {bytes_text(tip.less_bytes)}: {tip.change}")
    second = memmodel.trace(in_place, INPUTS, at=sizes, gpu="A100", formulas=False)
    print(f"{second.title} peaks at {bytes_text(second.memory.live_peak_bytes)}")


if __name__ == "__main__":
    main()
