"""The trials of `memmodel validate`, by name: a quick and a full suite for CPUs and for GPUs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from memmodel.algorithms import ALGORITHMS
from memmodel.attention.case import SIZES, Case, make_case
from memmodel.attention.masks import mask
from memmodel.base.dtypes import short_name
from memmodel.base.errors import UsageError, choice
from memmodel.base.units import GiB

SUITES = ("quick", "full")
DEVICES = ("cpu", "cuda")
CAP_BYTES = 4 * GiB  # of the allocator, where the longest sequence is searched: quick on a large card
GRID = 64  # queries between the sizes that are tried

# The program that predicts an implementation's memory and time.
PROGRAMS = {
    **{name: name for name in ALGORITHMS if not name.startswith(("flash", "sdpa"))},
    "triton-flash": "flash",
    "triton-flash-deterministic": "flash-deterministic",
}
TIME_PROGRAMS = {**PROGRAMS, "sdpa-flash": "flash"}  # timed like flash, but its memory is not modelled
PROMISED = frozenset(PROGRAMS) - {"compiled"}  # equal to the byte; the compiler is only approximated


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration to run.

    Attributes:
        name: as users name it. implementation: what runs: an algorithm, or a key of `TIME_PROGRAMS`, or sdpa-*.
        case: on which sizes; its algorithm is the program that predicts it.
        cap: bytes that the allocator may hold, where the trial is a search for the longest sequence; otherwise None.
    """

    name: str
    implementation: str
    case: Case
    cap: int | None = None

    @property
    def promised(self) -> bool:
        """Whether its memory is promised to the byte."""
        return self.implementation in PROMISED


def trials(device: str, suite: str = "full", names: Iterable[str] = ()) -> list[Trial]:
    """The trials of a suite, or those with the given names from any suite of the device. Raises UsageError."""
    device = choice("device", device, DEVICES, "cuda is an NVIDIA GPU")
    suite = choice("suite", suite, SUITES)
    quick = list(_cpu_quick() if device == "cpu" else _cuda_quick())
    full = [*quick, *(_cpu_more() if device == "cpu" else _cuda_more())]
    by_name = {trial.name: trial for trial in full}
    chosen = list(dict.fromkeys(choice("case", name, by_name) for name in names))
    if chosen:
        return [by_name[name] for name in chosen]
    return quick if suite == "quick" else full


def case_dict(case: Case) -> dict[str, Any]:
    """A case as the ledger holds it."""
    return {
        **{size: int(getattr(case, size)) for size in SIZES},
        "dtype": short_name(case.dtype),
        "mask": case.mask.name,
        "window": None if case.mask.window is None else int(case.mask.window),
        "dropout": case.dropout,
        "phase": case.phase,
        "chunk": int(case.chunk),
    }


def case_of(found: Mapping[str, Any], algorithm: str, torch: str = "2.13") -> Case:
    """The case of a dict that `case_dict` made. Raises UsageError for one that is incomplete or impossible."""
    missing = {*SIZES, "chunk", "mask", "window", "dropout", "phase", "dtype"} - found.keys()
    if missing:
        raise UsageError(f"the case on record lacks {', '.join(sorted(missing))}")
    sizes = {size: found[size] for size in (*SIZES, "chunk")}
    seen = mask(found["mask"], found["window"])
    kept = {name: found[name] for name in ("dropout", "phase")}
    return make_case(algorithm, dtype_name=found["dtype"], mask=seen, torch=torch, **sizes, **kept)


def _trial(name: str, implementation: str, **given: Any) -> Trial:
    seen = mask(given.pop("mask", "none"), given.pop("window", None))
    algorithm = TIME_PROGRAMS.get(implementation, "naive")
    return Trial(name, implementation, make_case(algorithm, mask=seen, **given))


