"""The time to expect of one call of attention in a serving stack: prefill, or decoding with a cache."""

from math import exp
from typing import Any, NamedTuple

from memmodel.attention.case import Case
from memmodel.gpus import Gpu
from memmodel.timing.ceiling import Ceiling, KernelTime, at_slowest
from memmodel.timing.serving.chip import chip_of
from memmodel.timing.serving.decode import decode_parts
from memmodel.timing.serving.kernels import ServingKernel, serving_kernel
from memmodel.timing.serving.parts import Parts, bytes_of_a_key, bytes_of_queries
from memmodel.timing.serving.prefill import prefill_parts
from memmodel.timing.serving.stacks import VALUES_OF_192, rule_of

MOST_NEW = 16  # new tokens a sequence that decoding kernels take; more are a prefill


class Call(NamedTuple):
    """The time to expect of a call.

    Attributes:
        time: part by part. low, high: seconds between which 90 % of such calls are. phase: "prefill" or "decode".
        kernel: whose constants these are. notes: what the constants were not fitted to.
    """

    time: KernelTime
    low: float
    high: float
    phase: str
    kernel: ServingKernel
    notes: tuple[str, ...]


def serving_call(case: Case, gpu: Gpu, name: str | None = None) -> Call:
    """The time of a case on a GPU by a stack's kernel, or the GPU's default one.

    Raises UsageError for an unknown kernel, and for a GPU whose data lack a value that it needs.
    """
    chip, kernel = chip_of(gpu), serving_kernel(gpu, name)
    phase = phase_of(case)
    run, notes = as_run(case, kernel.name), []
    if phase == "decode":
        if case.cache.dtype is not None:
            notes.append("kernels with a cache of fewer bytes were not measured: fewer bytes, as many clocks a key")
        single = bool(rule_of(kernel.name, gpu.arch).single(run, chip))
        parts = decode_parts(run, chip, kernel.decode(single))
    else:
        constants, head_dim = kernel.prefill(case.head_dim)
        parts = prefill_parts(run, chip, constants)
        if head_dim != case.head_dim:
            notes.append(f"{kernel.name} was not measured with head dim {case.head_dim}: its constants of {head_dim}")
    factor = exp(kernel.spread(phase, parts))
    time = _kernel_time(run, kernel, phase, parts)
    return Call(time, time.seconds / factor, time.seconds * factor, phase, kernel, tuple(notes))


def phase_of(case: Case) -> str:
    """The kernel's phase: "decode" for a few new tokens a sequence, else "prefill"."""
    return "decode" if case.seq <= MOST_NEW else "prefill"


def as_run(case: Case, kernel: str) -> Case:
    """The case as a stack runs it: SGLang's head dim 192 has narrower values."""
    if not kernel.startswith("sglang"):
        return case
    # A product, not an `if`: fits use arrays of head dims, one for each row of a table.
    narrower: Any = (case.head_dim == 192) * (case.value_dim - VALUES_OF_192)
    return case.replace(value_dim=case.value_dim - narrower)


def _kernel_time(case: Case, kernel: ServingKernel, phase: str, parts: Parts) -> KernelTime:
    # `Parts` has seconds; ceilings want a rate, which is then that of this call.
    flops = 2.0 * case.batch * case.heads * (case.head_dim + case.value_dim) * case.mask.pairs(case.seq, case.kv_seq)
    moved = float(bytes_of_queries(case) + bytes_of_a_key(case) * case.kv_seq)
    ceilings = (
        Ceiling("tensor and exp units", flops, flops / parts.units, kernel.origin),
        Ceiling("HBM", moved, moved / parts.memory, kernel.origin),
    )
    return at_slowest(f"{phase} by {kernel.name}", ceilings, {name: float(s) for name, s in parts.beside.items()})
