"""Algorithms make the same allocator events on recording tensors as on PyTorch: births, deaths, bytes, order.

So do all spellings of attention: `test_traced_events.py` holds them and traces to one run.
"""

from typing import Any

import pytest
import torch

from memmodel.attention.masks import Mask
from memmodel_kernels.naive import naive
from memmodel_kernels.sdpa import sdpa
from pairs import Row, all_pairs
from spellings import B, D, H, N
from torch_events import Body, in_order, real_events, recorded_events, without


def same_events(body: Body) -> None:
    real, recorded = in_order(real_events(body)), in_order(recorded_events(body))
    assert recorded == real


def algorithm_body(name: str, mask: Mask, kv_heads: int, keys: int, dropout: float, grads: bool) -> Body:
    import memmodel_kernels

    function = getattr(memmodel_kernels, name)
    options: dict[str, Any] = {"mask": mask}
    if name == "chunked":
        options["chunk"] = 64
    elif dropout:
        options["dropout"] = dropout

    def body(t: Any) -> None:
        q = t.empty(B, 4, N, D, requires_grad=grads)
        k, v = (t.empty(B, kv_heads, keys, D, requires_grad=grads) for _ in range(2))
        upstream = t.empty(B, 4, N, D)
        for _ in range(2):
            q.grad = k.grad = v.grad = None
            if grads:
                function(q, k, v, **options).backward(upstream)
            else:
                with t.no_grad():
                    out = function(q, k, v, **options)
                    del out

    return body


OPTIONS = {
    "name": ["naive", "naive_by_hand", "chunked", "checkpointed"],
    "mask": [Mask(), Mask(causal=True), Mask(causal=True, window=37)],
    "sizes": [(4, N), (2, N), (1, 300)],  # heads and number of keys and values
    "grads": [True, False],
}


@pytest.mark.parametrize("row", list(all_pairs(OPTIONS, lambda _: True)), ids=str)
def test_algorithms(row: Row) -> None:
    """Every two values of different options stand together in a row."""
    same_events(algorithm_body(row["name"], row["mask"], *row["sizes"], 0.0, row["grads"]))


@pytest.mark.parametrize("name", ["naive", "naive_by_hand", "checkpointed"])
def test_sink_keys(name: str) -> None:
    same_events(algorithm_body(name, Mask(True, 37, 3), 2, 300, 0.0, True))


@pytest.mark.parametrize("name", ["naive", "checkpointed"])
def test_sinks(name: str) -> None:
    """gpt-oss: a logit a head, which learns, is a column more of the scores."""
    import memmodel_kernels

    def body(t: Any) -> None:
        q, k, v = (t.empty(B, 5, N, D, requires_grad=True) for _ in range(3))
        sinks, upstream = t.empty(5, requires_grad=True), t.empty(B, 5, N, D)
        for _ in range(2):
            q.grad = k.grad = v.grad = sinks.grad = None
            getattr(memmodel_kernels, name)(q, k, v, Mask(causal=True), sinks=sinks).backward(upstream)

    same_events(body)


def test_sinks_only_take_from_the_rows() -> None:
    """Probabilities are exp(s) over the sum of the row's and of exp(sink): the output is smaller by that factor."""
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    sinks = torch.tensor([0.5, -1.0], dtype=torch.float64)
    powers = (q @ k.mT / 2).exp()
    expected = powers @ v / (powers.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    torch.testing.assert_close(naive(q, k, v, sinks=sinks), expected)


@pytest.mark.parametrize("name", ["naive", "naive_by_hand", "checkpointed"])
def test_algorithms_with_dropout(name: str) -> None:
    same_events(algorithm_body(name, Mask(causal=True), 4, N, 0.1, True))


@pytest.mark.parametrize("queries", [1, 3])
def test_decode(queries: int) -> None:
    from memmodel_kernels import decode_eager

    def body(t: Any) -> None:
        with t.no_grad():
            k_cache, v_cache = (t.empty(B, 2, 300, D) for _ in range(2))
            for _ in range(2):
                q = t.empty(B, 4, queries, D)
                new_k, new_v = (t.empty(B, 2, queries, D) for _ in range(2))
                decode_eager(q, new_k, new_v, k_cache, v_cache)

    same_events(body)


def test_native_dropout_keeps_a_bool_mask_where_the_cpu_keeps_noise() -> None:
    """The CUDA rule for dropout, held to PyTorch's fused operator by its bytes: result and one byte per element."""
    import torch

    from memmodel import recording
    from memmodel.events.program import Alloc

    x = torch.ones(4, 100)
    out, mask = torch.native_dropout(x, 0.1, True)
    with recording.Tape(recording.CUDA) as tape:
        source = recording.empty(4, 100, requires_grad=True)
        recording.dropout(source, 0.1)
    sizes = [event.nbytes for event in tape.events if isinstance(event, Alloc)]
    assert sizes[1:] == [out.nbytes, mask.nbytes]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True), Mask(True, 37, 3)], ids=lambda mask: mask.name)
@pytest.mark.parametrize("groups", [1, 3])
def test_scaled_dot_product_attention_by_plain_operators(groups: int, mask: Mask, dtype: str) -> None:
    """PyTorch's own composite, forward and backward, with and without shared heads."""

    def body(t: Any) -> None:
        kind = getattr(t, dtype)
        q, upstream = (t.empty(B, H, N, D, dtype=kind, requires_grad=learns) for learns in (True, False))
        k, v = (t.empty(B, H // groups, N, D, dtype=kind, requires_grad=True) for _ in range(2))
        for _ in range(2):
            q.grad = k.grad = v.grad = None
            sdpa(q, k, v, mask, backends=("math",)).backward(upstream)

    real = real_events(body)
    for size in {nbytes for _, _, nbytes in real if nbytes <= 8}:  # Python's numbers
        real = without(real, size)
    assert in_order(recorded_events(body)) == in_order(real)
