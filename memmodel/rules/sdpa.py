"""The backend that `scaled_dot_product_attention` selects, and why it rejects the ones that it prefers.

PyTorch tries its backends in order of priority and selects the first whose filters all pass. The filters below are in
PyTorch's order, so that the reason reported here is the one in PyTorch's own warning.

Sources: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, sdp_utils_cpp.h (filters that backends share) and
sdp_utils_cpp.cpp (the CPU). Filters of nested tensors are left out. The version of cuDNN is the one in the default
wheel of that release. On AMD both fused kernels are AOTriton's, which needs no shared memory of a certain size: of its
releases, 0.9 (torch 2.7) took head dims to 512, 0.12 (torch 2.13) values of another head dim than the keys'; before it
efficient attention had flash attention's rule of head dims, with multiples of 8 or 4 (check_head_dim_size_flash<true>).
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from memmodel.base.dtypes import DType, bfloat16, bool_, float16, float32, float64
from memmodel.base.errors import UsageError

FLASH, EFFICIENT, CUDNN, MATH = "flash", "efficient", "cudnn", "math"
ALL = frozenset((FLASH, EFFICIENT, CUDNN, MATH))
MOST_BLOCKS = 65_535  # thread blocks of a grid in y and z: CUDA C++ Programming Guide, technical specifications


class Mask(NamedTuple):
    """An attention mask: its shape before expansion, dtype, whether it needs a gradient, and its last stride."""

    shape: tuple[int, ...]
    dtype: DType
    needs_grad: bool = False
    last_stride: int = 1


class SdpaCall(NamedTuple):
    """The properties of a call to `scaled_dot_product_attention` that decide its backend.

    Attributes:
        query, key, value: shapes, (batch, heads, length, head dim).
        dtype: of all three.
        mask, dropout, causal, gqa: the arguments attn_mask, dropout_p, is_causal and enable_gqa.
        needs_grad: whether query, key or value needs a gradient; `Mask.needs_grad` says it of the mask.
        deterministic: whether torch.use_deterministic_algorithms is on, and not as a warning only.
        unit_stride: whether the last stride of query, key and value is 1.
        aligned: whether the storage offsets of query, key and value are multiples of 16 bytes.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    dtype: DType
    mask: Mask | None = None
    dropout: float = 0.0
    causal: bool = False
    gqa: bool = False
    needs_grad: bool = False
    deterministic: bool = False
    unit_stride: bool = True
    aligned: bool = True

    @property
    def head_dims(self) -> tuple[int, int, int]:
        """The head dims of query, key and value."""
        return self.query[-1], self.key[-1], self.value[-1]


class Backends(NamedTuple):
    """The target of the selection: compute capability as one number (80 is 8.0; 0 is the CPU), and torch's version.

    `gfx`: AMD's name of the architecture ("gfx942"), "" of other GPUs; `arch` stays 80, whose data types it has.
    """

    arch: int = 80
    torch: tuple[int, int] = (2, 13)
    gfx: str = ""


class Refusal(NamedTuple):
    """Why a backend rejects a call, and the change that would make it accept."""

    reason: str
    remedy: str


class Choice(NamedTuple):
    """The selected backend, None if all reject the call; and the refusal of each backend tried before it."""

    backend: str | None
    refused: dict[str, Refusal]


_OFF = Refusal("it is switched off", "the switch of sdpa_kernel or torch.backends.cuda on")
Filter = Callable[[SdpaCall, Backends], Refusal | None]


def choose(call: SdpaCall, backends: Backends, enabled: Collection[str] = ALL) -> Choice:
    """Select a backend for a call among those that are enabled (`sdpa_kernel`, torch.backends.cuda)."""
    refused: dict[str, Refusal] = {}
    for name in order(backends):
        refusal = _refusal(name, call, backends, enabled)
        if refusal is None:
            return Choice(name, refused)
        refused[name] = refusal
    return Choice(None, refused)


def check(choice: Choice, call: SdpaCall) -> None:
    """Raise UsageError where PyTorch raises: if no backend accepts the call, with the reason of each enabled backend.

    A backend that is selected may raise all the same: plain operators for a mask beside is_causal (attention.cpp),
    efficient attention for a mask of another type than the query's (attention.cu).
    """
    if choice.backend == MATH and call.mask and call.causal:
        raise UsageError("scaled_dot_product_attention with attn_mask and is_causal: plain operators take one of them")
    if choice.backend == EFFICIENT and call.mask and call.mask.dtype not in (bool_, call.dtype):
        raise UsageError(
            f"scaled_dot_product_attention with an attn_mask of {call.mask.dtype} for {call.dtype}: the efficient "
            "kernel takes bool or the query's type, cast the mask"
        )
    if choice.backend is None:
        found = {name: refusal for name, refusal in choice.refused.items() if refusal != _OFF} or choice.refused
        reasons = "; ".join(f"{name}: {why.reason} (it would take {why.remedy})" for name, why in found.items())
        raise UsageError(f"no backend takes this scaled_dot_product_attention: {reasons}")


