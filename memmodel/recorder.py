"""The recording of a case of attention, and what its algorithm cannot run."""

from contextlib import suppress
from typing import Any, NamedTuple

from memmodel import recording
from memmodel.algorithms import ALGORITHMS, Algorithm, algorithm, tiles_of
from memmodel.allocator.cublas import parse_torch_version
from memmodel.attention.cache import PLAIN
from memmodel.attention.case import Case
from memmodel.base.dtypes import FP8, DType, float32, float64, int32, short_name
from memmodel.base.errors import UsageError
from memmodel.events.program import Program
from memmodel.expansion import Expansion, Irregular, Recording, Repetition
from memmodel.recording import Device, Tape, Tensor
from memmodel.sizes.dims import ceil_div, hint, same

MOST_CHUNKS = 4096  # recording a chunk takes milliseconds
# Backward begins the sums of the keys' gradients at the last two chunks, and ends them at the first.
_CHUNKS = Repetition(before=0, period=1, margin=2)


def record(case: Case, device: Device | None = None, sites: bool = False) -> Program:
    """The events of a case; see `recorded`. Without sites, a few chunks are recorded in place of many alike."""
    if case.algorithm == "chunked" and type(case.seq) is int and not (sites or case.mask.causal):
        with suppress(Irregular):
            return _of_chunks(case, device)
    return recorded(case, device, sites).program


def _of_chunks(case: Case, device: Device | None) -> Program:
    """The program of a case in chunks of queries, all of them on the same keys. Raises Irregular for a few chunks."""
    _check(algorithm(case.algorithm), case)
    chunks = ceil_div(case.seq, case.chunk)
    few = _CHUNKS.fewest(chunks)
    if chunks <= few + _CHUNKS.period:
        raise Irregular

    def shorter(count: int) -> Recording:
        tape = recorded(case.replace(seq=case.seq - (chunks - count) * case.chunk), device)
        return Recording.of(tape, tape.program)

    return Expansion(shorter(few), shorter(few + _CHUNKS.period), _CHUNKS).program(chunks - few)


def recorded(case: Case, device: Device | None = None, sites: bool = False) -> Tape:
    """Record a case: its inputs, then one step as in a training or inference loop.

    The step computes the output and, in training, runs backward from an upstream gradient, which is an input; then it
    drops the output and sets gradients to None, so that steps can be repeated. Phases are marked "inputs", "forward",
    "backward" and "after". With `sites`, allocations hold the line that made them. `device` replaces the case's.

    Raises UsageError for a case that the algorithm does not support.
    """
    chosen = algorithm(case.algorithm)
    _check(chosen, case)
    grads = case.phase != "inference"
    runs_on = device or case.device
    runs_on = runs_on._replace(
        torch=parse_torch_version(case.torch), deterministic=runs_on.deterministic or case.deterministic
    )
    with Tape(runs_on, sites) as tape:
        tape.mark("inputs")
        b, d, e = case.batch, case.head_dim, case.value_dim
        tokens = sum(case.lengths) if case.lengths else b * case.seq
        packed = chosen.packs(case)
        rows = (tokens, case.heads) if packed else (b, case.heads, case.seq)
        rows = (b, case.seq, case.heads) if chosen.latent else rows
        q = _input(tape, "q", (*rows, d), case.dtype, grads)
        names = ("k_cache", "v_cache") if chosen.cached else ("k", "v")
        keys = tokens if case.lengths else b * case.kv_seq
        outer = (keys, case.kv_heads) if packed else _latents_of(case) if chosen.latent else _keys_of(case)
        kind = case.cache.dtype or case.dtype
        caches = {"latents": d} if chosen.latent else dict(zip(names, (d, e), strict=True))
        inputs = [q, *(_input(tape, name, (*outer, x), kind, grads) for name, x in caches.items())]
        pages = case.cache.page and (_input(tape, "block_table", (b, case.cache.pages(case.kv_seq)), int32, False),)
        if case.phase == "train":
            dout = _input(tape, "dout", (*rows, e), case.dtype, False)
        given = chosen.given(case) if chosen.given else {}
        tape.names |= {tensor.storage.key: name for name, tensor in given.items()}
        added = _bias_of(tape, case) | _sinks_of(tape, case)
        tape.grad_enabled = grads
        tape.mark("forward")
        output = chosen.run(case, *inputs, *(pages or ()), *given.values(), **added)
        if case.phase == "train":
            tape.mark("backward")
            output.backward(dout)
        tape.mark("after")
        del output
        for x in (*inputs, *added.values()):
            x.grad = None
    return tape


def _bias_of(tape: Tape, case: Case) -> dict[str, Tensor]:
    """The bias of the scores as an input: a number for each pair, head and sequence, or ALiBi's slopes."""
    kind = case.scores.bias
    if not kind:
        return {}
    if kind == "alibi":
        return {"bias": _input(tape, "ALiBi slopes", (case.heads,), float32, False)}
    learns = kind == "learned" and case.phase != "inference"
    letters: dict[str, Any] = {"1": 1, "b": case.batch, "h": case.heads}
    outer = (letters[size] for size in case.scores.bias_shape.split(","))
    return {"bias": _input(tape, "bias", (*outer, case.seq, case.kv_seq), case.dtype, learns)}


def _sinks_of(tape: Tape, case: Case) -> dict[str, Tensor]:
    """A logit a head, an input that learns."""
    if not case.scores.sinks:
        return {}
    return {"sinks": _input(tape, "sinks", (case.heads,), case.dtype, case.phase != "inference")}


