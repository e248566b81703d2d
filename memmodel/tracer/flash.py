"""The project's own Triton kernels in a trace: their rule is a recording of the algorithm that they carry out."""

from collections.abc import Callable
from itertools import islice
from typing import Any

from memmodel.attention.masks import Mask
from memmodel.events.liveness import states, uncounted
from memmodel.events.program import Launch
from memmodel.recording import empty
from memmodel.rules.operator import FREED, Call, Result, Scratch, Steps, rule
from memmodel.sizes.dims import Dim, exact_div
from memmodel.tensors.layout import Strided
from memmodel.tensors.tape import Tape
from memmodel_kernels.flash import FlashTiles, extras, flash_backward, flash_forward, flash_tiles


@rule("flash_attention")
def forward(call: Call) -> Steps:
    """The output and its log-sum-exp."""
    q = call.args[0]
    mask, tile, how = _mask(call), _tiles(call, q).forward, _options(call, q)

    def run(q: Any, k: Any, v: Any, bias: Any) -> Any:
        return flash_forward(q, k, v, mask, tile, *how, bias)

    yield from _recorded(call, run, (*call.args[:3], call.named.get("bias")))


@rule("flash_attention_backward")
def backward(call: Call) -> Steps:
    """dQ, dK, dV, with what the algorithm needs on the way."""
    tiles, mask, deterministic = _tiles(call, call.args[2]), _mask(call), bool(call.named["deterministic"])
    how = _options(call, call.args[2])

    def run(*given: Any) -> Any:
        return flash_backward(given[:7], mask, tiles, deterministic, *how, given[7])

    yield from _recorded(call, run, (*call.args[:7], call.named.get("bias")))


def _tiles(call: Call, q: Strided) -> FlashTiles:
    softcap, offsets, dropout, bias = (call.named.get(x) for x in ("softcap", "cu_seqlens_q", "dropout", "bias"))
    given = extras(softcap, offsets is not None, dropout, bias is not None)
    return flash_tiles(call.device.arch, q.dtype, q.numbers()[0][-1], given)


def _options(call: Call, q: Strided) -> tuple[float | None, tuple[Dim, ...], float]:
    """The soft cap, the lengths of packed sequences, and dropout."""
    return call.named.get("softcap"), _lengths(call, q), call.named.get("dropout") or 0.0


def _lengths(call: Call, q: Strided) -> tuple[Dim, ...]:
    """The lengths of packed sequences, taken as alike: their offsets are data, which a trace does not have."""
    offsets = call.named.get("cu_seqlens_q")
    if offsets is None:
        return ()
    tokens: Dim = q.shape[2]
    count: int = offsets.numbers()[0][0] - 1
    if not isinstance(tokens, int):
        return (exact_div(tokens, count),) * count
    return tuple(tokens // count + (i < tokens % count) for i in range(min(count, tokens)))


def _mask(call: Call) -> Mask:
    window = call.named["window"]
    return Mask(causal=bool(call.named["causal"]) or window is not None, window=window)


def _recorded(call: Call, function: Callable[..., Any], operands: Any) -> Steps:
    """The steps of a function on recording tensors of the operands' shapes."""
    with Tape(call.device, sites=False) as tape:
        given = [None if x is None else empty(*x.shape, dtype=x.dtype) for x in operands]
        start = len(tape.events)
        made = function(*given)  # held while the events are read: what dies before is scratch
        results, program = [x.storage.key for x in made], tape.program
        found = list(islice(states(program, uncounted), start, None))
    scratch: list[int] = []
    for event, _, _, born, died, *_ in found:
        if isinstance(event, Launch):
            yield event
        elif born and born.key in results:
            yield Result(results.index(born.key))
        elif born:
            scratch.append(born.key)
            yield Scratch(tuple(born.shape), born.dtype)
        elif died:
            assert died.key == scratch.pop(), "the algorithm frees its own tensors last first"
            yield FREED