def order(backends: Backends) -> tuple[str, ...]:
    """The backends in order of priority. "math" accepts every call, so one after it is tried only if math is off.

    cuDNN is first on compute capability 9.0 and 10.x if its version is above 9.9 (torch 2.9) or 9.15 (torch 2.10 on);
    default wheels have that version in 2.9 and from 2.11 on (pytorch/pytorch#162073, #170800, #171627).
    """
    arch, torch, _ = backends
    if not arch:
        return FLASH, MATH
    first = (90, 100, 103) if torch >= (2, 11) else (90, 100) if torch == (2, 9) else ()
    if arch in first:
        return CUDNN, FLASH, EFFICIENT, MATH
    # Before 2.5 an environment variable had to turn cuDNN on (pytorch/pytorch#128539).
    return (FLASH, EFFICIENT, MATH) if torch < (2, 5) else (FLASH, EFFICIENT, MATH, CUDNN)


def _refusal(name: str, call: SdpaCall, backends: Backends, enabled: Collection[str]) -> Refusal | None:
    if name not in enabled:
        return _OFF
    refusals = (refuses(call, backends) for refuses in _filters(name, backends))
    return next((refusal for refusal in refusals if refusal), None)


def _filters(name: str, backends: Backends) -> tuple[Filter, ...]:
    """The filters of a backend in PyTorch's order; plain operators have none."""
    if name == MATH:
        return ()
    if not backends.arch:
        return _ON_CPU
    if backends.gfx:
        return _ON_ROCM[name]
    return _CUDNN_BEFORE_2_9 if name == CUDNN and backends.torch < (2, 9) else _FILTERS[name]


def _rank(call: SdpaCall, _: Backends) -> Refusal | None:
    ranks = {len(call.query), len(call.key), len(call.value)}
    if ranks == {4}:
        return None
    return Refusal(f"it takes four dimensions, not {max(ranks - {4})}", "tensors of (batch, heads, length, head dim)")


def _no_mask(call: SdpaCall, _: Backends) -> Refusal | None:
    return Refusal("it takes no attn_mask", "is_causal=True, or no mask") if call.mask else None


def _equal_head_dims(call: SdpaCall, _: Backends) -> Refusal | None:
    if len(set(call.head_dims)) == 1:
        return None
    q, k, v = call.head_dims
    return Refusal(f"it takes one head dim, not {q}, {k} and {v}", "query, key and value padded to one head dim")


def _flash_head_dim(call: SdpaCall, backends: Backends) -> Refusal | None:
    return _widest_head_dim(call, backends) or _equal_head_dims(call, backends)


def _widest_head_dim(call: SdpaCall, backends: Backends) -> Refusal | None:
    most, wanted = _most_channels(backends), max(call.query[-1], call.value[-1])
    if wanted <= most:
        return None
    return Refusal(f"its head dims end at {most}, this is {wanted}", f"a head dim of {most} or less")


def _most_channels(backends: Backends) -> int:
    """Head dims of AOTriton, but on gfx11, end at 512 since torch 2.7 (aotriton_max_hdim)."""
    wide = backends.gfx and not backends.gfx.startswith("gfx11") and backends.torch >= (2, 7)
    return 512 if wide else 256


# AMD architecture -> first torch whose AOTriton has kernels for it that need no environment variable: gfx950 and
# gfx1201 since 0.10 (pytorch/pytorch#156499), gfx1100 and gfx1151 since 0.12 (ROCm/pytorch#3313).
_AOTRITON = {
    "gfx90a": (2, 4), "gfx942": (2, 4), "gfx950": (2, 8), "gfx1201": (2, 8), "gfx1100": (2, 13), "gfx1151": (2, 13),
}  # fmt: skip


def _aotriton(_: SdpaCall, backends: Backends) -> Refusal | None:
    """check_flash_attention_hardware_support, check_mem_efficient_hardware_support of AMD."""
    first = _AOTRITON.get(backends.gfx)
    if first is not None and backends.torch >= first:
        return None
    later = "torch {}.{} or later".format(*first) if first else "another GPU"
    return Refusal(f"AOTriton has no kernels for {backends.gfx}, or experimental ones alone", later)


