"""The calibrations that are fitted to recorded runs: the rows of each fit, and those that it is judged on.

A constant is never fitted to a row that it is judged on: naive attention is fitted at n = 4096 and judged beyond, and
compiled with the constants of eager attention; a flash kernel is fitted without a mask at head dims 64 and 128, its
backward at 64, and judged under a causal mask, at other head dims and on other GPUs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from memmodel.algorithms import ALGORITHMS
from memmodel.gpus import load_gpu
from memmodel.timing import Constant
from memmodel.timing.known import shipped_ids
from memmodel_evidence.implementations import IMPLEMENTATIONS
from memmodel_evidence.programs import STANDARD
from memmodel_evidence.records import everything
from memmodel_evidence.times import Timed, times
from memmodel_validate.ledger import Ledger, Run, Source

KERNELS = (*IMPLEMENTATIONS, STANDARD)
FITTED_N = 4096
DISPATCH_N = 256
LENT = ("broadcast", "softmax")  # what tables of softmax by hand, all at one length, do not tell
WIDE_TILE = 128  # columns that a library may compute narrow fp32 results in, where not those that waste least
FA2_A100 = "dao-ailab-flash-attention-0251105-assets-flash2-a100-fwd-bwd@a100-80gb-sxm4"
FA2_H100 = "dao-ailab-flash-attention-0251105-assets-flash2-h100-fwd-bwd@h100-80gb-sxm5"
FA3_FORWARD = "flashattention-3-paper-arxiv-2407-08608-fig-5@h100-80gb-sxm5"
FA3_BACKWARD = "flashattention-3-paper-arxiv-2407-08608-fig-6-by-column-posi@h100-80gb-sxm5"


@dataclass(frozen=True, slots=True)
class Fit:
    """A calibration to make.

    Attributes:
        name: of its file. sources: whose rows it is fitted to. gpu: the id that it is a calibration of, or "".
        implementation: the flash kernel that it is of; "" for naive attention.
        start: the constants to fit, and where the search starts. given: constants that are listed, with their origin.
        judged: sources that it is judged on and fitted to no row of.
        like: the GPU whose rates it has (`LENT`), by shares of the datasheet, as its own rows do not tell them; or "".
    """

    name: str
    sources: tuple[str, ...]
    gpu: str
    implementation: str
    start: Mapping[str, float]
    given: Mapping[str, Constant]
    judged: tuple[str, ...] = ()
    like: str = ""

    @property
    def flash(self) -> bool:
        """Whether it is of a flash kernel."""
        return self.implementation in IMPLEMENTATIONS

    @property
    def power(self) -> int:
        """Of the log error to minimise: least squares for published figures; scripts' tables have outliers."""
        return 2 if self.flash else 1

    def judges(self, run: Run) -> bool:
        """Whether it is made for what a run ran: a flash kernel by its name on any GPU, others by their source."""
        if self.flash or run.implementation in IMPLEMENTATIONS:
            return run.implementation == self.implementation
        return run.source in (*self.sources, *self.judged) and run.implementation in (STANDARD, *ALGORITHMS)

    def trains_on(self, timed: Timed) -> bool:
        """Whether a row is one that the constants are fitted to."""
        run, case = timed.run, timed.run.case
        if run.source not in self.sources or not self.judges(run):
            return False
        if not self.flash:
            return case["seq"] == FITTED_N or dispatches(run)
        return case["mask"] == "none" and case["head_dim"] in ((64,) if timed.phase == "backward" else (64, 128))


def _naive(
    name: str,
    *sources: str,
    gpu: str = "",
    starts: Mapping[str, float] | None = None,
    judged: tuple[str, ...] = (),
    like: str = "",
) -> Fit:
    own = {"bandwidth": 2e12, "reduction": 1e12, "matmul.fp32.values": 3e13} if starts is None else starts
    return Fit(name, sources, gpu, "", own, {}, judged, like)


_STANDARD = {"bandwidth": 2e12, "broadcast": 3e11, "matmul.fp16.values": 4e14}  # 16 bits, library softmax
_TF32 = {"bandwidth": 2e12, "reduction": 1e12, "matmul.tf32.values": 1e14}
_LIBRARY = {"bandwidth": 2e12, "matmul.fp32.values": 3e13}
_BOTH = {**_STANDARD, "softmax": 2e12, "reduction": 1e12, "matmul.fp32.values": 3e13, "matmul.tf32.values": 1e14}


