"""Programs of recorded times: the attention of a source's script, or a flash kernel with its tiles, recorded."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from memmodel import recording
from memmodel.algorithms import ALGORITHMS
from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import mask
from memmodel.base.dtypes import DType, dtype
from memmodel.base.errors import UsageError
from memmodel.events.program import Launch, Program
from memmodel.recorder import record
from memmodel.timing.intervals import is_compiled
from memmodel_evidence import attention as scripts
from memmodel_evidence.implementations import IMPLEMENTATIONS
from memmodel_evidence.memory import recorded, row_of
from memmodel_validate.ledger import Run, Source


def program_of(run: Run, source: Source) -> Program:
    """One forward and backward of a run. Raises UsageError, with the reason, where it cannot be restated."""
    return restated(run, source)()


def restated(run: Run, source: Source) -> Callable[[], Program]:
    """What records `program_of`: to restate a script costs nothing, to record it a few milliseconds."""
    if run.implementation in IMPLEMENTATIONS:
        case = flash_case(run)
        tiles = IMPLEMENTATIONS[run.implementation].tiles(int(case.head_dim), case.mask)
        return partial(_flash, replace(case, tiles=tiles))
    if run.implementation == STANDARD and source.protocol.get("standard") == "flash_benchmark":
        return partial(_standard, flash_case(run))
    if source.protocol.get("attention") == HARNESS:
        return partial(recorded, run.source, row_of(run))  # a phase is that of its last iteration
    if "attention" in source.protocol and run.implementation in ALGORITHMS:
        return _script(run, source)
    raise UsageError("its script is not restated here")


def restatable(run: Run, source: Source) -> bool:
    """Whether `restated` knows what a run ran."""
    try:
        restated(run, source)
    except UsageError:
        return False
    return True


_flash = cache(record)


STANDARD = "PyTorch standard"
HARNESS = "harness"  # what was timed is more than attention: the phases of the table's harness


def launches(program: Program, phases: tuple[str, ...]) -> list[Launch]:
    """The kernels of some phases, in order; `program` is one of this module, which lives on in its caches."""
    found = _launches.get(id(program))
    if found is None:
        found = _launches[id(program)] = {
            phase: [event for event in events if isinstance(event, Launch)]
            for phase, events in program.phases().items()
        }
    return [launch for phase in phases for launch in found.get(phase, [])]


_launches: dict[int, dict[str, list[Launch]]] = {}  # by identity: programs are too long to hash


def compiled(program: Program) -> bool:
    """Whether a program, one of this module, is compiled."""
    found = _compiled.get(id(program))
    if found is None:
        found = _compiled[id(program)] = is_compiled(program.launches())
    return found


_compiled: dict[int, bool] = {}


def _script(run: Run, source: Source) -> Callable[[], Program]:
    """The attention of a source's script on (b, n, d) tensors, and backward from an upstream gradient."""
    protocol = source.protocol
    b, n, d = (run.case[name] for name in ("batch", "seq", "head_dim"))
    attention = run.detail.get("attention", protocol["attention"])  # a row may have run another
    return partial(_attention, attention, (b, n, d), run.case["dtype"], protocol["learns"], bool(protocol["mask"]))


@cache  # many tables ran the same
def _attention(name: str, shape: tuple[int, int, int], dtype_name: str, learns: str, masked: bool) -> Program:
    with recording.Tape(sites=False) as tape:
        kind = dtype(dtype_name)
        q, k, v = (_input(shape, kind, each in learns) for each in "qkv")
        upstream = _input(shape, kind, False)
        n = shape[1]
        masks = [recording.ones(n, n, dtype=recording.bool, device="cuda")] if masked else []
        tape.mark("forward")
        out = getattr(scripts, name)(recording, q, k, v, *masks)
        tape.mark("backward")
        out.backward(upstream)
    return tape.program


@cache
def _standard(case: Case) -> Program:
    """The baseline of FlashAttention's benchmark, in 16 bits, on (b, n, h, d) tensors."""
    shape = case.batch, case.seq, case.heads, case.head_dim
    with recording.Tape(sites=False) as tape:
        q, k, v, upstream = (
            recording.randn(*shape, dtype=case.dtype, device="cuda", requires_grad=learns)
            for learns in (True, True, True, False)
        )
        tape.mark("forward")
        out = scripts.flash_benchmark(recording, q, k, v, case.mask.causal)
        tape.mark("backward")
        out.backward(upstream)
    return tape.program


def _input(shape: tuple[int, ...], kind: DType, learns: bool) -> Any:
    return recording.randn(*shape, dtype=kind, device="cuda", requires_grad=learns)


def flash_case(run: Run) -> Case:
    """A run's configuration as a case. Raises UsageError where the source does not state it."""
    missing = [name for name in ("batch", "heads", "seq", "head_dim", "mask") if name not in run.case]
    if missing:
        raise UsageError(f"its {', '.join(missing)} is not stated")
    sizes = {name: run.case[name] for name in ("batch", "heads", "kv_heads", "seq", "kv_seq", "head_dim")}
    if run.case["dtype"] not in ("fp16", "bf16", "fp32"):
        raise UsageError(f"there is no model of {run.case['dtype']} kernels")
    return make_case("flash", **sizes, dtype_name=run.case["dtype"], mask=mask(run.case["mask"]))
