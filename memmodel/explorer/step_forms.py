"""Closed forms of a model's step in batch and length: the bytes alive at every moment that can be its peak, by group.

The bytes of a storage are a sum of 1, b, n, b·n, n² and b·n² with whole factors, and so are the live bytes after an
event, as long as the same operators run. Recordings at two batches and three lengths give the factors; further ones, of
other sizes, must agree. Operators change with a batch of one (whose views are contiguous), with the number of tokens
(the embedding's gradient sorts many), at the window, and with the GPU.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from memmodel.base.device import Device
from memmodel.base.errors import UsageError
from memmodel.events.groups import GROUPS, groups_of, kind_of
from memmodel.events.liveness import OUTSIDE_A_STEP, states, uncounted
from memmodel.events.program import Alloc, Mark
from memmodel.gpus import Gpu
from memmodel.models.program import program_of
from memmodel.models.setting import ModelCase
from memmodel.models.sweep import FEW_TOKENS
from memmodel.step import device_of

STEP = 128  # lengths are multiples of it, as kernels round up to
LONGEST, MOST = 1 << 17, 256  # tokens, and sequences
Array = np.ndarray[Any, Any]
Forms = tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]  # of each moment its phase, and factors of each group


class Regime(NamedTuple):
    """Sizes at which the same operators run: of one sequence, of few tokens, below the window."""

    single: bool
    few: bool
    within: bool

    @property
    def key(self) -> str:
        """Its name in the page."""
        return "".join(str(int(one)) for one in self)

    def holds(self, batch: int, seq: int, window: int) -> bool:
        """Whether sizes are of this regime."""
        return (batch == 1, batch * seq <= FEW_TOKENS, not window or seq < window) == self


_ALL = [Regime(*flags) for flags in product((True, False), repeat=3)]


def lengths_of(case: ModelCase) -> list[int]:
    """The lengths of the page."""
    longest = case.arch.most_tokens or LONGEST
    if case.arch.patches or longest < 2 * STEP:
        return [int(case.seq)]
    return list(range(STEP, min(longest, LONGEST) + 1, STEP))


def step_forms(case: ModelCase, gpus: Sequence[Gpu]) -> tuple[list[Forms], dict[str, dict[str, int]]]:
    """The forms, each once, and GPU -> regime -> which of them. Raises UsageError where bytes are no such sum."""
    found: list[Forms] = []
    by_device: dict[Any, dict[str, int]] = {}
    for gpu in gpus:
        device = _alike(gpu)
        if device not in by_device:
            on_device = replace(case, device=device_of(gpu))
            by_device[device] = _known(on_device, found, by_device.values()) or {
                regime.key: _number(on_device, regime, found) for regime in _regimes(case)
            }
    return found, {gpu.id: by_device[_alike(gpu)] for gpu in gpus}


def _alike(gpu: Gpu) -> Device:
    """What of a GPU decides the bytes: multiprocessors, only scratch that goes in steps, which is left out."""
    return device_of(gpu)._replace(sms=0)


def _known(case: ModelCase, found: Sequence[Forms], known: Iterable[dict[str, int]]) -> dict[str, int] | None:
    """The forms of another device that give a recording's peak on this one in every regime: its operators are alike."""
    samples = {regime.key: _samples(case, regime)[0] for regime in _regimes(case)}
    wanted = {key: _peak(case, *sample) for key, sample in samples.items()} if found else {}

    def right(one: dict[str, int]) -> bool:
        return all(_largest(found[one[key]], *sample) == wanted[key] for key, sample in samples.items())

    return next(filter(right, known), None)


def _regimes(case: ModelCase) -> list[Regime]:
    """The regimes that some sizes have, the widest first: of a narrow one too few are left to tell its factors."""
    counts = {regime: sum(len(lengths) for _, lengths in _sizes(case, regime)) for regime in _ALL}
    return sorted((regime for regime in _ALL if counts[regime]), key=lambda regime: -counts[regime])


def _sizes(case: ModelCase, regime: Regime) -> list[tuple[int, list[int]]]:
    """Batches of a regime, each with its lengths."""
    lengths, window = lengths_of(case), int(case.arch.window)
    batches = (1,) if regime.single else (2, 3, 4, 6, 8, 16, 32, 64)
    of_each = ((b, [n for n in lengths if regime.holds(b, n, window)]) for b in batches)
    return [(b, fitting) for b, fitting in of_each if fitting]


def _number(case: ModelCase, regime: Regime, found: list[Forms]) -> int:
    """The number of a regime's forms among those found: known ones, where they give the peaks of recordings."""
    samples = _samples(case, regime)
    wanted = [_peak(case, *sample) for sample in samples]

    def right(forms: Forms) -> bool:
        return [_largest(forms, *sample) for sample in samples] == wanted

    for number, forms in enumerate(found):
        if right(forms):
            return number
    fitted = _fitted(case, _sizes(case, regime))
    if not right(fitted):
        raise _irregular(case)
    found.append(fitted)
    return len(found) - 1