_MMA_SYNC = Constant(4096.0, "mma.sync: on later GPUs no faster than on an H100, whose peak this is (assumption)")
_WGMMA = Constant(64.0, "PTX ISA, wgmma.mma_async: 64 rows of one operand")
_IN_ORDER = Constant(1.0, "programs start, or are taken by a counter, in order")
_LONGEST_FIRST = Constant(0.5, "the longest programs start first")


def _file(gpu: str, implementation: str) -> str:
    return f"{gpu}." + "-".join("".join(c if c.isalnum() else " " for c in implementation.lower()).split())


def _flash(implementation: str, tail: Constant, wgmma: bool, backward: bool = True) -> Fit:
    start = {"flash.matmul": 0.7, "flash.overlap": 0.5, "flash.prologue": 3000.0}
    if backward:
        start |= {"flash_backward.overlap": 0.3, "flash_backward.prologue": 20000.0}
    listed = {f"{flash}.tail": tail for flash in ("flash", "flash_backward")}
    if wgmma:
        listed |= {f"{flash}.warp_rows": _WGMMA for flash in ("flash", "flash_backward")}
    else:
        listed |= {f"{flash}.flop_per_clock": _MMA_SYNC for flash in ("flash", "flash_backward")}
    return Fit(
        _file("h100-sxm", implementation), (FA3_FORWARD, FA3_BACKWARD), "h100-sxm", implementation, start, listed
    )


def _fa2_on_a100() -> Fit:
    """FlashAttention-2 on an A100, of which only forward and backward together are published: three constants."""
    start = {"flash.matmul": 0.8, "flash.overlap": 0.5, "flash.prologue": 3700.0}
    given = {f"{flash}.tail": _IN_ORDER for flash in ("flash", "flash_backward")}
    return Fit(
        _file("a100-80gb-sxm", "FlashAttention-2"), (FA2_A100,), "a100-80gb-sxm", "FlashAttention-2", start, given
    )


_H100 = ("yyin-eager", "brandon-eager", "ab2163-eager", FA3_FORWARD, FA3_BACKWARD, FA2_H100)
FITS = (
    _naive(
        "h100-sxm",
        *_H100,
        gpu="h100-sxm",
        starts=_BOTH,
        judged=(
            *("brandon-flash", "brandon-compiled", "yyin-compiled", "yyin-compiled-tf32"),
            *("tianqguo-h100-eager", "tianqguo-h100-eager-2", "tianqguo-h100-compiled"),
        ),
    ),
    _naive(
        "a100-80gb-sxm",
        *(FA2_A100, "enzo-eager"),  # an A800: the same chip, with fewer links to others
        gpu="a100-80gb-sxm",
        starts={name: start for name, start in _BOTH.items() if "tf32" not in name},
        judged=("luke-flash-bf16", "enzo-compiled", "luke-eager"),
    ),
    _naive("h20", "markmrli-eager", gpu="h20", judged=("markmrli-compiled",)),
    _naive(
        "b200",
        "sara-eager",
        "sara-eager-2",
        gpu="b200",
        like="h100-sxm",
        judged=("sara-flash", "sara-compiled", "subha-eager", "subha-compiled", "jennjwang-eager"),
    ),
    _naive(
        "rtx-pro-6000-blackwell", "duoan-eager", gpu="rtx-pro-6000-blackwell", starts=_TF32, judged=("duoan-compiled",)
    ),
    _naive("seed-eager", "seed-eager", judged=("seed-compiled",)),
    _naive("wuyh11-eager", "wuyh11-eager"),
    _naive("niccolo-eager", "niccolo-eager", judged=("niccolo-compiled",)),
    _naive("magma27-eager", "magma27-eager", starts=_LIBRARY, judged=("magma27-compiled",)),
    _naive("h200-sxm", "tianqguo-h200-eager", gpu="h200-sxm", starts=_LIBRARY, judged=("tianqguo-h200-compiled",)),
    _naive("rtx-5090", "victorhuu-eager", gpu="rtx-5090", starts=_LIBRARY, judged=("victorhuu-compiled",)),
    _naive("sidsoc-eager", "sidsoc-eager", starts=_LIBRARY),
    _naive("wedsonlin-eager", "wedsonlin-eager", judged=("wedsonlin-compiled",)),
    _naive("hyperion-eager", "hyperion-eager", starts=_TF32, judged=("hyperion-compiled",)),
    _naive("shanning-eager", "shanning-eager", starts=_LIBRARY, judged=("shanning-eager-2",)),
    _naive("tianqguo-laptop-eager", "tianqguo-laptop-eager", starts=_LIBRARY),
    _naive("damek-eager", "damek-eager", starts=_TF32, judged=("damek-eager-2", "damek-compiled")),
    _naive("a10g", "ymao-eager", gpu="a10g"),
    _naive("luke-flash-fp32", "luke-flash-fp32", starts=_LIBRARY),
    _flash("FlashAttention-2", _IN_ORDER, wgmma=False),
    _fa2_on_a100(),
    _flash("FlashAttention-3", _LONGEST_FIRST, wgmma=True),
    _flash("Triton (nightly 2024)", _IN_ORDER, wgmma=True, backward=False),
    _flash("cuDNN 9", _IN_ORDER, wgmma=True),
)


