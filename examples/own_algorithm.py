"""An attention of your own: written once as a plain function, run on recording tensors, its account and peak printed.

The same function runs on torch tensors: nothing in it belongs to memmodel.
"""

from collections.abc import Callable
from typing import Any

from memmodel.base.dtypes import bfloat16
from memmodel.base.units import bytes_text
from memmodel.events.account import account
from memmodel.events.liveness import phase_peaks
from memmodel.events.program import Program
from memmodel.recording import Tape, empty


def soft_capped(q: Any, k: Any, v: Any) -> Any:
    """Attention whose scores are held between -30 and 30 by a tanh, as in Gemma 2."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = (scores / 30.0).tanh() * 30.0
    return scores.softmax(-1) @ v


def soft_capped_fp32(q: Any, k: Any, v: Any) -> Any:
    """The same with its softmax in fp32, as model code often has it."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = (scores / 30.0).tanh() * 30.0
    return scores.float().softmax(-1).to(v.dtype) @ v


def recorded(attention: Callable[..., Any], b: int = 1, h: int = 8, n: int = 4096, d: int = 64) -> Program:
    """One training step of `attention` on (b, h, n, d) tensors in bf16."""
    with Tape() as tape:
        tape.mark("inputs")
        q, k, v = (empty(b, h, n, d, dtype=bfloat16, requires_grad=True) for _ in range(3))
        dout = empty(b, h, n, d, dtype=bfloat16)
        for tensor, name in ((q, "q"), (k, "k"), (v, "v"), (dout, "dout")):
            tape.names[tensor.storage.key] = name
        tape.mark("forward")
        output = attention(q, k, v)
        tape.mark("backward")
        output.backward(dout)
    return tape.program


def main() -> None:
    """The account of the first spelling, and the peaks of both."""
    print(f"What is alive at the peak of {soft_capped.__name__}")
    for tensor in account(recorded(soft_capped)):
        if tensor.at_peak:
            print(f"  {tensor.name:26} {bytes_text(tensor.nbytes):>11}  {tensor.kept_by}")
    for attention in (soft_capped, soft_capped_fp32):
        peaks = phase_peaks(recorded(attention))
        forward, backward = bytes_text(peaks["forward"]), bytes_text(peaks["backward"])
        print(f"{attention.__name__:18} peaks: forward {forward}, backward {backward}")


if __name__ == "__main__":
    main()
