"""Many batches and lengths of a model at once: the live peak of each, from four recordings.

The bytes of a storage are a + b·batch + c·seq + d·batch·seq where they are bilinear, and so are the live bytes after an
event. Recordings of two batches with two lengths give a, b, c, d of each event; few of the events can be the peak.
Steps of few tokens, which sort no indices for the embedding's gradient, and of sequences within the window differ.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product, repeat
from typing import Any

import numpy as np

from memmodel.allocator import AllocatorConfig
from memmodel.base.errors import UsageError
from memmodel.gpus import Gpu
from memmodel.models.choices import images_as_tokens
from memmodel.models.flops import forward_flops
from memmodel.models.predict import step_on
from memmodel.models.program import live_peak, moments, program_of
from memmodel.models.setting import ModelCase
from memmodel.prediction import columns_on_gpu
from memmodel.step import device_of
from memmodel.timing import Calibration

FEW_TOKENS = 3072  # more are sorted (aten/src/ATen/native/cuda/Embedding.cu)
_MOST_ALONE = 500
_RECORDED = 7  # steps that the moments of a regime take, with their check: fewer are recorded themselves
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ModelSweep:
    """The columns of a sweep: batch, seq, live_peak_bytes and model_flops, of every configuration.

    `gpu`: None for what holds on any GPU. `on_gpu`: what it adds to each, as `prediction.columns_on_gpu` names it.
    """

    case: ModelCase
    batch: Array
    seq: Array
    live_peak_bytes: Array
    model_flops: Array
    gpu: Gpu | None = None
    on_gpu: Sequence[dict[str, Any]] = ()

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dict a configuration."""
        columns = (self.batch, self.seq, self.live_peak_bytes, self.model_flops)
        common = {"gpu": self.gpu.id} if self.gpu else {}
        common |= {"model": self.case.arch.name, "phase": self.case.phase}
        added: Iterable[dict[str, Any]] = self.on_gpu or repeat({}, len(self.batch))
        for batch, seq, peak, flops, more in zip(*(column.tolist() for column in columns), added, strict=True):
            yield {**common, "batch": batch, "seq": seq, "live_peak_bytes": peak, "model_flops": flops, **more}


def swept_on(
    found: ModelSweep,
    gpu: Gpu,
    config: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[int], None] | None = None,
) -> ModelSweep:
    """A sweep with whether each configuration fits on a GPU, what the allocator holds there, and the times.

    Each is recorded. `progress` is called with the number of configurations done since its last call.
    """
    on_gpu = []
    for batch, seq in zip(found.batch.tolist(), found.seq.tolist(), strict=True):
        case = replace(found.case, batch=batch, seq=seq, device=device_of(gpu))
        memory, bound, expected, _ = step_on(program_of(case), case, gpu, config, calibration)
        on_gpu.append(columns_on_gpu(memory, bound, expected))
        if progress is not None:
            progress(1)
    return replace(found, gpu=gpu, on_gpu=on_gpu)


def model_sweep(case: ModelCase, batches: Sequence[int], seqs: Sequence[int]) -> ModelSweep:
    """Every batch with every length. Raises UsageError where bytes are not bilinear in them."""
    if case.arch.patches and set(seqs) != {case.arch.max_pos}:
        raise UsageError(f"--seq: {images_as_tokens(case.arch, case.arch.patches)}: leave it out")
    batch, seq = (column.ravel() for column in np.meshgrid(batches, seqs, indexing="ij"))
    peak = np.zeros(len(batch), dtype=np.int64)
    few, window = batch * seq <= FEW_TOKENS, case.arch.window or int(seq.max()) + 1
    # A batch of one makes views contiguous; few tokens, and sequences within the window, take other operators.
    for single, of_few, within in product((True, False), repeat=3):
        rows = ((batch == 1) == single) & (few == of_few) & ((seq < window) == within)
        if rows.any():
            peak[rows] = _of_regime(case, batch[rows], seq[rows], single, of_few, within)
    return ModelSweep(case, batch, seq, peak, _flops(case, batch, seq))


