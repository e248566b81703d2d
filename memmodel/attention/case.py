"""The case: algorithm, sizes, dtype, mask and phase, the one key of predictions, recorded runs and tests."""

from math import isqrt
from operator import index
from typing import Any

from memmodel.attention.cache import MOST_SPLITS, PLAIN, Cache
from memmodel.attention.masks import NO_MASK, Mask
from memmodel.attention.scores import UNCHANGED, Scores
from memmodel.base.device import CUDA, Device
from memmodel.base.dtypes import DType, bfloat16, cache_dtype, dtype, short_name
from memmodel.base.errors import UsageError, check_kind, choice, shortened
from memmodel.base.frozen import Frozen
from memmodel.base.units import parse_size
from memmodel.sizes.dims import Dim, Size

PHASES = ("inference", "forward", "train")
MOST_LENGTHS = 4096  # sequences whose lengths are told one by one
LARGEST = 1 << 31  # sizes above this are rejected as mistakes
SIZES = ("batch", "heads", "kv_heads", "seq", "kv_seq", "head_dim", "value_dim")
TWINS = {"kv_heads": "heads", "kv_seq": "seq", "value_dim": "head_dim"}  # equal unless given
LETTERS = dict(zip(SIZES, "bhgnmde", strict=True))


class Case(Frozen):
    """A configuration of attention. Sizes are ints (arrays and symbols inside sweeps and formulas).

    Attributes:
        batch: b. heads: h, query heads. kv_heads: g, key/value heads, a divisor of h.
        seq: n, queries. kv_seq: m, keys. head_dim: d, of queries and keys. value_dim: e.
        mask: the keys that a query sees. dropout: probability. chunk: queries at a time in "chunked".
        phase: "inference" (no autograd), "forward" (tensors saved for backward), "train" (forward and backward).
        torch: version of PyTorch, for workspaces. device: how its kernels allocate (`memmodel.step.device_of` a GPU).
        tiles: of fused kernels; None looks them up, which takes an int head dim (not symbols or arrays).
        cache: how "decode" keeps keys and values. scores: what is done to scores beside the mask.
        deterministic: whether PyTorch is asked for deterministic algorithms (torch.use_deterministic_algorithms).
        lengths: of unlike sequences; batch is then their number, seq and kv_seq the longest. Packed algorithms put them
            behind one another, others pad each to the longest.
    """

    algorithm: str = "naive"
    batch: Dim = 1
    heads: Dim = 1
    kv_heads: Dim = 1
    seq: Dim = 1024
    kv_seq: Dim = 1024
    head_dim: Dim = 64
    value_dim: Dim = 64
    dtype: DType = bfloat16
    mask: Mask = NO_MASK
    dropout: float = 0.0
    phase: str = "train"
    chunk: Dim = 1024
    torch: str = "2.13"
    device: Device = CUDA
    tiles: Any = None
    cache: Cache = PLAIN
    scores: Scores = UNCHANGED
    deterministic: bool = False
    lengths: tuple[int, ...] = ()

    def lettered(self) -> "Case":
        """The same case with sizes that print as letters; equal sizes of queries and keys share one."""
        sizes = {name: Size(getattr(self, name), LETTERS[name]) for name in SIZES}
        for name, twin in TWINS.items():
            if sizes[name] == sizes[twin]:
                sizes[name] = sizes[twin]
        return self.replace(**sizes)

    def described(self) -> dict[str, str]:
        """Each field in words: {"seq": "seq 4096", "dropout": "no dropout", ...}."""
        return {
            "phase": self.phase,
            "dtype": short_name(self.dtype),
            "batch": f"batch {self.batch}",
            "heads": f"{self.heads} heads",
            "kv_heads": f"{self.kv_heads} kv heads",
            "seq": f"seq {self.seq}",
            "kv_seq": f"kv seq {self.kv_seq}",
            "head_dim": f"head dim {self.head_dim}",
            "value_dim": f"value dim {self.value_dim}",
            "mask": self.mask.described(),
            "dropout": f"dropout {self.dropout:g}" if self.dropout else "no dropout",
            "cache": self.cache.described(),
            "scores": self.scores.described(),
            "deterministic": "deterministic" if self.deterministic else "",
            "lengths": f"{sum(self.lengths)} tokens" if self.lengths else "",
        }

    def describe(self, without: str = "") -> str:
        """The case in one line, less the size `without`: train, bf16, batch 1, 32 heads, seq 4096, ..."""
        left_out = {"mask" if without == "window" else without, f"kv_{without}"}
        left_out |= {name for name, twin in TWINS.items() if getattr(self, name) == getattr(self, twin)}
        left_out |= {name for name, given in (("mask", self.mask.causal), ("dropout", self.dropout)) if not given}
        left_out |= {"cache"} if self.cache == PLAIN else set()
        left_out |= {"scores"} if self.scores == UNCHANGED else set()
        left_out |= {"deterministic"} if not self.deterministic else set()
        left_out |= {"lengths"} if not self.lengths else set()
        return ", ".join(part for name, part in self.described().items() if name not in left_out)