def _samples(case: ModelCase, regime: Regime) -> list[tuple[int, int]]:
    """Sizes of a regime that forms are held to."""
    sizes = _sizes(case, regime)
    (first, short), (last, long) = sizes[0], sizes[-1]
    return [(first, short[len(short) // 3]), (last, long[min(len(long), 64) - 1])]


def _irregular(case: ModelCase) -> UsageError:
    return UsageError(
        f"{case.arch.name} with attention {case.attention}: its bytes are no sum of 1, b, n, b·n, n² and b·n², so that "
        "a page cannot compute them; memmodel sweep records each size"
    )


def _live(case: ModelCase, batch: int, seq: int) -> tuple[list[str], Array]:
    """The phase and the live bytes of each group at each moment of a step, but for scratch that goes in steps."""
    program = program_of(replace(case, batch=batch, seq=seq))
    program = program.without({birth.key for birth in program.births() if _in_steps(birth)})
    of = {key: GROUPS.index(kind_of(group)) for key, group in groups_of(program, program.births()).items()}
    changes = np.zeros((len(program.events), len(GROUPS)), dtype=np.int64)
    phases, places = list[str](), list[int]()
    for now in states(program, uncounted):
        if storage := now.born or now.died:
            changes[now.place, of[storage.key]] = int(storage.nbytes) * (1 if now.born else -1)
        if (now.born or type(now.event) is Mark) and now.phase not in OUTSIDE_A_STEP:
            phases.append(now.phase)
            places.append(now.place)
    return phases, changes.cumsum(axis=0)[places]


def _in_steps(birth: Alloc) -> bool:
    """Whether it is scratch of thread blocks that share a result, of a reduction or of attention over few rows."""
    return birth.goes_in_steps or birth.op.endswith("of each split")


def _fitted(case: ModelCase, sizes: Sequence[tuple[int, list[int]]]) -> Forms:
    """The forms of a regime, from recordings at a few sizes; those that are nowhere the largest are left out."""
    pairs = [((b, c), [n for n in of if n in also]) for (b, of), (c, also) in pairwise(sizes)]
    whole = [pair for pair in pairs if len(pair[1]) >= 3] or pairs[-1:]
    batches, common = whole[0] if whole else ((sizes[0][0],), sizes[0][1])
    step = max(1, min(len(common), 96) // 3)
    lengths = common[::step][:3] if len(common) >= 3 else common[:1]
    live = {(b, n): _live(case, b, n) for b in batches for n in lengths}
    phases = live[batches[0], lengths[0]][0]
    if any(len(moments) != len(phases) for moments, _ in live.values()):
        raise _irregular(case)
    per_batch = [_in_length([live[b, n][1] for n in lengths], lengths) for b in batches]
    growth = np.zeros_like(per_batch[0])
    if len(batches) == 2:
        growth = (per_batch[1] - per_batch[0]) // (batches[1] - batches[0])
    rest = per_batch[0] - growth * batches[0]
    factors = np.stack([x[..., power] for power in range(3) for x in (rest, growth)], axis=-1)
    return _undominated(phases, factors, batches[0])


def _in_length(values: Sequence[Array], lengths: Sequence[int]) -> Array:
    """Factors of 1, n and n² of values at three lengths as far apart; the values themselves, at one."""
    if len(lengths) == 1:
        return np.stack([values[0], 0 * values[0], 0 * values[0]], axis=-1)
    (low, mid, high), start, step = values, lengths[0], lengths[1] - lengths[0]
    square = (high - 2 * mid + low) // (2 * step * step)
    slope = (mid - low) // step - square * (2 * start + step)
    return np.stack([low - slope * start - square * start * start, slope, square], axis=-1)


def monomials(batch: int, seq: int) -> list[int]:
    """What the factors of a form are of: 1, b, n, b·n, n² and b·n²."""
    return [size * times for size in (1, seq, seq * seq) for times in (1, batch)]


def _undominated(phases: Sequence[str], factors: Array, least: int) -> Forms:
    """The moments without those that another exceeds at all sizes: no factor of which is larger."""
    total = factors.sum(axis=1)
    # At least so many sequences and tokens: what is small there is not made up for by growing less.
    weight = np.array(monomials(least, STEP))
    order = np.argsort(-(total * weight).sum(axis=1), kind="stable")
    total, kept = total[order], list[int]()
    places = order.copy()
    while len(places):
        kept.append(int(places[0]))
        larger = (total > total[0]).any(axis=1)
        total, places = total[larger], places[larger]
    return tuple((phases[i], tuple(tuple(map(int, group)) for group in factors[i])) for i in kept)


def _largest(forms: Forms, batch: int, seq: int) -> int:
    """The live peak by the forms."""
    of = monomials(batch, seq)
    return max(sum(k * x for group in groups for k, x in zip(group, of, strict=True)) for _, groups in forms)


def _peak(case: ModelCase, batch: int, seq: int) -> int:
    """The live peak of a recording."""
    return int(_live(case, batch, seq)[1].sum(axis=1).max())
