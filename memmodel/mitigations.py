"""Changes that lower a step's peak or make it fit: algorithms, settings and sizes, each with its prediction."""

from collections.abc import Iterator, Sequence

from memmodel.algorithms import ALGORITHMS, algorithm
from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import Case
from memmodel.attention.masks import Mask
from memmodel.base.errors import UsageError
from memmodel.gpus import Gpu
from memmodel.prediction import Mitigation, Prediction
from memmodel.recorder import record
from memmodel.step import allocated_peak

MOST_CHUNKS = 4  # chunks in a suggested chunked attention
WINDOW = 4096  # keys in a suggested sliding window (Mistral 7B's)
Change = tuple[str, Case, AllocatorConfig | None]


def mitigations(predictions: Sequence[Prediction], gpu: Gpu, config: AllocatorConfig | None = None) -> list[Mitigation]:
    """The changes that lower the first prediction's allocated peak, or make it fit; least memory first."""
    first = predictions[0]
    if algorithm(first.case.algorithm).fused or first.case.algorithm == "decode":
        return []
    known = {each.case: (each.memory.allocated_peak_bytes, each.memory.fits) for each in predictions[1:]}
    before = first.memory.allocated_peak_bytes
    found = []
    for change, case, settings in _changes(first, config):
        try:
            peak, fits = known.get(case) or allocated_peak(record(case), case.torch, gpu, settings)
        except UsageError:
            continue  # its algorithm does not take this case
        if peak < before or (fits and first.memory.fits is False):
            found.append(Mitigation(change, peak, before - peak, fits))
    return sorted(found, key=lambda m: m.allocated_peak_bytes)


def _changes(prediction: Prediction, config: AllocatorConfig | None) -> Iterator[Change]:
    """(name, changed case, allocator settings) of each change to try."""
    case = prediction.case
    if prediction.memory.fits is False and not (config and config.expandable_segments):
        settings = (config or AllocatorConfig()).replace(expandable_segments=True)
        yield "PYTORCH_ALLOC_CONF=expandable_segments:True", case, settings
    cached = algorithm(case.algorithm).cached
    for name in ("decode",) if cached else ("sdpa", "flash"):
        fused = case.replace(algorithm=name)
        if case.algorithm != name:
            yield ALGORITHMS[name].title, fused, config
    if cached:
        return
    yield from _chunks(case, config)
    checkpointed = case.replace(algorithm="checkpointed")
    if case.algorithm != "checkpointed" and case.phase != "inference":
        yield "checkpointing", checkpointed, config
    if case.batch > 1:
        yield "half the batch", case.replace(batch=case.batch // 2), config


def _chunks(case: Case, config: AllocatorConfig | None) -> Iterator[Change]:
    """Chunked attention, and with a window if there is none: that changes the result, but is usual in long contexts."""
    chunked = case.replace(algorithm="chunked", chunk=max(case.chunk, -(-case.seq // MOST_CHUNKS)))
    if case.algorithm == "chunked" or case.seq <= chunked.chunk:
        return
    yield f"chunks of {chunked.chunk} queries", chunked, config
    if case.mask.window is None and case.kv_seq > WINDOW:
        windowed = chunked.replace(mask=Mask(causal=True, window=WINDOW))
        yield f"chunks, and only the last {WINDOW} keys seen", windowed, config
