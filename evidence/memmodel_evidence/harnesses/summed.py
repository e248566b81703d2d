"""Scripts whose loss is the sum or the mean of the output: what of loss, output and gradients stays alive differs."""

from collections.abc import Callable, Collection
from typing import Any

from memmodel_evidence.harnesses.script import Attention, Mark, Row, drop_grads, earlier_size, inputs


def zeroed_grads(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """MarkMrLi: gradients are zeroed in place, so they stay; `out` names the output and then the loss."""
    _inference(xp, row, attention)
    q, k, v = inputs(xp, row)
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v)
        out = out.sum()
        out.backward()
    for _ in range(row.measured):
        for x in (q, k, v):
            x.grad.zero_()
        mark("forward")
        out = attention(xp, q, k, v)
        out = out.sum()
        mark("backward")
        out.backward()


def _inference(xp: Any, row: Row, attention: Attention) -> None:
    q, k, v = inputs(xp, row, requires_grad=False)
    with xp.no_grad():
        for _ in range(row.warm_up):
            attention(xp, q, k, v)


def retained_graph(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """yyin: read after forwards, with the last output and the warm-up's loss and gradients alive.

    The causal mask is made in fp32. Backward then runs again and again through one graph, accumulating.
    """
    q, k, v = inputs(xp, row)
    mask = xp.ones(row.seq, row.seq, device="cuda").tril().to(xp.bool)
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
    for _ in range(row.measured):
        out = attention(xp, q, k, v, mask)
    mark("backward")
    out = attention(xp, q, k, v, mask)
    loss = out.sum()
    for _ in range(row.measured):
        loss.backward(retain_graph=True)


def fresh_inputs(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Enzo: inputs are new in every iteration, and the attention's output has no name: only its sum has."""
    for measured in row.iterations():
        q, k, v = inputs(xp, row)
        out = attention(xp, q, k, v).sum()
        mark("backward" if measured else "warm-up")
        out.backward()
        drop_grads(q, k, v)
        del q, k, v, out


def leaves_on_the_host(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """MAGMA27: leaves are on the CPU and copied to the GPU once, so gradients leave the GPU as they are made.

    Read after the forward, whose output has replaced the one before.
    """
    upload = _upload(xp)
    q, k, v = (upload(row.shape) for _ in range(3))
    for measured in row.iterations():
        output = attention(xp, q, k, v)
        mark("backward" if measured else "warm-up")
        output.sum().backward()


def kept_grads(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Niccolo: gradients stay, output and loss die first; peaks of the forward, and of mean and backward."""
    q, k, v = inputs(xp, row)
    for measured in row.iterations():
        mark("forward" if measured else "warm-up")
        out = attention(xp, q, k, v)
        mark("backward" if measured else "warm-up")
        loss = out.mean()
        loss.backward()
        mark("end of backward")
        del out, loss


def dropped_grads(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """ab2163: read after a forward that has replaced the one before; `.grad` is None; a causal mask stays."""
    q, k, v = inputs(xp, row)
    mask = xp.ones(row.seq, row.seq, dtype=xp.bool, device="cuda").tril()
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v, mask)
        out.sum().backward()
        drop_grads(q, k, v)
    for _ in range(row.measured):
        out = attention(xp, q, k, v, mask)
    mark("backward")
    out.sum().backward()


def only_queries_learn(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Brandon: keys and values are randn_like(q) and need no gradient; read after a forward, `.grad` None."""
    q = xp.randn(*row.shape, device="cuda", requires_grad=True)
    k = xp.randn(*row.shape, device="cuda")
    v = xp.randn(*row.shape, device="cuda")
    with xp.no_grad():
        for _ in range(row.warm_up):
            attention(xp, q, k, v)
    for measured in row.iterations():
        out = attention(xp, q, k, v)
        mark("backward" if measured else "warm-up")
        out.sum().backward()
        q.grad = None


def last_grads(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Sara: read after forwards, with the last output, the last warm-up's gradients and its loss alive."""
    q, k, v = inputs(xp, row)
    for _ in range(row.warm_up):
        drop_grads(q, k, v)
        logits = attention(xp, q, k, v)
        total = logits.sum()
        total.backward()
    for _ in range(row.measured):
        logits = attention(xp, q, k, v)
    mark("backward")
    for _ in range(row.measured):
        drop_grads(q, k, v)
        logits = attention(xp, q, k, v)
        total = logits.sum()
        total.backward()


def mask_of_positions(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """duoan: a mask from int64 positions, both stay; read after forwards, then the peak of training steps.

    The first forward of that loop runs beside the last graph, later ones beside an output whose graph is
    freed.
    """
    q, k, v = inputs(xp, row)
    positions = xp.arange(row.seq, device="cuda")
    mask = positions.unsqueeze(0) >= positions.unsqueeze(1)
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
        drop_grads(q, k, v)
    for _ in range(row.measured):
        out = attention(xp, q, k, v, mask)
    mark("backward")
    for _ in range(row.measured):
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
        drop_grads(q, k, v)


def named_loss(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """TianqGuo, subha-v: read after forwards, with the last output and the warm-up's loss, `.grad` is None.

    Then steps whose gradients stay until the next backward; a first forward runs beside the last graph.
    """
    q, k, v = inputs(xp, row)
    out, loss = _warmed_up(xp, row, q, k, v, attention)
    for _ in range(row.measured):
        out = attention(xp, q, k, v)
    mark("backward")
    for _ in range(row.measured):
        out = attention(xp, q, k, v)
        loss = out.sum()
        drop_grads(q, k, v)
        loss.backward()


def _warmed_up(xp: Any, row: Row, q: Any, k: Any, v: Any, attention: Attention) -> tuple[Any, Any]:
    """The output and the loss of the last of some steps, whose gradients are dropped."""
    out = loss = None
    for _ in range(row.warm_up):
        out = attention(xp, q, k, v)
        loss = out.sum()
        loss.backward()
        drop_grads(q, k, v)
    return out, loss


def with_and_without_gradients(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """Hyperion-shuo: read with the output of a forward without gradients, then with one of a forward with them.

    A causal mask and the gradients of earlier steps stay. "mem_after_inputs" is the first reading.
    """
    q, k, v = inputs(xp, row)
    mask = xp.ones(row.seq, row.seq, dtype=xp.bool, device="cuda").tril()
    for _ in range(row.warm_up):
        drop_grads(q, k, v)
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
    del out, loss
    for _ in range(row.measured):
        with xp.no_grad():
            out = attention(xp, q, k, v, mask)
        mark("forward")
        del out
        out = attention(xp, q, k, v, mask)
        mark("backward")
        del out


def fresh_processes(xp: Any, row: Row, mark: Mark, attention: Attention, first: Collection[tuple[int, int]]) -> None:
    """jennjwang: one forward after others that no name keeps. `first` (seq, d): read in a new process.

    Three containers take the sizes in turn, so three rows are read before their process has run a backward.
    """
    if (row.seq, row.d) not in first:
        earlier_size(xp, attention)
    q, k, v = inputs(xp, row)
    for _ in range(row.warm_up):
        attention(xp, q, k, v)
    out = attention(xp, q, k, v)
    mark("backward")
    del out


def two_graphs(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """damek: `.grad` is None; each forward runs beside the last output and loss, and backward beside a graph more.

    The forward's peak is that of unnamed sums; then one output and its loss keep their graph while training steps row.
    """
    q, k, v = inputs(xp, row)
    out, loss = _warmed_up(xp, row, q, k, v, attention)
    mark("forward")
    for _ in range(row.measured):
        attention(xp, q, k, v).sum()
    out = attention(xp, q, k, v)
    loss = out.sum()
    mark("backward")
    for _ in range(row.measured):
        _step(xp, q, k, v, attention)
    del out, loss


def _step(xp: Any, q: Any, k: Any, v: Any, attention: Attention) -> None:
    out = attention(xp, q, k, v)
    loss = out.sum()
    loss.backward()
    drop_grads(q, k, v)


def last_loss(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """ymao: read after a forward that has replaced the one before; the last warm-up's loss stays, `.grad` is None."""
    q, k, v = inputs(xp, row)
    out, loss = _warmed_up(xp, row, q, k, v, attention)
    for _ in range(row.measured):
        out = attention(xp, q, k, v)
    mark("backward")
    loss = out.sum()
    loss.backward()


def self_attention(xp: Any, row: Row, mark: Mark, attention: Attention) -> None:
    """luke: a module with four projections that makes its causal mask; `.grad` is None.

    Read beside the last iteration's loss, after an output that has replaced the one before; input needs no gradient.
    """
    out = loss = None
    x = xp.randn(*row.shape, device="cuda")
    weights = [xp.randn(row.d, row.d, device="cuda", requires_grad=True) for _ in range(4)]
    for measured in row.iterations():
        mark("forward" if measured else "warm-up")
        out = _projected(xp, x, weights, attention)
        mark("backward" if measured else "warm-up")
        loss = out.sum()
        loss.backward()
        drop_grads(*weights)
    del out, loss  # before the weights, which their graph holds too


def _projected(xp: Any, x: Any, weights: list[Any], attention: Attention) -> Any:
    *to_qkv, to_out = weights
    q, k, v = (x @ weight.transpose(-2, -1) for weight in to_qkv)
    mask = xp.ones(x.shape[-2], x.shape[-2], dtype=xp.bool, device="cuda").tril()
    heads = attention(xp, q, k, v, mask)
    return heads @ to_out.transpose(-2, -1)


def _upload(xp: Any) -> Callable[[tuple[int, ...]], Any]:
    class Upload(xp.Function if hasattr(xp, "Function") else xp.autograd.Function):  # type: ignore[misc]
        """A copy of a host tensor: on the GPU it is no leaf, and its gradient goes to the host."""

        @staticmethod
        def forward(ctx: Any, host: Any, shape: tuple[int, ...]) -> Any:
            return xp.randn(*shape, device="cuda")

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return None, None

    # A tensor without elements takes no device memory: it stands for the leaf on the host.
    return lambda shape: Upload.apply(xp.empty(0, device="cuda", requires_grad=True), shape)
