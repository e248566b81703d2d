"""What CUDA allocates and the CPU does not: each difference alone, and the peaks that follow for whole algorithms."""

from collections.abc import Callable
from typing import Any

import pytest

from memmodel import recording
from memmodel.attention.case import make_case
from memmodel.events.liveness import phase_peaks, saved_bytes
from memmodel.events.program import Alloc
from memmodel.recorder import record
from memmodel.recording import CPU, CUDA, Device

B, H, N, D = 2, 3, 64, 16
S, T, ROW = B * H * N * N * 4, B * H * N * D * 4, B * H * N * 4  # scores, one of q k v, a row vector, in fp32


def sizes(device: Device, body: Callable[[], Any]) -> list[int]:
    with recording.Tape(device) as tape:
        kept = body()
    del kept
    return [event.nbytes for event in tape.events if isinstance(event, Alloc)]


def test_softmax_backward_materialises_grad_times_output() -> None:
    def body() -> Any:
        x = recording.empty(B, H, N, N, requires_grad=True)
        grad = recording.empty(B, H, N, N)
        x.softmax(-1).backward(grad)
        return x

    assert sizes(CUDA, body) == [S, S, S, S, S]  # x, grad, result, gradient, scratch
    assert sizes(CPU, body) == [S, S, S, S]


def test_a_product_with_an_expanded_gradient_packs_it_once_each_side() -> None:
    """sum().backward() hands the product a gradient of stride 0; cuBLAS needs a unit stride."""

    def body() -> Any:
        a = recording.empty(B * H, N, N, requires_grad=True)
        b = recording.empty(B * H, N, D, requires_grad=True)
        (a @ b).sum().backward()
        return a, b

    cuda, cpu = sizes(CUDA, body), sizes(CPU, body)
    assert sorted(cuda) == sorted([*cpu, T, T])


def test_half_softmax_to_float_reads_half_directly_but_bfloat16_needs_a_copy() -> None:
    def body(kind: Any) -> Callable[[], Any]:
        return lambda: recording.empty(N, N, dtype=kind).softmax(-1, dtype=recording.float32)

    half, single = N * N * 2, N * N * 4
    assert sizes(CUDA, body(recording.float16)) == [half, single]
    assert sizes(CUDA, body(recording.bfloat16)) == [half, single, single]


def test_mixed_dtypes_are_converted_in_registers() -> None:
    def body() -> Any:
        return recording.empty(N, N) * recording.empty(N, N, dtype=recording.bool)

    assert sizes(CUDA, body) == [N * N * 4, N * N, N * N * 4]
    assert sizes(CPU, body) == [N * N * 4, N * N, N * N * 4, N * N * 4]


# Multiples of S, T and the row vector at each peak, counted by hand from the code: q, k, v and dout are 4 T.
PEAKS = [
    # scores and probs, then the output; backward has probs, d probs, d scores and the scratch, with output and v.grad
    ("naive", "train", 2 * S + 5 * T, 4 * S + 6 * T, S),
    # scores, shifted, powers and probs with the maximum's int64 indices (2 rows) and the sum; backward: powers, d probs
    # and the three temporaries of the division with its result
    ("naive-by-hand", "train", 4 * S + 4 * T + 3 * ROW, 6 * S + 6 * T + 3 * ROW, 2 * S + 3 * ROW),
    ("checkpointed", "train", 2 * S + 5 * T, 4 * S + 6 * T, 0),
    # O and LSE; backward adds delta and three gradients (dQ is summed in fp32, which it is already)
    ("flash", "train", 5 * T + ROW, 8 * T + 2 * ROW, T + ROW),
]


@pytest.mark.parametrize(("algorithm", "phase", "forward", "backward", "saved"), PEAKS, ids=lambda x: str(x))
def test_peaks_by_hand(algorithm: str, phase: str, forward: int, backward: int, saved: int) -> None:
    case = make_case(algorithm, batch=B, heads=H, seq=N, head_dim=D, dtype_name="fp32", phase=phase)
    program = record(case)
    peaks = phase_peaks(program)
    assert (peaks["forward"], peaks["backward"], saved_bytes(program)) == (forward, backward, saved)
