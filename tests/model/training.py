"""Steps of small models on torch or recording tensors. `t` is either library."""

from typing import Any

from memmodel.base.dtypes import dtype as element_type
from memmodel.models.architecture import Architecture
from memmodel.models.run import generate, train
from memmodel.models.setting import ModelCase
from memmodel_validate.events import MemoryEvent
from torch_events import Body, in_order

# Sizes unlike each other, so that a wrong tensor shows in its bytes.
B, N, V, H, F = 2, 11, 97, 48, 80


def llama(**changes: Any) -> Architecture:
    """Two layers of Llama: RMSNorm, rotary positions, grouped heads, SwiGLU."""
    sizes: dict[str, Any] = {"vocab": V, "layers": 2, "hidden": H, "ffn": F, "heads": 6, "kv_heads": 2, "head_dim": 8}
    return Architecture(**{"name": "small", **sizes, "value_dim": 8, **changes})


def small_case(arch: Architecture | None = None, dtype: str = "fp32", **choices: Any) -> ModelCase:
    return ModelCase(arch or llama(), B, N, dtype=element_type(dtype), **choices)


def two_steps(case: ModelCase) -> Body:
    """Two training steps, the first of which makes the optimizer's states; or two passes of generation."""
    run = train if case.phase == "train" else generate
    return lambda t: run(t, case, lambda *_: None, lambda _: None, steps=2)


def beyond_numbers(events: list[MemoryEvent]) -> list[tuple[str, int, int]]:
    """Events of storages beyond 8 bytes: smaller ones cannot be told from the CPU's own scalars."""
    numbers: dict[int, int] = {}
    return in_order([(kind, numbers.setdefault(n, len(numbers)), size) for kind, n, size in events if size > 8])
