"""The built-in algorithms by name.

The functions are those of `memmodel_kernels`: the same code runs on torch and is recorded here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from memmodel import recording
from memmodel.attention.case import Case
from memmodel.attention.masks import NO_MASK, Mask
from memmodel.base.dtypes import int32
from memmodel.base.errors import unknown
from memmodel.recording import Tensor
from memmodel.rules.sdpa import CUDNN, EFFICIENT, FLASH, MATH
from memmodel.sizes.dims import ceil_div

Run = Callable[..., Any]


class Algorithm(NamedTuple):
    """A built-in algorithm.

    Attributes:
        name: on the command line. title: in reports. run: calls it with (case, q, k, v), and what `given` makes.
        dropout: whether it takes dropout. fused: whether scores stay on chip whatever the case.
        tiled: whether it is a kernel of this project, whose tiles decide.
        chooses: whether it is a library that chooses a kernel by the sizes, the head dim above all.
        sink_keys: whether it sees the first keys beside a window. fp8: whether it multiplies in fp8.
        packed: whether sequences lie behind one another, in tensors of (tokens, heads, head dim); those of unlike
            lengths do for this project's kernels too.
        cached: whether keys and values are a cache, to which the new ones are written.
        latent: whether that cache is of latents in pages, which serve as keys and as values.
        compiles: whether torch.compile writes its kernels, and times them in the first call.
        note: printed beside its numbers.
        scores: what it takes of `memmodel.attention.scores`: "fixed", "learned", "alibi", "softcap", "sinks".
        given: makes what is there before the step beside q, k and v, from the case: tensors by name.
    """

    name: str
    title: str
    run: Run
    dropout: bool = False
    fused: bool = False
    tiled: bool = False
    chooses: bool = False
    note: str = ""
    cached: bool = False
    latent: bool = False
    packed: bool = False
    sink_keys: bool = False
    fp8: bool = False
    compiles: bool = False
    scores: tuple[str, ...] = ()
    given: Callable[[Case], dict[str, Any]] | None = None

    def packs(self, case: Case) -> bool:
        """Whether the sequences of a case lie behind one another."""
        return self.packed or (self.tiled and bool(case.lengths))


def tiles_of(case: Case) -> Any:
    """The tiles of a fused kernel: those of the case, or by its architecture, dtype and head dim."""
    from memmodel_kernels.flash import extras, flash_tiles

    given = extras(case.scores.softcap, case.lengths, case.dropout, case.scores.bias)
    return case.tiles or flash_tiles(case.device.arch, case.dtype, int(case.head_dim), given)


def _naive(case: Case, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, sinks: Tensor | None = None) -> Any:
    from memmodel_kernels.naive import naive

    return naive(q, k, v, case.mask, case.dropout, bias, case.scores.softcap, sinks)


def _by_hand(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    from memmodel_kernels.naive import naive_by_hand

    return naive_by_hand(q, k, v, case.mask, case.dropout)


def _chunked(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    from memmodel_kernels.chunked import chunked

    return chunked(q, k, v, case.mask, case.chunk)


def _checkpointed(
    case: Case, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, sinks: Tensor | None = None
) -> Any:
    from memmodel_kernels.checkpointed import checkpointed

    return checkpointed(q, k, v, case.mask, case.dropout, bias, case.scores.softcap, sinks)


def _compiled(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    from memmodel_kernels.compiled import compiled

    return compiled(q, k, v, case.mask, case.dropout)


def _flash(deterministic: bool) -> Run:
    """The kernels of this project; packed sequences come with their offsets."""

    def run(case: Case, q: Tensor, k: Tensor, v: Tensor, *_offsets: Tensor, bias: Tensor | None = None) -> Any:
        from memmodel_kernels.flash import flash

        softcap, lengths, dropout = case.scores.softcap, case.lengths, case.dropout
        how = case.mask, tiles_of(case), deterministic
        return flash(q, k, v, *how, softcap=softcap, lengths=lengths, dropout=dropout, bias=bias)

    return run


def _sdpa(*backends: str) -> Run:
    """scaled_dot_product_attention with only these backends on."""

    def run(case: Case, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Any:
        from memmodel_kernels.sdpa import sdpa

        return sdpa(q, k, v, case.mask, case.dropout, backends, bias)

    return run


def _flash_attn(deterministic: bool) -> Run:
    """The package, version 2; a bias is ALiBi's slopes."""

    def run(case: Case, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Any:
        from memmodel_kernels.flash_attn import flash_attn

        return flash_attn(q, k, v, case.mask, case.dropout, deterministic, bias, case.scores.softcap)

    return run


def _offsets(case: Case) -> dict[str, Tensor]:
    """The offsets of packed sequences, and the end of the last."""
    if not algorithm(case.algorithm).packs(case):
        return {}
    return {"cu_seqlens": recording.empty(case.batch + 1, dtype=int32)}


def _flash_attn_varlen(case: Case, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Any:
    from memmodel_kernels.flash_attn import flash_attn_varlen

    return flash_attn_varlen(q, k, v, offsets, case.seq, case.kv_seq, case.mask, case.dropout, case.lengths)


def _flash_attn_3(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    from memmodel_kernels.flash_attn import flash_attn_3

    return flash_attn_3(q, k, v, case.mask, softcap=case.scores.softcap)


_BLOCKS = ("number", "indices", "number of whole", "indices of whole")


def _flex_given(case: Case) -> dict[str, Tensor]:
    """The tensors of the block mask, which is made once and kept."""
    tensors = recording.create_block_mask(case.mask, case.seq, case.kv_seq).tensors
    names = (f"{what} blocks by {side}" for side in ("row", "column") for what in _BLOCKS)
    return dict(zip(names, tensors, strict=False))


def _flex(case: Case, q: Tensor, k: Tensor, v: Tensor, *tensors: Tensor, bias: Tensor | None = None) -> Any:
    from memmodel.rules.flex import BlockMask
    from memmodel_kernels.flex import flex

    made = BlockMask(case.mask, tensors) if tensors else None
    return flex(q, k, v, case.mask, made, bias, case.scores.softcap)


def _decode(case: Case, q: Tensor, k: Tensor, v: Tensor, block_table: Tensor | None = None) -> Any:
    from memmodel_kernels.decode import decode

    new_k, new_v = _new_tokens(q, k, v)
    return decode(q, new_k, new_v, k, v, _of_newest(case), block_table, case.kv_seq, splits_of(case))


def _flash_mla_given(case: Case) -> dict[str, Tensor]:
    """The block table, and the plan by which the package shares out sequences, made once for all layers."""
    from memmodel.rules.flash_mla import PAGE, partitions

    pages, parts = ceil_div(case.kv_seq, PAGE), partitions(case.device, case.heads * case.seq)
    shapes = {"block_table": (case.batch, pages), "metadata": (parts, 8), "num_splits": (case.batch + 1,)}
    return {name: recording.empty(*shape, dtype=int32) for name, shape in shapes.items()}


def _flash_mla(case: Case, q: Tensor, pages: Tensor, block_table: Tensor, metadata: Tensor, num_splits: Tensor) -> Any:
    from memmodel_kernels.flash_mla import flash_mla

    new = recording.empty(case.batch * case.seq, case.head_dim, dtype=case.dtype)
    q.storage.tape.names[new.storage.key] = "new latents"
    return flash_mla(q, new, pages, block_table, metadata, num_splits, case.kv_seq, _of_newest(case))


def _decode_eager(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    from memmodel_kernels.decode_eager import decode_eager

    return decode_eager(q, *_new_tokens(q, k, v), k, v, _of_newest(case))


def _new_tokens(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the tokens that the queries are of."""
    new_k, new_v = (recording.empty(q.shape[0], x.shape[1], q.shape[2], x.shape[3], dtype=q.dtype) for x in (k, v))
    for name, new in (("new_k", new_k), ("new_v", new_v)):
        q.storage.tape.names[new.storage.key] = name
    return new_k, new_v


def _of_newest(case: Case) -> Mask:
    """The mask, which hides nothing from a query that is the last of all positions."""
    newest_alone = isinstance(case.seq, int) and case.seq == 1 and case.mask.window is None
    return NO_MASK if newest_alone else case.mask


def splits_of(case: Case) -> int:
    """The splits of the keys in "decode": the number asked for, or flash-attention's choice; 1 for symbolic sizes."""
    from memmodel_kernels.decode import num_splits

    if case.cache.splits is not None:
        return case.cache.splits
    sizes = (case.batch, case.kv_heads, case.heads, case.seq, case.kv_seq, case.head_dim)
    if not all(isinstance(size, int) for size in sizes):
        return 1
    rows = case.heads // case.kv_heads * case.seq
    return num_splits(case.batch, case.kv_heads, rows, case.kv_seq, int(case.head_dim), case.device.sms)


_OWN = "this project's kernel, memmodel_kernels; the libraries' are sdpa and flash-attn"
_SDPA_TITLES = {
    FLASH: "flash kernel",
    EFFICIENT: "efficient kernel",
    CUDNN: "cuDNN kernel",
    MATH: "plain operators",
}
_ADDED = ("fixed", "learned", "alibi")
_ALL = (
    Algorithm("naive", "naive attention", _naive, dropout=True, sink_keys=True, scores=(*_ADDED, "softcap", "sinks")),
    Algorithm("naive-by-hand", "naive, softmax by hand", _by_hand, dropout=True, sink_keys=True),
    Algorithm(
        "flash",
        "FlashAttention-2 in Triton",
        _flash(deterministic=False),
        dropout=True,
        fused=True,
        tiled=True,
        scores=("fixed", "alibi", "softcap"),
        note=_OWN,
        given=_offsets,
    ),
    Algorithm(
        "flash-deterministic",
        "FlashAttention-2 in Triton, deterministic",
        _flash(deterministic=True),
        dropout=True,
        fused=True,
        tiled=True,
        scores=("fixed", "alibi", "softcap"),
        given=_offsets,
        note=f"{_OWN}; backward computes the scores twice instead of adding to dQ with atomics",
    ),
    Algorithm(
        "sdpa", "PyTorch's SDPA", _sdpa(*_SDPA_TITLES), dropout=True, chooses=True, sink_keys=True, scores=_ADDED
    ),
    *(
        Algorithm(
            f"sdpa-{name}",
            f"SDPA's {title}",
            _sdpa(name),
            dropout=True,
            chooses=True,
            fused=name != MATH,
            sink_keys=True,
            scores=_ADDED,
        )
        for name, title in _SDPA_TITLES.items()
    ),
    Algorithm(
        "flash-attn",
        "flash-attn 2",
        _flash_attn(deterministic=False),
        dropout=True,
        chooses=True,
        fused=True,
        scores=("alibi", "softcap"),
    ),
    Algorithm(
        "flash-attn-deterministic",
        "flash-attn 2, deterministic",
        _flash_attn(deterministic=True),
        dropout=True,
        chooses=True,
        fused=True,
        scores=("alibi", "softcap"),
        note="deterministic=True: one dQ in fp32 for each group of thread blocks that share an SM",
    ),
    Algorithm(
        "flash-attn-varlen",
        "flash-attn 2, packed",
        _flash_attn_varlen,
        dropout=True,
        chooses=True,
        fused=True,
        note="sequences behind one another, of one length unless --lengths tells them",
        packed=True,
        given=_offsets,
    ),
    Algorithm("flash-attn-3", "flash-attn 3", _flash_attn_3, chooses=True, fused=True, fp8=True, scores=("softcap",)),
    Algorithm(
        "flex",
        "FlexAttention, compiled",
        _flex,
        chooses=True,
        sink_keys=True,
        fused=True,
        note="blocks of 128 x 128 pairs are visited whole; making the block mask and autotuning are not counted",
        scores=(*_ADDED, "softcap"),
        given=_flex_given,
    ),
    Algorithm("chunked", "query-chunked attention", _chunked),
    Algorithm(
        "checkpointed",
        "naive, checkpointed",
        _checkpointed,
        dropout=True,
        sink_keys=True,
        scores=(*_ADDED, "softcap", "sinks"),
    ),
    Algorithm(
        "compiled",
        "naive under torch.compile",
        _compiled,
        dropout=True,
        sink_keys=True,
        compiles=True,
        note="a model of the compiler: what its partitioner keeps and which buffers it allocates",
    ),
    Algorithm("decode", "decoding with a KV cache", _decode, cached=True),
    Algorithm("decode-eager", "decoding by eager operators", _decode_eager, cached=True),
    Algorithm(
        "flash-mla",
        "FlashMLA, absorbed latents",
        _flash_mla,
        fused=True,
        chooses=True,
        cached=True,
        latent=True,
        note="keys are the cache's rows, values the latents in them; products with absorbed matrices are not counted",
        given=_flash_mla_given,
    ),
)
ALGORITHMS = {algorithm.name: algorithm for algorithm in _ALL}


def algorithm(name: str) -> Algorithm:
    """The algorithm called `name`. Raises UsageError for others, with the nearest names."""
    found = ALGORITHMS.get(str(name).casefold().replace("_", "-"))
    if found is None:
        raise unknown("algorithm", name, ALGORITHMS)
    return found
