"""A step of attention on torch tensors, as `memmodel.recorder.record` records it, and how it is timed."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from memmodel.algorithms import algorithm
from memmodel.attention.case import Case
from memmodel.base.errors import UsageError
from memmodel_validate.suite import PROGRAMS

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Mark = Callable[[str], None]
Sample = Mapping[str, float]  # quantity -> seconds

_BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
}


class Inputs(NamedTuple):
    """q (b, h, n, d), k (b, g, m, d), v (b, g, m, e), and in training the output's gradient (b, h, n, e)."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    dout: torch.Tensor | None


def attention(implementation: str, case: Case) -> Attention:
    """The function that an implementation's name stands for. Raises UsageError where it cannot run the case."""
    if implementation in _BACKENDS:
        return _sdpa(_BACKENDS[implementation], case)
    if implementation.startswith("triton-flash"):
        return _triton(case, deterministic=implementation.endswith("deterministic"))
    if implementation == "decode-eager":
        return _decode(case)
    run = algorithm(PROGRAMS[implementation]).run
    return lambda q, k, v: run(case, q, k, v)


def _sdpa(backend: SDPBackend, case: Case) -> Attention:
    if case.mask.window is not None or (case.mask.causal and case.seq != case.kv_seq):
        raise UsageError(f"scaled_dot_product_attention with {case.describe()}: its masks are none, or causal with "
                         "seq = kv-seq")  # fmt: skip

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel([backend]):
            return scaled_dot_product_attention(
                q, k, v, dropout_p=case.dropout, is_causal=case.mask.causal, enable_gqa=case.heads != case.kv_heads
            )

    return run


def _triton(case: Case, deterministic: bool) -> Attention:
    from memmodel_kernels import flash_attention

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = flash_attention(
            q, k, v, causal=case.mask.causal, window=case.mask.window, deterministic=deterministic
        )
        return found

    return run


def _decode(case: Case) -> Attention:
    from memmodel.attention.masks import NO_MASK
    from memmodel_kernels import decode_eager

    mask = NO_MASK if case.seq == 1 and case.mask.window is None else case.mask

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        new_k, new_v = (torch.empty(*x.shape[:2], q.shape[2], x.shape[3], dtype=q.dtype, device=q.device)
                        for x in (k, v))  # fmt: skip
        found: torch.Tensor = decode_eager(q, new_k, new_v, k, v, mask)
        return found

    return run


def inputs(case: Case, device: str) -> Inputs:
    """Tensors for a case, in the order in which a recording makes them, without values yet."""
    grads = case.phase != "inference"
    q_shape, k_shape = (case.batch, case.heads, case.seq), (case.batch, case.kv_heads, case.kv_seq)

    def empty(shape: tuple[Any, ...], width: Any, learns: bool) -> torch.Tensor:
        kind = getattr(torch, case.dtype.name)
        return torch.empty(*shape, width, dtype=kind, device=device, requires_grad=learns)

    q, k = empty(q_shape, case.head_dim, grads), empty(k_shape, case.head_dim, grads)
    v = empty(k_shape, case.value_dim, grads)
    return Inputs(q, k, v, empty(q_shape, case.value_dim, False) if case.phase == "train" else None)


def fill(given: Inputs) -> None:
    """Fill the inputs with normal values: unset memory may hold denormals or NaN, which can be slow."""
    with torch.no_grad():
        for tensor in given:
            if tensor is not None:
                tensor.normal_()


def step(given: Inputs, run: Attention, case: Case, mark: Mark) -> None:
    """One step, its phases marked; the output is dropped and gradients set to None at the end."""
    with torch.set_grad_enabled(case.phase != "inference"):
        mark("forward")
        output = run(given.q, given.k, given.v)
        if given.dout is not None:
            mark("backward")
            torch.autograd.backward(output, given.dout)
        mark("after")
        del output
        given.q.grad = given.k.grad = given.v.grad = None


def timed_step(given: Inputs, run: Attention, case: Case) -> dict[str, float]:
    """Seconds of forward and backward of one step, by the host's clock."""
    began: list[tuple[str, float]] = []
    step(given, run, case, lambda phase: began.append((phase, perf_counter())))
    return {f"{phase}_time": end - start for (phase, start), (_, end) in pairwise(began)}


def sampled(once: Callable[[], Sample], warm_up: int, least: int, most: int, budget: float) -> dict[str, list[float]]:
    """Sample `once`: at least `least` times, and up to `most` while they take less than `budget` seconds.

    The first `warm_up` calls are made and forgotten.
    """
    for _ in range(warm_up):
        once()
    samples: dict[str, list[float]] = {}
    spent = 0.0
    for count in range(most):
        if count >= least and spent >= budget:
            break
        for name, seconds in once().items():
            samples.setdefault(name, []).append(seconds)
            spent += seconds
    return samples


def saved_bytes(given: Inputs, run: Attention, case: Case) -> int:
    """Bytes of the storages that autograd's nodes keep after a forward, beyond the inputs.

    Read through saved-tensor hooks. Wrapped Python numbers (0-d tensors on the CPU) are no storages of the device.
    """
    if case.phase == "inference":
        return 0
    own = {x.untyped_storage().data_ptr() for x in given if x is not None}
    kept: dict[int, tuple[int, torch.UntypedStorage]] = {}  # storages held, so that no address comes twice

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if x.dim() and x.device == given.q.device and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run(given.q, given.k, given.v)
    return sum(nbytes for nbytes, _ in kept.values())