def _from_sm80(_: SdpaCall, backends: Backends) -> Refusal | None:
    return _capability(80, backends)


def _from_sm50(_: SdpaCall, backends: Backends) -> Refusal | None:
    return _capability(50, backends)


_NEWEST = {(2, 4): 90, (2, 7): 120, (2, 8): 121}  # first torch -> newest compute capability that its kernels take


def _capability(least: int, backends: Backends) -> Refusal | None:
    arch = backends.arch
    newest = max(capability for first, capability in _NEWEST.items() if first <= backends.torch)
    if least <= arch <= newest:
        return None
    low, high, own = ("{}.{}".format(*divmod(capability, 10)) for capability in (least, newest, arch))
    later = next((first for first, capability in _NEWEST.items() if least <= arch <= capability), None)
    remedy = "torch {}.{} or later".format(*later) if later else "another GPU"
    return Refusal(f"it needs compute capability {low} to {high}, this is {own}", remedy)


def _flash_training(call: SdpaCall, backends: Backends) -> Refusal | None:
    """check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120: its backward needs more shared memory."""
    small = 86 <= backends.arch <= 89 or backends.arch in (120, 121)
    d = call.query[-1]
    if not (call.needs_grad and small and (192 < d <= 224 or (d > 224 and call.dropout > 0))):
        return None
    remedy = "a head dim of 192 or less" if d <= 224 else "no dropout, or a head dim of 192 or less"
    return Refusal(f"on this GPU it does not train a head dim of {d}{' with dropout' if d > 224 else ''}", remedy)


def _flash_causal(call: SdpaCall, _: Backends) -> Refusal | None:
    n, m = call.query[-2], call.key[-2]
    if not call.causal or n == m:
        return None
    return Refusal(
        f"is_causal is taken for equal lengths alone, these are {n} and {m}", "as many keys as queries, or no is_causal"
    )


def _half(call: SdpaCall, backends: Backends) -> Refusal | None:
    return _dtype(call, (float16, bfloat16) if backends.arch >= 80 else (float16,))


def _efficient_dtype(call: SdpaCall, backends: Backends) -> Refusal | None:
    return _dtype(call, (float16, float32, bfloat16) if backends.arch >= 80 else (float16, float32))


def _cpu_dtype(call: SdpaCall, _: Backends) -> Refusal | None:
    return _dtype(call, (float32, float64, bfloat16, float16))


def _dtype(call: SdpaCall, taken: tuple[DType, ...]) -> Refusal | None:
    names = " or ".join(kind.name for kind in taken)
    return None if call.dtype in taken else Refusal(f"it takes {names}, not {call.dtype}", names)


def _grouped_heads(call: SdpaCall, backends: Backends) -> Refusal | None:
    q, k, v = (shape[1] for shape in (call.query, call.key, call.value))
    if not call.gqa:
        return _equal_heads(call, backends)
    return _batches(call) or (None if k == v and q % k == 0 else _uneven(q, k, v))


def _cudnn_heads(call: SdpaCall, backends: Backends) -> Refusal | None:
    q, k, v = (shape[1] for shape in (call.query, call.key, call.value))
    if backends.torch < (2, 8):  # it did not look at heads yet
        return None
    if not call.gqa:
        return _equal_heads(call, backends)
    return _batches(call) or (None if q % k == q % v == 0 else _uneven(q, k, v))


def _efficient_heads(call: SdpaCall, backends: Backends) -> Refusal | None:
    """Grouped heads from torch 2.14 on (pytorch/pytorch#191085)."""
    return _equal_heads(call, backends) if backends.torch < (2, 14) else _grouped_heads(call, backends)


def _uneven(q: int, k: int, v: int) -> Refusal:
    return Refusal(f"{q} query heads cannot share {k} key and {v} value heads", "head counts that divide the query's")


def _equal_heads(call: SdpaCall, backends: Backends) -> Refusal | None:
    """Equal head counts; from torch 2.14 on, a single key and value head too, without enable_gqa."""
    q, k, v = (shape[1] for shape in (call.query, call.key, call.value))
    if q == k == v or (k == v == 1 and backends.arch and backends.torch >= (2, 14)):
        return _batches(call)
    return Refusal(
        f"it takes as many key and value heads as query heads, these are {q}, {k} and {v}",
        "key and value repeated for each query head" if call.gqa else "enable_gqa=True, or key and value repeated",
    )


