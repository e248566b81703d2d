"""Random programs over every operation: whatever is combined, recording tensors make PyTorch's allocator events."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from torch_events import in_order, real_events, recorded_events

Event = tuple[str, int, int]
Operation = Callable[[Any, Any, Any, Any], Any]  # (library, scores, other scores, bool mask) -> new scores

N = 20


def in_place(change: Callable[[Any, Any], Any]) -> Operation:
    def run(t: Any, x: Any, y: Any, mask: Any) -> Any:
        fresh = x * 1.0
        change(fresh, y)
        return fresh

    return run


OPERATIONS: dict[str, Operation] = {
    "scale": lambda t, x, y, mask: x * 0.5,
    "divide": lambda t, x, y, mask: x / 3.0,
    "shift": lambda t, x, y, mask: x + 1.0,
    "multiply": lambda t, x, y, mask: x * y,
    "add": lambda t, x, y, mask: x + y,
    "subtract": lambda t, x, y, mask: x - y,
    "one minus": lambda t, x, y, mask: 1.0 - x,
    "one over": lambda t, x, y, mask: 1.0 / x,
    "negate": lambda t, x, y, mask: -x,
    "exp": lambda t, x, y, mask: x.exp(),
    "tanh": lambda t, x, y, mask: x.tanh(),
    "softmax": lambda t, x, y, mask: x.softmax(-1),
    "softmax in float64": lambda t, x, y, mask: x.softmax(-1, dtype=t.float64).to(t.float32),
    "minus max": lambda t, x, y, mask: x - y.max(-1, keepdim=True)[0],
    "minus amax": lambda t, x, y, mask: x - y.amax(-1, keepdim=True),
    "over sum": lambda t, x, y, mask: x / y.sum(-1, keepdim=True),
    "times mean": lambda t, x, y, mask: x * y.mean(-1, keepdim=True),
    "minus logsumexp": lambda t, x, y, mask: x - y.logsumexp(-1, keepdim=True),
    "expanded row": lambda t, x, y, mask: x + y.sum(-1, keepdim=True).expand(x.shape),
    "masked_fill": lambda t, x, y, mask: x.masked_fill(~mask, 0.0),
    "where": lambda t, x, y, mask: t.where(mask, x, y),
    "where scalar": lambda t, x, y, mask: t.where(mask, x, 0.0),
    "dropout": lambda t, x, y, mask: t.dropout(x, 0.1, True),
    "cast": lambda t, x, y, mask: x.to(t.float64).to(t.float32),
    "detach": lambda t, x, y, mask: x * y.detach(),
    "transpose": lambda t, x, y, mask: x.transpose(-2, -1),
    "reshape": lambda t, x, y, mask: x.reshape(-1, N, N).reshape(x.shape),
    "contiguous": lambda t, x, y, mask: x.contiguous() * 1.0,
    "clone": lambda t, x, y, mask: x.clone(),
    "matmul": lambda t, x, y, mask: x @ y,
    "einsum": lambda t, x, y, mask: t.einsum("bhij,bhjk->bhik", x, y),
    "cat and slice": lambda t, x, y, mask: t.cat([x, y], -1)[..., :N],
    "chunk": lambda t, x, y, mask: t.cat([part * 2.0 for part in x.chunk(3, 2)], 2),
    "slices": lambda t, x, y, mask: t.cat([x[:, :, :5], y[:, :, 5:]], 2),
    "unsqueeze": lambda t, x, y, mask: (x.unsqueeze(1) * 1.0).squeeze(1),
    "add_": in_place(lambda x, y: x.add_(y)),
    "mul_": in_place(lambda x, y: x.mul_(0.5)),
    "sub_": in_place(lambda x, y: x.sub_(y)),
    "div_": in_place(lambda x, y: x.div_(2.0)),
    "exp_": in_place(lambda x, y: x.exp_()),
}


def program(t: Any, dice: random.Random) -> None:
    """Two training steps of random operations on a pool of scores, some forgotten on the way."""
    batch, heads, dim = dice.choice([(2, 3, 8), (1, 2, 4), (2, 1, 8)])
    q, k, v = (t.empty(batch, heads, N, dim, requires_grad=True) for _ in range(3))
    mask = t.ones(N, N, dtype=t.bool).tril()
    for _ in range(2):
        pool = [q @ k.mT]
        for _ in range(dice.randint(2, 9)):
            operation = OPERATIONS[dice.choice(sorted(OPERATIONS))]
            pool.append(operation(t, dice.choice(pool), dice.choice(pool), mask))
            if len(pool) > 2 and dice.random() < 0.2:
                del pool[dice.randrange(len(pool) - 1)]
        out = pool[-1] @ v
        if dice.random() < 0.3:
            del pool
        if dice.random() < 0.4:
            q.grad = k.grad = v.grad = None
        if dice.random() < 0.5:
            out.sum().backward()
        else:
            out.backward(t.ones(batch, heads, N, dim))
        del out


def events(record: Callable[[Any], list[Event]], seed: int) -> list[Event]:
    """Events of storages beyond 8 bytes, renumbered: the CPU's own scalars cannot be told from smaller tensors."""
    numbers: dict[int, int] = {}
    made = record(lambda t: program(t, random.Random(seed)))
    return in_order([(kind, numbers.setdefault(n, len(numbers)), size) for kind, n, size in made if size > 8])


@pytest.mark.parametrize("seed", range(100))
def test_a_random_program(seed: int) -> None:
    assert events(recorded_events, seed) == events(real_events, seed)
