"""What a prediction says beside its numbers: what it assumes, what it leaves out, and what may mislead."""

from collections.abc import Sequence

from memmodel.algorithms import ALGORITHMS, algorithm
from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import Case
from memmodel.attention.tiles import FAMILY
from memmodel.base.units import bytes_text, decimal_text
from memmodel.cases import DEFAULT_ALGORITHMS
from memmodel.events.liveness import step_launches
from memmodel.events.program import Program
from memmodel.events.work import Work
from memmodel.gpus import Gpu
from memmodel.recorder import supported
from memmodel.step import other_kernels, room_bytes, timing_bytes
from memmodel.timing import Calibration
from memmodel.timing.calibration import mismatches


def notes_on(case: Case, program: Program, work: Work, gpu: Gpu) -> list[str]:
    """The notes on one algorithm's figures: kernels that are another GPU's, sizes that mean something else, padding."""
    chosen = algorithm(case.algorithm)
    notes = [chosen.note] if chosen.note else []
    if chosen.tiled and _own_arch(gpu) is None:
        notes.append(f"there are no kernels for {gpu.name}: the figures are what those for an A100 would take")
    if chosen.chooses and other_kernels(gpu):
        notes.append(other_kernels(gpu))
    if chosen.cached and 1 < case.seq == case.kv_seq:
        notes.append(f"{case.seq} queries are new tokens at once; for one and a cache: --seq 1 --kv-seq {case.kv_seq}")
    elif chosen.cached and case.seq > 1 and not case.mask.causal:
        notes.append(
            f"without a mask the {case.seq} new tokens see one another; drafts are verified with --mask causal"
        )
    notes += _padding(float(work.flops), sum(float(launch.least.flops) for launch in step_launches(program)))
    if chosen.compiles:
        notes.append(_first_call(program, gpu))
    return notes


def _own_arch(gpu: Gpu) -> int | None:
    """The GPU's compute capability as one number, if the table has tiles for it."""
    major, minor = gpu.compute_capability or (0, 0)
    arch = 10 * major + minor
    return arch if arch in FAMILY else None


def _first_call(program: Program, gpu: Gpu) -> str:
    """A note on the first call of compiled code, which times kernels."""
    if "l2" not in gpu.values:
        return f"the first call also times kernels, with a buffer of the size of L2: not known for {gpu.name}"
    needed, room = timing_bytes(program, gpu), room_bytes(gpu)
    unfit = ", more than the GPU has" if room is not None and needed > room else ""
    return (
        f"the first call also times kernels, with a buffer of the size of L2 ({bytes_text(gpu.l2_bytes)}) and copies: "
        f"at most {bytes_text(needed)} alive{unfit}"
    )


def _padding(flops: float, needed: float) -> list[str]:
    """A note where tiles compute more than twice what their results need: few queries do not fill them."""
    if flops <= 2 * needed:
        return []
    return [f"of {decimal_text(flops, 'FLOP')} in whole tiles, {decimal_text(needed, 'FLOP')} are needed"]


def left_out(cases: Sequence[Case]) -> list[str]:
    """A note on each default algorithm that cannot run this configuration."""
    if len(cases) != 1 or cases[0].algorithm not in DEFAULT_ALGORITHMS:
        return []
    others = [cases[0].replace(algorithm=name) for name in DEFAULT_ALGORITHMS]
    return [f"{ALGORITHMS[c.algorithm].title} left out: {supported(c).reason}" for c in others if not supported(c)]


def _in_l2(gpu: Gpu) -> str:
    """How many bytes the lower bound of a kernel's time takes for granted."""
    if "l2" not in gpu.values:
        return f"the L2 of {gpu.name} is not known: all bytes come from HBM"
    return f"of a kernel's bytes, {bytes_text(gpu.l2_bytes)} may be in L2 already"


def assumptions(
    case: Case, gpu: Gpu, config: AllocatorConfig | None, calibration: Calibration | None = None
) -> list[str]:
    """The assumptions of a prediction, and what it does not model."""
    found = [gpu.ambiguity] if gpu.ambiguity else []
    found.append(
        f"torch {case.torch}, eager, contiguous (batch, heads, seq, head dim) tensors, one GPU, default stream"
    )
    if case.phase == "train":
        found.append("gradients set to None after each step, the upstream gradient alive throughout, third step")
    else:
        found.append("third step of a loop that drops its output")
    if case.lengths and case.seq != min(case.lengths):
        packing = ", ".join(each.name for each in ALGORITHMS.values() if each.packs(case))
        found.append(f"sequences padded to {case.seq} tokens, which the kernels compute too, but packed by {packing}")
    if gpu.context_bytes is None:
        found.append(f"memory outside the allocator is not known for {gpu.name} and taken as 0")
    if gpu.memory == "unified":
        found.append(
            f"the host shares the memory of {gpu.name}: what it takes counts as memory outside the allocator, and "
            "context_low_MiB and context_high_MiB of a --gpu-file set it"
        )
    if config is not None and config.expandable_segments:
        found.append("expandable_segments:True")
    found.append(f"time, at least: necessary work over datasheet rates; {_in_l2(gpu)}")
    if calibration is not None:
        found.append(f"time, expected: {calibration.described}")
        found += mismatches(calibration, gpu.id, case.torch if calibration.basis == "local" else None)
    return found
