"""Random shapes, ones among them, layouts and training habits: the algorithms' events equal PyTorch's, every one."""

import random
from typing import Any

import pytest

import memmodel_kernels
from memmodel.attention.masks import Mask
from torch_events import in_order, real_events, recorded_events

Event = tuple[str, int, int]


def above_scalars(events: list[Event]) -> list[Event]:
    """Events of storages beyond 8 bytes, renumbered: the CPU's own scalars cannot be told from smaller tensors."""
    numbers: dict[int, int] = {}
    kept = [event for event in events if event[2] > 8]
    return in_order([(kind, numbers.setdefault(number, len(numbers)), size) for kind, number, size in kept])


@pytest.mark.parametrize("seed", range(60))
def test_events(seed: int) -> None:
    dice = random.Random(seed)
    b, g, repeat = (dice.choice([1, 1, 2, 3]) for _ in range(3))
    d, n = dice.choice([1, 2, 8, 24]), dice.choice([1, 2, 5, 40, 64])
    m = n + dice.choice([0, 0, 3, 50])
    name = dice.choice(["naive", "naive_by_hand", "chunked", "checkpointed"])
    options: dict[str, Any] = {"mask": dice.choice([Mask(), Mask(True), Mask(True, (m + 1) // 2)])}
    if name == "chunked":
        options["chunk"] = dice.choice([1, 2, 16, 40])
    grads, scalar, keep, heads_last = (dice.random() < p for p in (0.7, 0.4, 0.5, 0.3))
    dtype = dice.choice(["float32", "float64"])

    def body(t: Any) -> None:
        def leaf(heads: int, length: int) -> Any:
            shape = (b, length, heads, d) if heads_last else (b, heads, length, d)
            return t.empty(*shape, dtype=getattr(t, dtype), requires_grad=grads)

        q, k, v = leaf(g * repeat, n), leaf(g, m), leaf(g, m)
        upstream = t.empty(b, g * repeat, n, d, dtype=getattr(t, dtype))
        for _ in range(2):
            if not keep:
                q.grad = k.grad = v.grad = None
            inputs = [x.transpose(1, 2) if heads_last else x for x in (q, k, v)]
            attention = getattr(memmodel_kernels, name)
            if not grads:
                with t.no_grad():
                    out = attention(*inputs, **options)
            elif scalar:
                attention(*inputs, **options).sum().backward()
            else:
                out = attention(*inputs, **options)
                out.backward(upstream)

    assert above_scalars(recorded_events(body)) == above_scalars(real_events(body))