def check_splits(case: Case) -> None:
    """Raises UsageError for more parts of the keys than there are blocks of them: some would read nothing."""
    from memmodel_kernels.decode import decode_tile

    cols = decode_tile(int(case.head_dim)).cols
    blocks = -(-case.kv_seq // cols)
    if case.cache.splits is not None and case.cache.splits > blocks:
        raise UsageError(
            f"num-splits {case.cache.splits}: {case.kv_seq} keys are {blocks} blocks of {cols}, which is the most parts"
        )


class Support(NamedTuple):
    """Whether an algorithm can run a case; false values say why not."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


def supported(case: Case) -> Support:
    """Whether the case's algorithm supports its dropout, dtype, head dim, phase and mask."""
    try:
        _check(algorithm(case.algorithm), case)
        if algorithm(case.algorithm).chooses:
            record(case)  # the choice reads tensors
    except UsageError as error:
        return Support(str(error))
    return Support()


def _keys_of(case: Case) -> tuple[Any, ...]:
    """The shape of keys and values but for their head dim: (b, g, m), or (pages, g, keys of a page)."""
    page = case.cache.page
    if page is None:
        return case.batch, case.kv_heads, case.kv_seq
    return case.batch * case.cache.pages(case.kv_seq), case.kv_heads, page


def _latents_of(case: Case) -> tuple[Any, ...]:
    """The shape of pages of latents but for their channels."""
    from memmodel.rules.flash_mla import PAGE

    return case.batch * ceil_div(case.kv_seq, PAGE), PAGE, 1


def _input(tape: Tape, name: str, shape: tuple[Any, ...], dtype: DType, requires_grad: bool) -> Tensor:
    tensor = recording.empty(*shape, dtype=dtype, requires_grad=requires_grad)
    tape.names[tensor.storage.key] = name
    return tensor


def _check(chosen: Algorithm, case: Case) -> None:
    if case.dropout and not chosen.dropout:
        with_dropout = ", ".join(a.name for a in ALGORITHMS.values() if a.dropout)
        raise UsageError(f"{chosen.name} has no dropout: leave --dropout out, or choose {with_dropout}")
    for name in case.scores.asked:
        if name not in chosen.scores:
            others = ", ".join(other.name for other in ALGORITHMS.values() if name in other.scores)
            raise UsageError(f"{chosen.name} with {case.scores.described()}: not modelled; choose {others}")
    seq = hint(case.seq)
    if chosen.name == "chunked" and seq > MOST_CHUNKS * hint(case.chunk):
        raise UsageError(
            f"{seq} queries in chunks of {case.chunk}: expected at most {MOST_CHUNKS} chunks, give a --chunk of "
            f"{-(-seq // MOST_CHUNKS)} or more"
        )
    if chosen.tiled:
        tiles_of(case)
        if case.lengths and case.scores.bias:
            raise UsageError(f"{chosen.name} with lengths and a bias: its kernels take one or the other")
        if case.value_dim is not case.head_dim and not same(case.value_dim, case.head_dim):
            raise UsageError(
                f"{chosen.name} with value dim {case.value_dim} and head dim {case.head_dim}: its kernels "
                "take one size for both; choose another algorithm"
            )
    if chosen.latent:
        _check_latent(case)
    if chosen.cached and case.phase != "inference":
        one = "" if same(case.seq, 1) else f" (and for one new token: --seq 1 --kv-seq {case.kv_seq})"
        raise UsageError(f"{chosen.name} in phase {case.phase}: decoding has no backward, take --phase inference{one}")
    if chosen.cached and isinstance(case.seq, int) and isinstance(case.kv_seq, int) and case.seq > case.kv_seq:
        raise UsageError(
            f"{chosen.name} with {case.seq} new tokens and kv-seq {case.kv_seq}, which counts them too: give --kv-seq "
            f"{case.seq} or more"
        )
    if case.dtype in FP8 and not chosen.fp8:
        others = ", ".join(other.name for other in ALGORITHMS.values() if other.fp8)
        raise UsageError(
            f"{chosen.name} in {short_name(case.dtype)}: its products are not in fp8; take -a {others} --phase "
            "inference on Hopper, or --dtype bf16 (a KV cache alone: --cache-dtype fp8)"
        )
    if case.mask.sinks and not chosen.sink_keys:
        others = ", ".join(other.name for other in ALGORITHMS.values() if other.sink_keys)
        raise UsageError(f"{chosen.name} has no sink keys: it skips all keys before the window; choose {others}")
    if case.cache != PLAIN and chosen.name != "decode":
        raise UsageError(f"{chosen.name} with {case.cache.described()}: pages, cache types and splits are decode's")
    if chosen.name == "decode" and case.dtype == float64:
        raise UsageError("decode in fp64: its kernels take fp16, bf16 and fp32; choose decode-eager")


def _check_latent(case: Case) -> None:
    from memmodel.rules.flash_mla import KEY_DIM, VALUE_DIM

    sizes = case.kv_heads, case.head_dim, case.value_dim
    if any(not same(size, own) for size, own in zip(sizes, (1, KEY_DIM, VALUE_DIM), strict=True)):
        raise UsageError(
            f"flash-mla with {case.kv_heads} kv heads, head dim {case.head_dim} and value dim {case.value_dim}: its "
            f"cache is one head of {KEY_DIM} channels, {VALUE_DIM} of them the values; take --kv-heads 1 "
            f"--head-dim {KEY_DIM} --value-dim {VALUE_DIM}, or --like deepseek-v3"
        )
    if case.mask.window is not None:
        raise UsageError(f"flash-mla with {case.mask.described()}: it has no window, leave --window out")