def make_case(
    algorithm: str = "naive",
    *,
    batch: int = 1,
    heads: int = 1,
    kv_heads: int | None = None,
    seq: int = 1024,
    kv_seq: int | None = None,
    head_dim: int = 64,
    value_dim: int | None = None,
    dtype_name: str | DType = "bf16",
    mask: Mask | None = None,
    dropout: float = 0.0,
    phase: str = "train",
    chunk: int = 1024,
    torch: str = "2.13",
    cache: Cache = PLAIN,
    scores: Scores = UNCHANGED,
    deterministic: bool = False,
    lengths: Any = (),
) -> Case:
    """A checked case with its defaults filled in.

    Raises UsageError for sizes that are no positive ints, kv heads that do not divide heads, or an unknown name.
    """
    from memmodel.allocator.cublas import parse_torch_version

    parse_torch_version(torch)
    lengths = make_lengths(lengths)
    if lengths:
        if (batch, kv_seq) != (1, None):
            raise UsageError("lengths are of all sequences, queries and keys alike: leave out --batch and --kv-seq")
        batch, seq = len(lengths), max(lengths)
    phase = choice("phase", phase, PHASES)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise UsageError(f"dropout {dropout}: expected a probability from 0 to below 1, such as 0.1")
    sizes: dict[str, Any] = {
        "batch": batch,
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "seq": seq,
        "kv_seq": seq if kv_seq is None else kv_seq,
        "head_dim": head_dim,
        "value_dim": head_dim if value_dim is None else value_dim,
        "chunk": chunk,
    }
    for name, value in sizes.items():
        check_size(name, value)
    if sizes["heads"] % sizes["kv_heads"]:
        raise UsageError(
            f"{heads} heads do not divide among {kv_heads} kv-heads: kv-heads must be a divisor of heads, "
            f"such as {_divisor(sizes['heads'], sizes['kv_heads'])}"
        )
    check_kind("mask", mask, Mask)
    check_kind("deterministic", deterministic, bool, "True or False")
    chosen = mask or NO_MASK
    chosen.check(sizes["seq"], sizes["kv_seq"])
    if chosen.causal and sizes["seq"] > sizes["kv_seq"]:
        raise UsageError(
            f"a causal mask with {sizes['seq']} queries and {sizes['kv_seq']} keys leaves queries without keys: "
            "kv-seq must be at least seq"
        )
    return Case(
        algorithm, dtype=dtype(dtype_name, fp8=True), mask=chosen, dropout=dropout, phase=phase, torch=torch,
        cache=cache, scores=scores, deterministic=deterministic, lengths=lengths, **sizes,
    )  # fmt: skip


def check_case(case: object) -> None:
    """Raise UsageError for what is no case."""
    if not isinstance(case, Case):
        raise UsageError(f"case {shortened(case)}: expected a memmodel Case, as make_case makes it")


def make_lengths(given: Any) -> tuple[int, ...]:
    """Checked lengths of sequences, from numbers or from text such as "100,2k". Raises UsageError for others."""
    if given is None or (isinstance(given, str) and not given):
        return ()
    try:
        listed = [parse_size(part) for part in given.split(",")] if isinstance(given, str) else list(given)
    except TypeError:
        raise UsageError(f"lengths {given!r}: expected a list of them, such as 100,2000,512") from None
    if len(listed) > MOST_LENGTHS:
        raise UsageError(f"{len(listed)} lengths: at most {MOST_LENGTHS} are taken")
    return tuple(check_size("lengths", length) for length in listed)


def make_cache(page_size: Any = None, of_type: Any = None, num_splits: Any = None) -> Cache:
    """A checked cache. Raises UsageError for an unknown type, and for sizes that are no positive ints."""
    page = None if page_size is None else check_size("page_size", page_size)
    splits = None if num_splits is None else check_size("num_splits", num_splits)
    if splits is not None and splits > MOST_SPLITS:
        raise UsageError(f"num-splits {splits}: flash-attention reads the keys in at most {MOST_SPLITS} parts")
    return Cache(page, None if of_type is None or str(of_type) == "auto" else cache_dtype(of_type), splits)


def check_size(name: str, value: Any) -> int:
    """`value` as a size. Raises UsageError unless it is an int from 1 to 2^31."""
    label = name.replace("_", "-")
    if isinstance(value, bool):
        raise UsageError(f"{label} {value}: expected a whole number of at least 1")
    try:
        size = index(value)  # a class has __index__ too, and so have arrays: only a call tells
    except TypeError:
        raise UsageError(f"{label} {value}: expected a whole number of at least 1") from None
    if size < 1:
        raise UsageError(f"{label} {size}: expected a whole number of at least 1")
    if size > LARGEST:
        raise UsageError(f"{label} {size}: sizes above {LARGEST} (2^31) are taken for a mistake")
    return size


def _divisor(heads: int, near: int) -> int:
    """The divisor of `heads` nearest to `near`."""
    small = [d for d in range(1, isqrt(heads) + 1) if heads % d == 0]
    return min((*small, *(heads // d for d in small)), key=lambda d: abs(d - near))