def _of_regime(case: ModelCase, batch: Array, seq: Array, single: bool, few: bool, within: bool) -> Array:
    """The peaks of configurations whose steps are alike; of few that are not, one by one."""
    known = _moments(case, *_corners(case, single, few, within)) if len(batch) > _RECORDED else None
    if known is not None:
        found = _peaks(known, batch, seq)
        # Three recordings say whether bytes are bilinear here: where one differs, none of the rows is trusted.
        if all(int(found[i]) == _exact(case, batch[i], seq[i]) for i in {0, len(batch) // 2, len(batch) - 1}):
            return found
    if len(batch) > _MOST_ALONE:
        raise UsageError(
            f"{case.arch.name} with attention {case.attention}: the bytes of {len(batch):,} of these configurations "
            f"are in no proportion to batch and seq: sweep at most {_MOST_ALONE} of them at a time"
        )
    return np.array([_exact(case, b, n) for b, n in zip(batch, seq, strict=True)], dtype=np.int64)


def _exact(case: ModelCase, batch: Any, seq: Any) -> int:
    return live_peak(replace(case, batch=int(batch), seq=int(seq)))


def _corners(case: ModelCase, single: bool, few: bool, within: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two batches and two lengths of a regime, to record."""
    window, longest = case.arch.window, case.arch.max_pos if case.arch.positions == "learned" else 8192
    high = min(window - 1, longest) if within and window else longest
    if not within:
        high = 4 * window
    if few and within:
        high = min(high, 512)
    if single:
        return (1, 1), (high // 2, high)
    least = 2 if few else max(2, FEW_TOKENS // (high // 2) + 1)
    return (least, least + 1), (high // 2, high)


def _peaks(known: Array, batch: Array, seq: Array) -> Array:
    """The largest of the moments' bytes, of each configuration."""
    peak = np.zeros(len(batch), dtype=np.int64)
    each = batch * seq
    for a, b, c, d in _undominated(known, (batch.min(), batch.max()), (seq.min(), seq.max())).tolist():
        np.maximum(peak, a + b * batch + c * seq + d * each, out=peak)
    return peak


def _undominated(known: Array, batches: tuple[int, int], seqs: tuple[int, int]) -> Array:
    """The moments without those that are nowhere larger than another, between two batches and two lengths.

    What is bilinear is least and most in the corners, and so is the difference of two.
    """
    values = known @ np.array([(1, b, n, b * n) for b in batches for n in seqs]).T
    order = np.argsort(-values.sum(axis=1))
    left, values, found = known[order], values[order], []
    while len(left):
        found.append(left[0])
        larger = (values > values[0]).any(axis=1)
        left, values = left[larger], values[larger]
    return np.array(found)


def _moments(case: ModelCase, batches: tuple[int, int], seqs: tuple[int, int]) -> Array | None:
    """(a, b, c, d) of the live bytes at each moment that can be the peak; None where the steps differ."""
    # Scratch of reductions goes in steps, and few sizes need it.
    live = {
        (b, n): np.array(moments(replace(case, batch=b, seq=n), scratch=False), dtype=np.int64)
        for b in batches
        for n in seqs
    }
    if len(set(map(len, live.values()))) > 1:
        return None
    (b0, b1), (n0, n1) = batches, seqs
    per_batch, per_seq = max(1, b1 - b0), n1 - n0  # of a single batch, what grows with it is part of the rest
    d = (live[b1, n1] - live[b1, n0] - live[b0, n1] + live[b0, n0]) // (per_batch * per_seq)
    b = (live[b1, n0] - live[b0, n0]) // per_batch - d * n0
    c = (live[b0, n1] - live[b0, n0]) // per_seq - d * b0
    a = live[b0, n0] - b * b0 - c * n0 - d * b0 * n0
    return np.stack([a, b, c, d], axis=1)


def _flops(case: ModelCase, batch: Array, seq: Array) -> Array:
    queries = np.ones_like(seq) if case.phase == "decode" else seq
    times = 3 * case.microbatches if case.phase == "train" else 1
    seen = replace(case, seq=seq).read
    read = 0 if case.phase == "decode" else seen
    return np.array(times * forward_flops(case.arch, batch, queries, seq, read, seen), dtype=np.int64)
