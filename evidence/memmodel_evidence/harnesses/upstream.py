"""Scripts that hand backward the gradient of the output: it is alive while they read."""

from typing import Any

from memmodel_evidence.harnesses.script import Attention, Mark, Row, drop_grads, earlier_size, inputs


def upstream_gradient(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Read with the upstream gradient alive and no `.grad`: before the forward, and before the backward.

    Okazaki-Yumemi's script. That of the two seed tables is not known; their numbers are those of this one.
    """
    q, k, v = inputs(xp, row)
    upstream = xp.randn(*row.shape, device="cuda")
    for _ in range(row.warm_up):
        drop_grads(q, k, v)
        out = attention(xp, q, k, v)
        out.backward(upstream)
    drop_grads(q, k, v)
    del out
    mark("forward")
    out = attention(xp, q, k, v)
    mark("backward")
    out.backward(upstream)


def earlier_output(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Wuyh11: a forward's peak beside the upstream gradient and a warm-up's output; `.grad` is None."""
    q, k, v = inputs(xp, row)
    upstream = xp.randn(*row.shape, device="cuda")
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v)
        out.backward(upstream)
        drop_grads(q, k, v)
    mark("forward")
    out = attention(xp, q, k, v)
    mark("end of forward")
    del out


def warm_up_output(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Wedsonlin: the upstream gradient and a warm-up's output stay; backward repeats through one graph."""
    q, k, v = inputs(xp, row)
    upstream = xp.randn(*row.shape, device="cuda")
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v)
        out.backward(upstream)
        drop_grads(q, k, v)
    for _ in range(row.measured):
        attention(xp, q, k, v)
    output = attention(xp, q, k, v)
    mark("backward")
    for _ in range(row.measured):
        output.backward(upstream, retain_graph=True)


def cloned_inputs(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """VictorHuu: inputs, upstream gradient and a copy of each stay, and a mask (1, n, n); `.grad` is None."""
    positions = xp.arange(row.seq, device="cuda")
    mask = positions.unsqueeze(0).unsqueeze(-1) >= positions.unsqueeze(0).unsqueeze(0)
    del positions
    base = [*inputs(xp, row, requires_grad=False), xp.randn(*row.shape, device="cuda")]
    q, k, v = inputs(xp, row)
    upstream = xp.randn(*row.shape, device="cuda")
    for measured in row.iterations():
        out = attention(xp, q, k, v, mask)
        mark("backward" if measured else "warm-up")
        out.backward(upstream)
        drop_grads(q, k, v)
    del base


def values_do_not_learn(xp: Any, row: Row, mark: Mark) -> None:
    """sidsoc12: attention written in the loop, so scores and weights have names; v needs no gradient.

    The upstream gradient is made anew each time; gradients stay and graphs are retained.
    """
    q, k = inputs(xp, row)[:2]
    v = xp.randn(*row.shape, device="cuda")
    for _ in range(row.warm_up):
        scores = q @ k.transpose(-2, -1) / row.d**0.5
        weights = scores.softmax(-1)
        out = weights @ v
        upstream = xp.randn(*row.shape, device="cuda")
        out.backward(upstream, retain_graph=True)
    for _ in range(row.measured + 1):
        scores = q @ k.transpose(-2, -1) / row.d**0.5
        weights = scores.softmax(-1)
        out = weights @ v
    upstream = xp.randn(*row.shape, device="cuda")
    mark("backward")
    for _ in range(row.measured):
        out.backward(upstream, retain_graph=True)


def forwards_first(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """ShanningZhuang: read after forwards, before any backward of this size; then steps that zero their gradients.

    The table's first row is read before its process has run a backward at all. There are gradients to zero from the
    second step on.
    """
    if (row.seq, row.d) != (256, 16):
        earlier_size(xp, attention)
    q, k, v = inputs(xp, row)
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v)
    mark("backward")
    upstream = xp.randn(*row.shape, device="cuda")
    for _ in range(2):
        for x in (q, k, v):
            if x.grad is not None:
                x.grad.zero_()
        out = attention(xp, q, k, v)
        out.backward(upstream)


def ones_upstream(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Christine8888: positions and a mask made of them stay, and an earlier step's gradients, all of them."""
    q, k, v = inputs(xp, row)
    positions = xp.arange(row.seq, device="cuda")
    mask = positions.unsqueeze(-1) >= positions.unsqueeze(0)
    for measured in row.iterations():
        out = attention(xp, q, k, v, mask)
        mark("backward" if measured else "warm-up")
        upstream = xp.ones(*row.shape, device="cuda")
        out.backward(upstream)
        for x in (q, k, v):
            x.grad.zero_()