def _variants(sizes: Mapping[str, Any], seq: int) -> Iterator[Trial]:
    """The library's and the handmade softmax under every mask, grouping, length, type and phase."""

    def variant(name: str, implementation: str = "naive", **given: Any) -> Trial:
        return _trial(f"{name}-{seq}", implementation, **{**sizes, "seq": seq, **given})

    yield variant("naive")
    yield variant("naive-causal", mask="causal")
    yield variant("naive-window", window=seq // 4)
    yield variant("naive-grouped", kv_heads=sizes["heads"] // 2)
    yield variant("naive-cross", kv_seq=seq + seq // 2)
    yield variant("naive-dropout", dropout=0.1)
    yield variant("naive-inference", phase="inference")
    yield variant("by-hand", "naive-by-hand")
    yield variant("by-hand-causal", "naive-by-hand", mask="causal")
    yield variant("chunked", "chunked", chunk=seq // 4)
    yield variant("checkpointed", "checkpointed")


def _crossed(sizes: Mapping[str, Any], seq: int) -> Iterator[Trial]:
    """Combinations of masks, grouped heads, lengths and dropout."""

    def variant(name: str, implementation: str = "naive", **given: Any) -> Trial:
        return _trial(f"{name}-{seq}", implementation, **{**sizes, "seq": seq, **given})

    yield variant("naive-multi-query-causal", mask="causal", kv_heads=1)
    yield variant("naive-cross-window", kv_seq=2 * seq, window=seq // 2)
    yield variant("naive-wide-values", value_dim=2 * sizes["head_dim"])
    yield variant("naive-forward", phase="forward")
    yield variant("naive-odd", seq=seq - 1, kv_seq=seq + 5, head_dim=40, value_dim=24)
    yield variant("by-hand-window", "naive-by-hand", window=seq // 8)
    yield variant("by-hand-grouped", "naive-by-hand", kv_heads=sizes["heads"] // 2)
    yield variant("by-hand-dropout", "naive-by-hand", dropout=0.1, mask="causal")
    yield variant("chunked-causal", "chunked", chunk=seq // 4, mask="causal")
    yield variant("chunked-window", "chunked", chunk=seq // 8, window=seq // 8)
    yield variant("chunked-uneven", "chunked", chunk=seq // 4 + 24)
    yield variant("checkpointed-causal", "checkpointed", mask="causal")
    yield variant("checkpointed-grouped", "checkpointed", kv_heads=sizes["heads"] // 2, dropout=0.1)
    yield variant("decode", "decode-eager", seq=1, kv_seq=seq, phase="inference")
    yield variant("decode-three", "decode-eager", seq=3, kv_seq=seq, kv_heads=1, mask="causal", phase="inference")


_SMALL: dict[str, Any] = {"heads": 4, "head_dim": 64, "dtype_name": "fp32"}
_CPU: dict[str, Any] = {"batch": 2, "heads": 8, "head_dim": 64, "dtype_name": "fp32"}
_CUDA: dict[str, Any] = {"batch": 4, "heads": 16, "head_dim": 128, "dtype_name": "bf16"}


def _cpu_quick() -> Iterator[Trial]:
    yield from _variants(_SMALL, 512)
    yield _trial("naive-bf16-512", "naive", **{**_SMALL, "seq": 512, "dtype_name": "bf16"})
    yield _trial("sdpa-flash-512", "sdpa-flash", **_SMALL, seq=512)
    yield _trial("sdpa-math-512", "sdpa-math", **_SMALL, seq=512)


def _cpu_more() -> Iterator[Trial]:
    yield from _crossed(_SMALL, 512)
    yield from _variants(_CPU, 1024)
    yield _trial("naive-fp64-512", "naive", **{**_SMALL, "seq": 512, "dtype_name": "fp64"})
    yield _trial("by-hand-bf16-512", "naive-by-hand", **{**_SMALL, "seq": 512, "dtype_name": "bf16"})
    yield _trial("naive-2048", "naive", **_CPU, seq=2048)
    yield _trial("by-hand-2048", "naive-by-hand", **_CPU, seq=2048)
    yield _trial("chunked-2048", "chunked", **_CPU, seq=2048, chunk=512)
    for seq in (1024, 2048):
        yield _trial(f"sdpa-flash-{seq}", "sdpa-flash", **_CPU, seq=seq)
        yield _trial(f"sdpa-math-{seq}", "sdpa-math", **_CPU, seq=seq)
    yield _trial("sdpa-flash-causal-1024", "sdpa-flash", **_CPU, seq=1024, mask="causal")


def _cuda_quick() -> Iterator[Trial]:
    yield from _variants(_CUDA, 1024)
    yield from _fused(2048)
    yield _trial("compiled-1024", "compiled", **_CUDA, seq=1024)
    for implementation in ("naive", "triton-flash"):
        yield _boundary(implementation)


def _cuda_more() -> Iterator[Trial]:
    yield from _crossed(_CUDA, 1024)
    yield from _variants(_CUDA, 4096)
    yield from _fused(8192)
    for dtype in ("fp16", "fp32"):
        yield _trial(f"naive-{dtype}-2048", "naive", **{**_CUDA, "seq": 2048, "dtype_name": dtype})
        yield _trial(f"triton-flash-{dtype}-2048", "triton-flash", **{**_CUDA, "seq": 2048, "dtype_name": dtype})
    yield _trial("triton-flash-grouped-2048", "triton-flash", **_CUDA, seq=2048, kv_heads=4)
    yield _trial("triton-flash-window-2048", "triton-flash", **_CUDA, seq=2048, window=512)
    yield _trial("compiled-causal-4096", "compiled", **_CUDA, seq=4096, mask="causal")
    for implementation in ("naive-by-hand", "chunked", "checkpointed"):
        yield _boundary(implementation)


def _fused(seq: int) -> Iterator[Trial]:
    """Kernels that keep the scores on chip, ours and torch's, and torch's own composition of library calls."""
    for implementation in ("triton-flash", "triton-flash-deterministic", "sdpa-flash"):
        yield _trial(f"{implementation}-{seq}", implementation, **_CUDA, seq=seq)
        yield _trial(f"{implementation}-causal-{seq}", implementation, **_CUDA, seq=seq, mask="causal")
    for backend in ("efficient", "cudnn", "math"):
        yield _trial(f"sdpa-{backend}-{seq}", f"sdpa-{backend}", **_CUDA, seq=seq)


def _boundary(implementation: str) -> Trial:
    """The longest sequence within the cap; the case's own seq is where nothing has been tried yet."""
    trial = _trial(f"longest-{implementation}", implementation, **{**_CUDA, "batch": 1}, seq=GRID)
    return replace(trial, cap=CAP_BYTES)