def _batches(call: SdpaCall) -> Refusal | None:
    sizes = [shape[0] for shape in (call.query, call.key, call.value)]
    if len(set(sizes)) == 1:
        return None
    return Refusal("it takes one batch size, not {}, {} and {}".format(*sizes), "key and value expanded to the batch")


def _lengths(call: SdpaCall, _: Backends) -> Refusal | None:
    empty = 0 in (call.query[-2], call.key[-2])
    return Refusal("a sequence is empty", "sequences of one token or more") if empty else None


def _unit_stride(call: SdpaCall, backends: Backends) -> Refusal | None:
    # Of one channel the stride is never used (check_last_dim_stride_equals_1_dense, ignore_singleton_dim).
    return None if call.query[-1] == 1 and not call.mask else _unit_stride_always(call, backends)


def _unit_stride_always(call: SdpaCall, backends: Backends) -> Refusal | None:
    if not call.unit_stride:
        return Refusal("the last dimension is not contiguous", "query, key and value made contiguous")
    if backends.arch and call.mask and call.mask.last_stride != 1:
        return Refusal("the mask's last dimension is not contiguous", "the mask made contiguous")
    return None


def _efficient_head_dim(call: SdpaCall, backends: Backends) -> Refusal | None:
    """check_head_dim_size_mem_efficient, with minimum_gemm_alignment."""
    q, k, v = call.head_dims
    half = call.dtype.itemsize == 2
    # Tensor cores load 16 bytes at a time: from 8.0 on also of fp32 (as TF32); before 7.0 there are none.
    unit = (8 if half else 4) if backends.arch >= 80 else (8 if half and backends.arch >= 70 else 1)
    if q == k and not (q % unit or v % unit) and q and v:
        return None
    if q != k:
        return Refusal(f"query and key differ in head dim, {q} and {k}", "query and key of one head dim")
    return Refusal(f"its head dims are multiples of {unit}, these are {q} and {v}", f"padding to a multiple of {unit}")


def _rocm_efficient_head_dim(call: SdpaCall, backends: Backends) -> Refusal | None:
    """Before torch 2.13 flash attention's rule too (check_head_dim_size_flash, caller_is_meff)."""
    equal = None if backends.torch >= (2, 13) else _equal_head_dims(call, backends)
    return _widest_head_dim(call, backends) or equal or _efficient_head_dim(call, backends)


def _rocm_efficient_heads(call: SdpaCall, backends: Backends) -> Refusal | None:
    """Torch 2.14 changed nothing here: neither grouped heads nor a single one for all."""
    return _equal_heads(call, backends._replace(torch=(2, 13)))


def _rocm_mask_dtype(call: SdpaCall, _: Backends) -> Refusal | None:
    if call.mask is None or call.mask.dtype in (bool_, call.dtype):
        return None
    return Refusal(f"its mask is bool or {call.dtype}, not {call.mask.dtype}", "the mask cast to the query's type")


def _efficient_offset(call: SdpaCall, backends: Backends) -> Refusal | None:
    if call.aligned or backends.arch < 80 or backends.torch < (2, 13):
        return None
    return Refusal("a tensor begins at no multiple of 16 bytes", "a copy (clone) of the view")


def _mask_shape(call: SdpaCall, _: Backends) -> Refusal | None:
    """check_attn_mask_shape: each size is the scores' or 1; two dimensions or four."""
    if call.mask is None:
        return None
    if call.mask.needs_grad:
        return Refusal("the mask gets a gradient", "a mask without one (detach)")
    scores = (*call.query[:2], call.query[-2], call.key[-2])
    fitting = len(call.mask.shape) in (2, 4) and all(
        own in (1, size) for own, size in zip(call.mask.shape[::-1], scores[::-1], strict=False)
    )
    if fitting:
        return None
    return Refusal(f"a mask of {call.mask.shape} does not fit", "a mask of (1 or batch, 1 or heads, queries, keys)")


def _cudnn_deterministic(call: SdpaCall, _: Backends) -> Refusal | None:
    return Refusal("it is not deterministic", "use_deterministic_algorithms(False)") if call.deterministic else None


def _cudnn_shapes(call: SdpaCall, backends: Backends) -> Refusal | None:
    """check_cudnn_tensor_shapes; a grid's limit for batch and heads."""
    if max(call.query[:2]) > MOST_BLOCKS and backends.torch >= (2, 13):
        return Refusal(f"batch and heads end at {MOST_BLOCKS:,}", "a smaller batch")
    d, v = call.query[-1], call.value[-1]
    most = _cudnn_most(d, v, backends)
    if max(d, v) > most:
        return Refusal(f"its head dims end at {most}, these are {d} and {v}", f"head dims of {most} or less")
    if d % 8 or v % 8:
        return Refusal(f"its head dims are multiples of 8, these are {d} and {v}", "padding to a multiple of 8")
    return None if backends.torch < (2, 6) else _cudnn_single(call, backends)