def _without(fit: Fit, source: str) -> Fit:
    others = tuple(name for name in fit.sources if name != source)
    return replace(fit, name=f"{fit.name}.without-{source.partition('@')[0]}", sources=others, judged=(source,))


def _others_of_its_type(fit: Fit, source: str) -> bool:
    """Whether sources like it remain: published figures ("@" in the name) are in 16 bits, scripts' tables in fp32."""
    return sum(("@" in name) == ("@" in source) for name in fit.sources) > 1


# The fits of GPUs with several sources, each left out once: its rows are judged by what the others say.
LEFT_OUT = tuple(
    _without(fit, source)
    for fit in FITS
    for source in fit.sources
    if fit.gpu and not fit.flash and _others_of_its_type(fit, source)
)


def others_than(gpu: str) -> tuple[str, ...]:
    """The ids of measured GPUs that know nothing of one: not itself, and none that has rates of it."""
    lent = [fit.gpu for fit in FITS if fit.like == gpu]
    return tuple(id_ for id_ in shipped_ids() if id_ not in (gpu, *lent))


def dispatches(run: Run) -> bool:
    """Whether a run is one that its host's dispatch is read from: eager kernels too short to count."""
    return run.implementation in ALGORITHMS and run.case["seq"] == DISPATCH_N


def fit_of(run: Run, source: Source, fits: Iterable[Fit] = FITS) -> Fit | None:
    """The fit that a run is judged by: that of its table, or of its kernel on the nearest GPU.

    A user's table that describes its script, and so has no fit here, is fitted by itself (see docs/validation.md).
    """
    found = [fit for fit in fits if fit.judges(run)]
    described = "attention" in source.protocol and run.implementation in ALGORITHMS
    if described and not found and run.source not in everything().sources:
        return _of_its_own(source, str(run.case["dtype"]))
    return min(found, key=lambda fit: _distance(fit.gpu, source.gpu_id), default=None)


_BEYOND_MMA_SYNC = ("hopper", "blackwell_dc", "blackwell_ultra")  # mma.sync does not reach their peak


def _distance(fitted: str, gpu_id: str) -> int:
    """From a fit's GPU to another: the same, of its architecture, with or without a faster instruction like it."""
    if fitted == gpu_id:
        return 0
    if not (fitted and gpu_id):
        return 3
    here, there = load_gpu(fitted).arch, load_gpu(gpu_id).arch
    return 1 if here == there else 3 - ((here in _BEYOND_MMA_SYNC) == (there in _BEYOND_MMA_SYNC))


def _of_its_own(source: Source, dtype: str) -> Fit:
    kind = source.protocol.get("fp32_products", dtype) if dtype == "fp32" else dtype
    start = {"bandwidth": 2e12, "reduction": 1e12, f"matmul.{kind}.values": 3e13}
    return Fit(f"{source.name}.{dtype}", (source.name,), "", "", start, {})


def training_rows(fit: Fit, ledger: Ledger) -> list[Timed]:
    """The times that a calibration is fitted to."""
    runs = (run for run in ledger.runs if run.source in fit.sources)
    return [timed for run in runs for timed in times(run) if fit.trains_on(timed)]
