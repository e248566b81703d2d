"""Random states of the page, and the Python model's numbers for them."""

import json
import random
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from memmodel.algorithms import ALGORITHMS
from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import mask as mask_named
from memmodel.base.dtypes import short_name
from memmodel.cases import on_gpu
from memmodel.explorer.programs import OFFERED
from memmodel.gpus import Gpu, all_gpus
from memmodel.predictor import predict_case
from memmodel.recorder import record
from memmodel.step import fits

GPUS = [gpu for gpu in all_gpus() if "capacity" in gpu.values]
MOST_BYTES = 1 << 50  # below what the page refuses: every number is a whole one there


def random_case(rng: random.Random) -> Case:
    """A case that the page offers: every size can be one, equal to another, or large."""
    algorithm = rng.choice(OFFERED)
    fused = ALGORITHMS[algorithm].fused
    seq = _size(rng, 1 << rng.choice([8, 14, 20]))
    name = rng.choice(["none", "causal", "window"])
    kv_heads = _size(rng, 64)
    return make_case(
        algorithm,
        batch=_size(rng, 1 << rng.choice([2, 6, 12])),
        heads=kv_heads * rng.choice([1, 1, 2, 3, 8]),
        kv_heads=kv_heads,
        seq=seq,
        head_dim=_size(rng, 256 if fused else 1024),
        dtype_name=rng.choice(["bf16", "fp16", "fp32"] if fused else ["bf16", "fp16", "fp32", "fp64"]),
        mask=mask_named(name, _size(rng, seq) if name == "window" else None),
        phase=rng.choice(["inference", "forward", "train", "train"]),
    )


def _size(rng: random.Random, largest: int) -> int:
    """One, a power of two, a multiple of 8, or any number: up to the largest, small ones as often as large."""
    size = round(largest ** rng.random())
    kind = rng.randrange(5)
    return (
        1 if kind == 0 else 1 << (size.bit_length() - 1) if kind == 1 else max(size // 8 * 8, 1) if kind == 2 else size
    )


def random_states(count: int, seed: int) -> list[tuple[Case, Gpu]]:
    """Seeded cases with a GPU each, none beyond what the page counts."""
    rng = random.Random(seed)
    found: list[tuple[Case, Gpu]] = []
    while len(found) < count:
        case, gpu = random_case(rng), rng.choice(GPUS)
        if 8 * case.batch * case.heads * case.seq * (case.seq + case.head_dim) < MOST_BYTES:
            found.append((*on_gpu([case], gpu), gpu))
    return found


def state_of(case: Case, gpu: Gpu) -> dict[str, Any]:
    """The page's state for a case."""
    return {
        "gpu": gpu.id,
        "algorithm": case.algorithm,
        "phase": case.phase,
        "dtype": short_name(case.dtype),
        "mask": case.mask.name,
        "batch": case.batch,
        "heads": case.heads,
        "kvHeads": case.kv_heads,
        "seq": case.seq,
        "headDim": case.head_dim,
        "window": case.mask.window or 4096,
    }


def as_json(result: Any) -> Any:
    """A result of the model as JSON has it: tuples as lists."""
    return json.loads(json.dumps(asdict(result) if is_dataclass(result) else result))  # type: ignore[arg-type]


def numbers(case: Case, gpu: Gpu) -> dict[str, Any]:
    """What the model says."""
    predicted = predict_case(case, gpu)
    return {
        "memory": as_json(predicted.memory),
        "flops": predicted.work.flops,
        "hbm_bytes": predicted.work.hbm_bytes,
        "seconds": predicted.time and predicted.time.seconds,
        "binding": predicted.time and predicted.time.binding,
    }


def runs(case: Case, gpu: Gpu) -> bool:
    """Whether a case fits a GPU."""
    return bool(fits(record(case), case.torch, gpu))


def resized_to(case: Case, **sizes: int) -> Case:
    """A case with other sizes, keys following queries."""
    changed = replace(case, **sizes)
    return replace(changed, kv_seq=changed.seq)