def _cudnn_single(call: SdpaCall, backends: Backends) -> Refusal | None:
    """A sequence of one token: one key is refused, one query before torch 2.9, and since 2.14 on Blackwell.

    The last is is_cudnn_attention_decode_disabled, for the cuDNN in that wheel.
    """
    if call.key[-2] == 1:
        return Refusal("there is one key", "two keys or more")
    single = backends.torch < (2, 9) or (backends.torch >= (2, 14) and backends.arch // 10 in (10, 11))
    if call.query[-2] == 1 and single:
        return Refusal("there is one query", "two queries or more")
    if call.query[-2] == 1 and call.dropout:
        return Refusal("there is one query, with dropout", "no dropout")
    return None


def _cudnn_training(call: SdpaCall, backends: Backends) -> Refusal | None:
    """check_cudnn_d256_bprop_head_dim, since torch 2.14."""
    dims = call.query[-1], call.value[-1]
    if not call.needs_grad or backends.torch < (2, 14) or max(dims) <= 128 or dims in ((192, 128), (256, 256)):
        return None
    return Refusal("it does not train head dims of {} and {}".format(*dims), "head dims of 128 or less, or of 256")


def _cudnn_most(head_dim: int, value_dim: int, backends: Backends) -> int:
    # 256 channels need cuDNN's kernels for them (pytorch/pytorch#149904, #152076); 192 with values of 128 are
    # DeepSeek's (#172621).
    if backends.arch == 90 and backends.torch >= (2, 8):
        return 256
    if backends.arch // 10 == 10 and backends.torch >= (2, 14):
        return 256
    deepseek = backends.arch // 10 == 10 and backends.torch >= (2, 11) and (head_dim, value_dim) == (192, 128)
    return 192 if deepseek else 128


def _cudnn_dropout(call: SdpaCall, backends: Backends) -> Refusal | None:
    """pytorch/pytorch#174245: the kernel draws in sixteenths."""
    if backends.torch < (2, 12) or (16.0 * call.dropout).is_integer():
        return None
    return Refusal(f"its dropout is a multiple of 1/16, this is {call.dropout:g}", "a multiple of 1/16, such as 0.125")


def _no_cudnn(_call: SdpaCall, _backends: Backends) -> Refusal | None:
    return Refusal("PyTorch for AMD has no cuDNN", "an NVIDIA GPU")


def _no_dropout(call: SdpaCall, _: Backends) -> Refusal | None:
    return Refusal("it has no dropout", "dropout_p=0") if call.dropout else None


_FILTERS: dict[str, tuple[Filter, ...]] = {
    FLASH: (
        _rank, _no_mask, _flash_head_dim, _from_sm80, _flash_training, _flash_causal, _half, _grouped_heads, _lengths,
        _unit_stride,
    ),
    EFFICIENT: (
        _from_sm50, _rank, _efficient_head_dim, _efficient_offset, _lengths, _unit_stride_always, _efficient_heads,
        _efficient_dtype,
    ),
    CUDNN: (
        _rank, _cudnn_deterministic, _half, _mask_shape, _from_sm80, _cudnn_dropout, _lengths, _unit_stride,
        _cudnn_heads, _cudnn_shapes, _cudnn_training,
    ),
}  # fmt: skip
_CUDNN_BEFORE_2_9: tuple[Filter, ...] = (
    _lengths, _rank, _cudnn_shapes, _cudnn_deterministic, _half, _mask_shape, _from_sm80, _unit_stride, _cudnn_heads,
)  # fmt: skip
_ON_ROCM: dict[str, tuple[Filter, ...]] = {
    FLASH: (_rank, _no_mask, _flash_head_dim, _aotriton, _flash_causal, _half, _grouped_heads, _lengths, _unit_stride),
    EFFICIENT: (
        _aotriton, _rank, _rocm_efficient_head_dim, _lengths, _unit_stride_always, _rocm_efficient_heads,
        _rocm_mask_dtype, _efficient_dtype,
    ),
    CUDNN: (_no_cudnn,),
}  # fmt: skip
_ON_CPU: tuple[Filter, ...] = (
    _no_dropout, _rank, _grouped_heads, _mask_shape, _equal_head_dims, _lengths, _unit_stride_always, _cpu_dtype,
)  # fmt: skip
