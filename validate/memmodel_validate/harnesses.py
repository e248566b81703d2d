"""One harness per recorded table: what its script does with memory, in the script's order.

A harness takes the library (`torch` or `memmodel.recording`), a row's shape, `mark` and the attention
function. `mark` begins a phase where the script resets the peak or reads `memory_allocated()`; the phases
that are read back are "forward" and "backward" (see `memmodel_validate.comparison`). Loops of 100 are cut to
what reaches the steady state: WARM_UP iterations that are not measured, then MEASURED ones.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Protocol

from memmodel_validate import attention as scripts
from memmodel_validate.records import Row

Mark = Callable[[str], None]
Attention = Callable[..., Any]  # (xp, q, k, v) or (xp, q, k, v, mask)
WARM_UP, MEASURED = 3, 2


class Harness(Protocol):
    """A script's use of memory for one row."""

    def __call__(self, xp: Any, run: Row, mark: Mark) -> None:
        """Run it."""


def upstream_gradient(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Read with the upstream gradient alive and no `.grad`: before the forward, and before the backward.

    Okazaki-Yumemi's script. That of the two seed tables is not known; their numbers are those of this one.
    """
    q, k, v = _inputs(xp, run)
    upstream = xp.randn(*_shape(run), device="cuda")
    for _ in range(WARM_UP):
        _drop_grads(q, k, v)
        out = attention(xp, q, k, v)
        out.backward(upstream)
    _drop_grads(q, k, v)
    del out
    mark("forward")
    out = attention(xp, q, k, v)
    mark("backward")
    out.backward(upstream)


def earlier_output(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Wuyh11: a forward's peak beside the upstream gradient and a warm-up's output; `.grad` is None."""
    q, k, v = _inputs(xp, run)
    upstream = xp.randn(*_shape(run), device="cuda")
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
        out.backward(upstream)
        _drop_grads(q, k, v)
    mark("forward")
    out = attention(xp, q, k, v)
    mark("end of forward")
    del out


def zeroed_grads(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """MarkMrLi: gradients are zeroed in place, so they stay; `out` names the output and then the loss."""
    _inference(xp, run, attention)
    q, k, v = _inputs(xp, run)
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
        out = out.sum()
        out.backward()
    for _ in range(MEASURED):
        for x in (q, k, v):
            x.grad.zero_()
        mark("forward")
        out = attention(xp, q, k, v)
        out = out.sum()
        mark("backward")
        out.backward()


def _inference(xp: Any, run: Row, attention: Attention) -> None:
    q, k, v = _inputs(xp, run, requires_grad=False)
    with xp.no_grad():
        for _ in range(WARM_UP):
            attention(xp, q, k, v)


def retained_graph(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """yyin: read after forwards, with the last output and the warm-up's loss and gradients alive.

    The causal mask is made in fp32. Backward then runs again and again through one graph, accumulating.
    """
    q, k, v = _inputs(xp, run)
    mask = xp.ones(run.seq, run.seq, device="cuda").tril().to(xp.bool)
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
    for _ in range(MEASURED):
        out = attention(xp, q, k, v, mask)
    mark("backward")
    out = attention(xp, q, k, v, mask)
    loss = out.sum()
    for _ in range(MEASURED):
        loss.backward(retain_graph=True)


def fresh_inputs(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Enzo: inputs are new in every iteration, and the attention's output has no name: only its sum has."""
    for measured in _iterations():
        q, k, v = _inputs(xp, run)
        out = attention(xp, q, k, v).sum()
        mark("backward" if measured else "warm-up")
        out.backward()
        _drop_grads(q, k, v)
        del q, k, v, out


def leaves_on_the_host(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """MAGMA27: leaves are on the CPU and copied to the GPU once, so gradients leave the GPU as they are made.

    Read after the forward, whose output has replaced the one before.
    """
    upload = _upload(xp)
    q, k, v = (upload(_shape(run)) for _ in range(3))
    for measured in _iterations():
        output = attention(xp, q, k, v)
        mark("backward" if measured else "warm-up")
        output.sum().backward()


def kept_grads(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Niccolo: gradients stay, output and loss die first; peaks of the forward, and of mean and backward."""
    q, k, v = _inputs(xp, run)
    for measured in _iterations():
        mark("forward" if measured else "warm-up")
        out = attention(xp, q, k, v)
        mark("backward" if measured else "warm-up")
        loss = out.mean()
        loss.backward()
        mark("end of backward")
        del out, loss


def dropped_grads(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """ab2163: read after a forward that has replaced the one before; `.grad` is None; a causal mask stays."""
    q, k, v = _inputs(xp, run)
    mask = xp.ones(run.seq, run.seq, dtype=xp.bool, device="cuda").tril()
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v, mask)
        out.sum().backward()
        _drop_grads(q, k, v)
    for _ in range(MEASURED):
        out = attention(xp, q, k, v, mask)
    mark("backward")
    out.sum().backward()


def only_queries_learn(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Brandon: keys and values are randn_like(q) and need no gradient; read after a forward, `.grad` None."""
    q = xp.randn(*_shape(run), device="cuda", requires_grad=True)
    k = xp.randn(*_shape(run), device="cuda")
    v = xp.randn(*_shape(run), device="cuda")
    with xp.no_grad():
        for _ in range(WARM_UP):
            attention(xp, q, k, v)
    for measured in _iterations():
        out = attention(xp, q, k, v)
        mark("backward" if measured else "warm-up")
        out.sum().backward()
        q.grad = None


def last_grads(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Sara: read after forwards, with the last output, the last warm-up's gradients and its loss alive."""
    q, k, v = _inputs(xp, run)
    for _ in range(WARM_UP):
        _drop_grads(q, k, v)
        logits = attention(xp, q, k, v)
        total = logits.sum()
        total.backward()
    for _ in range(MEASURED):
        logits = attention(xp, q, k, v)
    mark("backward")
    for _ in range(MEASURED):
        _drop_grads(q, k, v)
        logits = attention(xp, q, k, v)
        total = logits.sum()
        total.backward()


def mask_of_positions(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """duoan: a mask from int64 positions, both stay; read after forwards, then the peak of training steps.

    The first forward of that loop runs beside the last graph, later ones beside an output whose graph is
    freed.
    """
    q, k, v = _inputs(xp, run)
    positions = xp.arange(run.seq, device="cuda")
    mask = positions.unsqueeze(0) >= positions.unsqueeze(1)
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
        _drop_grads(q, k, v)
    for _ in range(MEASURED):
        out = attention(xp, q, k, v, mask)
    mark("backward")
    for _ in range(MEASURED):
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
        _drop_grads(q, k, v)


def named_loss(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """TianqGuo, subha-v: read after forwards, with the last output and the warm-up's loss, `.grad` is None.

    Then steps whose gradients stay until the next backward; a first forward runs beside the last graph.
    """
    q, k, v = _inputs(xp, run)
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
        loss = out.sum()
        loss.backward()
        _drop_grads(q, k, v)
    for _ in range(MEASURED):
        out = attention(xp, q, k, v)
    mark("backward")
    for _ in range(MEASURED):
        out = attention(xp, q, k, v)
        loss = out.sum()
        _drop_grads(q, k, v)
        loss.backward()


def warm_up_output(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Wedsonlin: the upstream gradient and a warm-up's output stay; backward repeats through one graph."""
    q, k, v = _inputs(xp, run)
    upstream = xp.randn(*_shape(run), device="cuda")
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
        out.backward(upstream)
        _drop_grads(q, k, v)
    for _ in range(MEASURED):
        attention(xp, q, k, v)
    output = attention(xp, q, k, v)
    mark("backward")
    for _ in range(MEASURED):
        output.backward(upstream, retain_graph=True)


def cloned_inputs(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """VictorHuu: inputs, upstream gradient and a copy of each stay, and a mask (1, n, n); `.grad` is None."""
    positions = xp.arange(run.seq, device="cuda")
    mask = positions.unsqueeze(0).unsqueeze(-1) >= positions.unsqueeze(0).unsqueeze(0)
    del positions
    base = [*_inputs(xp, run, requires_grad=False), xp.randn(*_shape(run), device="cuda")]
    q, k, v = _inputs(xp, run)
    upstream = xp.randn(*_shape(run), device="cuda")
    for measured in _iterations():
        out = attention(xp, q, k, v, mask)
        mark("backward" if measured else "warm-up")
        out.backward(upstream)
        _drop_grads(q, k, v)
    del base


def values_do_not_learn(xp: Any, run: Row, mark: Mark) -> None:
    """sidsoc12: attention written in the loop, so scores and weights have names; v needs no gradient.

    The upstream gradient is made anew each time; gradients stay and graphs are retained.
    """
    q, k = _inputs(xp, run)[:2]
    v = xp.randn(*_shape(run), device="cuda")
    for _ in range(WARM_UP):
        scores = q @ k.transpose(-2, -1) / run.d**0.5
        weights = scores.softmax(-1)
        out = weights @ v
        upstream = xp.randn(*_shape(run), device="cuda")
        out.backward(upstream, retain_graph=True)
    for _ in range(MEASURED + 1):
        scores = q @ k.transpose(-2, -1) / run.d**0.5
        weights = scores.softmax(-1)
        out = weights @ v
    upstream = xp.randn(*_shape(run), device="cuda")
    mark("backward")
    for _ in range(MEASURED):
        out.backward(upstream, retain_graph=True)


def with_and_without_gradients(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Hyperion-shuo: read with the output of a forward without gradients, then with one of a forward with them.

    A causal mask and the gradients of earlier steps stay. "mem_after_inputs" is the first reading.
    """
    q, k, v = _inputs(xp, run)
    mask = xp.ones(run.seq, run.seq, dtype=xp.bool, device="cuda").tril()
    for _ in range(WARM_UP):
        _drop_grads(q, k, v)
        out = attention(xp, q, k, v, mask)
        loss = out.sum()
        loss.backward()
    del out, loss
    for _ in range(MEASURED):
        with xp.no_grad():
            out = attention(xp, q, k, v, mask)
        mark("forward")
        del out
        out = attention(xp, q, k, v, mask)
        mark("backward")
        del out


def forwards_first(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """ShanningZhuang: read after forwards, before any backward of this size; then steps with zeroed gradients.

    The table's first row is read before its process has run a backward at all.
    """
    if (run.seq, run.d) != (256, 16):
        _earlier_size(xp, attention)
    q, k, v = _inputs(xp, run)
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
    mark("backward")
    upstream = xp.randn(*_shape(run), device="cuda")
    for _ in range(WARM_UP):
        for x in (q, k, v):
            if x.grad is not None:
                x.grad.zero_()
        out = attention(xp, q, k, v)
        out.backward(upstream)


def fresh_processes(xp: Any, run: Row, mark: Mark, attention: Attention, first: Collection[tuple[int, int]]) -> None:
    """jennjwang: one forward after others that no name keeps. `first` (seq, d): read in a new process.

    Three containers take the sizes in turn, so three rows are read before their process has run a backward.
    """
    if (run.seq, run.d) not in first:
        _earlier_size(xp, attention)
    q, k, v = _inputs(xp, run)
    for _ in range(WARM_UP):
        attention(xp, q, k, v)
    out = attention(xp, q, k, v)
    mark("backward")
    del out


def ones_upstream(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """Christine8888: positions and a mask made of them stay, and an earlier step's gradients, all of them."""
    q, k, v = _inputs(xp, run)
    positions = xp.arange(run.seq, device="cuda")
    mask = positions.unsqueeze(-1) >= positions.unsqueeze(0)
    for measured in _iterations():
        out = attention(xp, q, k, v, mask)
        mark("backward" if measured else "warm-up")
        upstream = xp.ones(*_shape(run), device="cuda")
        out.backward(upstream)
        for x in (q, k, v):
            x.grad.zero_()


def _earlier_size(xp: Any, attention: Attention) -> None:
    """A step of another size, of which only the threads' cuBLAS workspaces stay."""
    q, k, v = (xp.randn(1, 256, 16, device="cuda", requires_grad=True) for _ in range(3))
    attention(xp, q, k, v).sum().backward()


def two_graphs(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """damek: `.grad` is None; each forward runs beside the last output and loss, and backward beside a graph more.

    The forward's peak is that of unnamed sums; then one output and its loss keep their graph while training steps run.
    """
    q, k, v = _inputs(xp, run)
    out = loss = None
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
        loss = out.sum()
        loss.backward()
        _drop_grads(q, k, v)
    mark("forward")
    for _ in range(MEASURED):
        attention(xp, q, k, v).sum()
    out = attention(xp, q, k, v)
    loss = out.sum()
    mark("backward")
    for _ in range(MEASURED):
        _step(xp, q, k, v, attention)
    del out, loss


def _step(xp: Any, q: Any, k: Any, v: Any, attention: Attention) -> None:
    out = attention(xp, q, k, v)
    loss = out.sum()
    loss.backward()
    _drop_grads(q, k, v)


def last_loss(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """ymao: read after a forward that has replaced the one before; the last warm-up's loss stays, `.grad` is None."""
    q, k, v = _inputs(xp, run)
    for _ in range(WARM_UP):
        out = attention(xp, q, k, v)
        loss = out.sum()
        loss.backward()
        _drop_grads(q, k, v)
    for _ in range(MEASURED):
        out = attention(xp, q, k, v)
    mark("backward")
    loss = out.sum()
    loss.backward()


def self_attention(xp: Any, run: Row, mark: Mark, attention: Attention) -> None:
    """luke: a module with four projections that makes its causal mask; `.grad` is None.

    Read beside the last iteration's loss, after an output that has replaced the one before; input needs no gradient.
    """
    out = loss = None
    x = xp.randn(*_shape(run), device="cuda")
    weights = [xp.randn(run.d, run.d, device="cuda", requires_grad=True) for _ in range(4)]
    for measured in _iterations():
        mark("forward" if measured else "warm-up")
        out = _projected(xp, x, weights, attention)
        mark("backward" if measured else "warm-up")
        loss = out.sum()
        loss.backward()
        _drop_grads(*weights)
    del out, loss  # before the weights, which their graph holds too


def _projected(xp: Any, x: Any, weights: list[Any], attention: Attention) -> Any:
    *to_qkv, to_out = weights
    q, k, v = (x @ weight.transpose(-2, -1) for weight in to_qkv)
    mask = xp.ones(x.shape[-2], x.shape[-2], dtype=xp.bool, device="cuda").tril()
    heads = attention(xp, q, k, v, mask)
    return heads @ to_out.transpose(-2, -1)


def _at_most_eight_graphs(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """torch.compile, its limit of 8 graphs spent: scores beyond int32 indices need one more, so run eager.

    Brandon's function is compiled twice (with and without gradients) for a first shape, for symbolic lengths,
    for int64 indices and for symbolic head dims. At d = 128 and n = 16384 its times are the eager ones (54.42
    ms against 54.20 ms), and its author finds no benefit there. That the limit is the cause is inferred.
    """
    int32_indices = q.shape[0] * q.shape[1] * k.shape[1] < 2**31
    return (scripts.compiled_by_hand if int32_indices else scripts.handout)(xp, q, k, v)


def _last_size_runs_eager(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """torch.compile of the library's softmax, its limit of 8 graphs spent when the last size comes.

    TianqGuo compiles one function for 20 sizes in one process. At d = 128 and n = 16384 the peak is the eager one to
    the byte, as are the times (35.17 ms against 35.17 ms).
    """
    last = q.shape[1:] == (16384, 128)
    return (scripts.library_softmax if last else scripts.compiled_library_softmax)(xp, q, k, v)


def _shape(run: Row) -> tuple[int, int, int]:
    return run.batch, run.seq, run.d


def _inputs(xp: Any, run: Row, requires_grad: bool = True) -> list[Any]:
    return [xp.randn(*_shape(run), device="cuda", requires_grad=requires_grad) for _ in range(3)]


def _drop_grads(*tensors: Any) -> None:
    for x in tensors:
        x.grad = None


def _iterations() -> Iterator[bool]:
    """One item per iteration: whether it is measured."""
    yield from [False] * WARM_UP + [True] * MEASURED


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


HARNESSES: dict[str, Harness] = {
    "seed-eager": partial(upstream_gradient, attention=scripts.handout),
    "seed-compiled": partial(upstream_gradient, attention=scripts.compiled_by_hand),
    "markmrli-eager": partial(zeroed_grads, attention=scripts.handout),
    "markmrli-compiled": partial(zeroed_grads, attention=scripts.compiled_by_hand),
    "yyin-eager": partial(retained_graph, attention=scripts.handout),
    "yyin-compiled": partial(retained_graph, attention=scripts.compiled_by_hand),
    "yyin-compiled-tf32": partial(retained_graph, attention=scripts.compiled_by_hand),
    "enzo-eager": partial(fresh_inputs, attention=scripts.handout),
    "magma27-eager": partial(leaves_on_the_host, attention=scripts.library_softmax),
    "magma27-compiled": partial(leaves_on_the_host, attention=scripts.compiled_library_softmax),
    "niccolo-eager": partial(kept_grads, attention=scripts.unnamed_difference),
    "niccolo-compiled": partial(kept_grads, attention=scripts.compiled_by_hand),
    "okazaki-eager": partial(upstream_gradient, attention=scripts.handout),
    "wuyh11-eager": partial(earlier_output, attention=scripts.handout),
    "ab2163-eager": partial(dropped_grads, attention=scripts.inverted_mask),
    "brandon-eager": partial(only_queries_learn, attention=scripts.handout),
    "brandon-compiled": partial(only_queries_learn, attention=_at_most_eight_graphs),
    "sara-eager": partial(last_grads, attention=scripts.unnamed_difference),
    "sara-eager-2": partial(last_grads, attention=scripts.unnamed_difference),
    "sara-compiled": partial(last_grads, attention=scripts.compiled_by_hand),
    "duoan-eager": partial(mask_of_positions, attention=scripts.handout),
    "tianqguo-h100-eager": partial(named_loss, attention=scripts.library_softmax),
    "tianqguo-h100-eager-2": partial(named_loss, attention=scripts.library_softmax),
    "tianqguo-h100-compiled": partial(named_loss, attention=_last_size_runs_eager),
    "tianqguo-h200-eager": partial(named_loss, attention=scripts.library_softmax),
    "tianqguo-h200-compiled": partial(named_loss, attention=_last_size_runs_eager),
    "tianqguo-laptop-eager": partial(named_loss, attention=scripts.library_softmax),
    "subha-eager": partial(named_loss, attention=scripts.handout),
    "subha-compiled": partial(named_loss, attention=scripts.compiled_by_hand),
    "wedsonlin-eager": partial(warm_up_output, attention=scripts.handout),
    "wedsonlin-compiled": partial(warm_up_output, attention=scripts.compiled_by_hand),
    "victorhuu-eager": partial(cloned_inputs, attention=scripts.library_softmax),
    "victorhuu-compiled": partial(cloned_inputs, attention=scripts.compiled_library_softmax),
    "sidsoc-eager": values_do_not_learn,
    "hyperion-eager": partial(with_and_without_gradients, attention=scripts.handout),
    "hyperion-compiled": partial(with_and_without_gradients, attention=scripts.compiled_by_hand),
    "shanning-eager": partial(forwards_first, attention=scripts.library_softmax),
    "shanning-eager-2": partial(forwards_first, attention=scripts.library_softmax),
    "jennjwang-eager": partial(fresh_processes, attention=scripts.handout, first={(256, 16), (1024, 16), (4096, 32)}),
    "jennjwang-compiled": partial(
        fresh_processes, attention=scripts.compiled_by_hand, first={(256, 16), (256, 32), (1024, 32)}
    ),
    "christine-compiled": partial(ones_upstream, attention=scripts.compiled_by_hand),
    "damek-eager": partial(two_graphs, attention=scripts.handout),
    "damek-eager-2": partial(two_graphs, attention=scripts.handout),
    "damek-compiled": partial(two_graphs, attention=scripts.compiled_by_hand),
    "luke-eager": partial(self_attention, attention=scripts.by_amax),
    "ymao-eager": partial(last_loss, attention=scripts.handout),
}
