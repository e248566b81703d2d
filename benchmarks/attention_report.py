"""What the attention benchmark records of each case, and its tables."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from memmodel.attention import tiles


@dataclass(frozen=True)
class Case:
    """One shape: queries and keys of the same length n, as many key/value heads as query heads."""

    b: int
    h: int
    n: int
    d: int
    causal: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, length, head dim)."""
        return (self.b, self.h, self.n, self.d)

    @property
    def flop(self) -> float:
        """Floating-point operations of the forward pass that count: half of them if causal."""
        return 4.0 * self.b * self.h * self.n * self.n * self.d / (2 if self.causal else 1)


@dataclass
class Timing:
    """Milliseconds of every run of one backend on one case, or why it was not run."""

    case: Case
    phase: str
    backend: str
    tile: str = ""
    runs_ms: list[float] = field(default_factory=list)
    skipped: str = ""

    @property
    def median_ms(self) -> float:
        """Median over the runs, milliseconds."""
        return statistics.median(self.runs_ms)

    @property
    def tflops(self) -> float:
        """TFLOP/s of the FLOP that count: the backward has 2.5 times the forward's."""
        return self.case.flop * (2.5 if self.phase == "backward" else 1.0) / self.median_ms / 1e9


def describe(row: tiles.Row) -> str:
    """Name a row of the tile table: `64x128 + 128x64 8w 2s`."""
    return " + ".join(f"{t.rows}x{t.cols}" for t in row) + f" {row[0].warps}w {row[0].stages}s"


def markdown(timings: list[Timing], limits: dict[str, float], heading: str) -> str:
    """One table per pass, then the ratios that were aimed at."""
    lines = [
        heading,
        f"Measured in this run: matmul {limits['matmul_TFLOPps']:.0f} TFLOP/s, copy {limits['copy_GBps']:.0f} GB/s.",
    ]
    for phase in ("forward", "backward"):
        lines += ["", f"### {phase}", "", "| d | mask | n | backend | ms | TFLOP/s | of matmul | vs FLASH | tile |"]
        lines.append("| --- " * 9 + "|")
        lines += [line(t, flash_of(timings, t), limits) for t in timings if t.phase == phase]
    return "\n".join([*lines, "", "### aims", "", *aims(timings), ""])


def line(t: Timing, flash: Timing | None, limits: dict[str, float]) -> str:
    head = f"| {t.case.d} | {'causal' if t.case.causal else 'none'} | {t.case.n} | {t.backend} "
    if t.skipped:
        return f"{head}| not run: {t.skipped} | | | | |"
    ratio = f"{flash.median_ms / t.median_ms:.2f}" if flash else ""
    spread = f"{t.median_ms:.3f} [{min(t.runs_ms):.3f}, {max(t.runs_ms):.3f}]"
    share = t.tflops / limits["matmul_TFLOPps"]
    return f"{head}| {spread} | {t.tflops:.0f} | {share:.0%} | {ratio} | {t.tile} |"


def flash_of(timings: list[Timing], like: Timing) -> Timing | None:
    """FLASH on the same case and pass, if it ran."""
    same = [t for t in timings if (t.case, t.phase, t.backend) == (like.case, like.phase, "FLASH") and t.runs_ms]
    return same[0] if same else None


def aims(timings: list[Timing]) -> Iterator[str]:
    """Each speed that was aimed at, with the worst case that decides it."""
    for text, phase, backend, least, wanted in (
        ("forward, n >= 2048", "forward", "ours", 2048, 1.2),
        ("forward, n = 512", "forward", "ours", 512, 1.0),
        ("backward, deterministic, n >= 2048", "backward", "ours", 2048, 1.0),
        ("backward, fused, n >= 2048", "backward", "ours fused", 2048, 1.2),
    ):
        ratios = [
            (flash.median_ms / t.median_ms, t.case)
            for t in timings
            if t.runs_ms and (t.phase, t.backend) == (phase, backend) and (flash := flash_of(timings, t))
            if (t.case.n >= 2048 if least == 2048 else t.case.n == 512)
        ]
        if ratios:
            worst, case = min(ratios, key=lambda pair: pair[0])
            verdict = "reached" if worst >= wanted else "missed"
            mask = "causal" if case.causal else "unmasked"
            yield f"- {text}: at least {wanted}x FLASH {verdict}: {worst:.2f}x at d={case.d}, {mask}, n={case.n}"
