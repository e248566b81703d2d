"""What an operator does, from its shapes: FLOP by pipe, bytes read and written.

Matrix products, convolutions and fused attention count as `torch.utils.flop_counter` counts them (a multiply-add is
two); elementwise operators, reductions and softmax as the recording tensors do. Bytes are each operand once and each
result once. An operator that is in no table below moves its bytes and is reported as unknown.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from memmodel.dims import Dim, Shape, product
from memmodel.program import Launch
from memmodel.recording.device import Device
from memmodel.tracer.rules.kinds import kind_of, plain_dims
from memmodel.tracer.rules.scratch import reads_a_copy
from memmodel.work import Work

_GEMM = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
_EXPONENTIALS = {  # name: (other FLOP, exponentials) per element; logarithms, tanh and erf count as one exponential
    "exp": (0, 1),
    "exp2": (0, 1),
    "log": (0, 1),
    "log1p": (0, 1),
    "tanh": (0, 1),
    "sigmoid": (1, 1),
    "silu": (2, 1),
    "silu_backward": (5, 1),
    "gelu": (4, 1),
    "gelu_backward": (8, 1),
    "erf": (0, 1),
    "sin": (0, 1),
    "cos": (0, 1),
    "pow": (0, 2),
    "softplus": (2, 2),
}
_PER_ELEMENT = {  # FLOP per element, where it is not one
    "tanh_backward": 3,
    "sigmoid_backward": 3,
    "addcmul": 3,
    "addcdiv": 3,
    "lerp": 3,
    "native_dropout": 2,
    "native_dropout_backward": 2,
    "native_layer_norm": 6,
    "native_layer_norm_backward": 12,
    "_fused_rms_norm": 4,
    "_fused_rms_norm_backward": 10,
    "native_group_norm": 6,
    "native_batch_norm": 6,
    "_foreach_addcmul_": 3,
    "_foreach_addcdiv_": 3,
    "_foreach_lerp_": 3,
    "_fused_adamw_": 14,
    "_fused_adam_": 14,
    "nll_loss_forward": 1,
    "var_mean": 4,
    "cumsum": 1,
    "linalg_vector_norm": 2,
    "_foreach_norm": 2,
    "mse_loss": 3,
    "mse_loss_backward": 3,
}
_REDUCTIONS = {"sum", "mean", "amax", "amin", "prod", "any", "all", "argmax", "argmin", "max", "min"}
_MOVES = {  # bytes and no arithmetic
    "clone", "copy_", "_to_copy", "cat", "stack", "fill_", "zero_", "zeros", "ones", "full", "zeros_like", "ones_like",
    "full_like", "new_zeros", "new_ones", "new_full", "index", "index_put", "index_put_", "_unsafe_index", "gather",
    "scatter", "scatter_", "scatter_add", "scatter_add_", "index_select", "embedding", "embedding_dense_backward",
    "tril", "triu", "tril_", "triu_", "arange", "masked_fill", "masked_fill_", "constant_pad_nd", "repeat", "flip",
    "roll", "slice_backward", "select_backward", "repeat_interleave", "nll_loss_backward", "where", "eye",
    "scalar_tensor", "bernoulli_", "uniform_", "normal_", "randn", "rand", "randn_like", "rand_like", "bernoulli",
    "_foreach_copy_", "_foreach_zero_", "new_empty_strided", "lift_fresh", "randint", "linspace", "split_with_sizes",
    "unfold_backward", "as_strided_scatter", "slice_scatter", "select_scatter", "random_", "set_", "resize_", "topk",
    "sort", "copy", "masked_select", "empty_strided", "pixel_shuffle",
}  # fmt: skip
_SCATTERS = ("scatter", "index_put", "index_add")
_NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "detach", "alias",
            "lift_fresh", "scalar_tensor", "_local_scalar_dense", "_reshape_alias", "resize_", "set_")  # fmt: skip


def launches_of(func: Any, args: Any, kwargs: Any, out: Any, thread: str, device: Device) -> tuple[list[Launch], bool]:
    """The operator's kernels (none for a view), and whether its arithmetic is known."""
    namespace, _, op = func._schema.name.partition("::")
    given, made = _tensors((args, kwargs)), _tensors(out)
    if op in _NOTHING or is_view(func) or not (given or made):
        return [], True
    arithmetic, kind, sizes, known = _arithmetic(func, namespace, op, args, kwargs, out, given, made)
    read, written = _traffic(func, op, args, kwargs, given, made)
    typed = next((x for x in (*made, *given) if x.dtype.is_floating_point), (*made, *given)[0])
    shape = plain_dims((given[-1] if op.startswith(_SCATTERS) else (made or given)[0]).shape)
    parallel = sizes[0] if kind in ("softmax", "softmax_backward", "reduction", "argmax") else product(shape)
    cublas = kind == "gemm" and device.streams_gemm
    work = Work(*arithmetic, read=read, written=written)
    launch = Launch(op, work, kind_of(typed.dtype), thread, cublas, parallel, kind, sizes)
    if op == "_softmax_backward_data" and device.softmax_backward_scratch:
        return _softmax_backward(launch, args[0]), known
    if kind == "reduction" and reads_a_copy(op, args[0], made[0].dtype, device):
        return _of_a_copy(launch, args[0], made[0].dtype), known
    return [launch], known


def _of_a_copy(launch: Launch, x: Tensor, wanted: torch.dtype) -> list[Launch]:
    """A sum in another type: the copy, and the sum of that."""
    n, work, kind = product(plain_dims(x.shape)), launch.work, kind_of(wanted)
    copied = n * kind.itemsize
    cast = Launch("_to_copy", Work(0, 0, 0, work.read, copied), kind, launch.thread, False, n, "elementwise", ())
    return [cast, launch._replace(work=replace(work, read=copied))]


def _softmax_backward(launch: Launch, grad: Tensor) -> list[Launch]:
    """CUDA's two kernels: grad * output into a temporary, and the rest."""
    n, work = product(plain_dims(grad.shape)), launch.work
    first = launch._replace(
        name="mul", kind="elementwise", sizes=(), parallel=n, work=Work(0, n, 0, work.read, work.written)
    )
    whole = 2 * work.written  # the temporary and the output
    rest = Work(work.matmul, work.vector - n, work.exp, whole, work.written)
    return [first, launch._replace(work=rest)]


def _traffic(func: Any, op: str, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]) -> tuple[Dim, Dim]:
    """Bytes read and written: each operand and each result once; a scatter in place touches what it writes alone."""
    mutated = _mutated(func, args, kwargs)
    written = mutated or [x for x in made if not any(x is y for y in given)] or made
    read = given
    if op in ("fill_", "zero_", "copy_"):
        read = [x for x in given if x is not args[0]]
    elif op.startswith("new_") or op.endswith("_like"):
        read = []
    elif op.startswith(_SCATTERS) and any(x is given[0] for x in written):
        read, written = given[1:], given[-1:]
    return _total(map(_read, read)), _total(product(plain_dims(x.shape)) * x.element_size() for x in written)


_Arithmetic = tuple[tuple[Dim, Dim, Dim], str, Shape, bool]


def _arithmetic(
    func: Any, namespace: str, op: str, args: Any, kwargs: Any, out: Any, given: list[Tensor], made: list[Tensor]
) -> _Arithmetic:
    """(matmul, vector, exp), the kind of kernel and its sizes, whether that is known."""
    if op in _GEMM:
        a, b = (plain_dims(args[i].shape) for i in _GEMM[op])
        batch, (m, k), n = product(a[:-2]), a[-2:], b[-1]
        return (2 * batch * m * n * k, 0, 0), "gemm", (batch, m, n, k), True
    x = given[0] if given else made[0]
    shape = plain_dims(x.shape)
    n = product(shape)
    if op in ("_softmax", "_log_softmax"):
        length = shape[args[1]] if shape else 1
        return (0, 4 * n, n), "softmax", (_rows(shape, args[1]), length), True
    if op in ("_softmax_backward_data", "_log_softmax_backward_data"):
        return (0, 4 * n, 0), "softmax_backward", (_rows(shape, args[2]), shape[args[2]] if shape else 1), True
    if op in _REDUCTIONS:
        rows = product(plain_dims(made[0].shape)) if made else 1
        kind = "argmax" if len(made) > 1 or op.startswith("arg") else "reduction"
        per_row = _ratio(n, rows)
        return (0, n, 0), kind, (rows, per_row), True
    found = _by_element(func, namespace, op, args, given, made)
    return found or _registered(func, args, kwargs, out) or ((0, 0, 0), "elementwise", (), False)


def _registered(func: Any, args: Any, kwargs: Any, out: Any) -> _Arithmetic | None:
    """Convolutions, fused attention and the user's own operators, as PyTorch's counter has them."""
    from torch.utils.flop_counter import flop_registry  # imports Triton

    counted = flop_registry.get(func._overloadpacket)
    if counted is None:
        return None
    return (plain_dims((counted(*args, **kwargs, out_val=out),))[0], 0, 0), "elementwise", (), True


def _by_element(
    func: Any, namespace: str, op: str, args: Any, given: list[Tensor], made: list[Tensor]
) -> _Arithmetic | None:
    """Operators that do the same to every element; those on lists, to every element of the first list."""
    base = op.removesuffix("_")
    on_lists = op.startswith(("_foreach", "_fused_adam"))
    n = _total(product(plain_dims(x.shape)) for x in _tensors(args[:1])) if on_lists else _largest([*made, *given])
    if op in _MOVES or base in _MOVES:
        return (0, 0, 0), "elementwise", (), True
    if base in _EXPONENTIALS:
        vector, exp = _EXPONENTIALS[base]
        return (0, vector * n, exp * n), "elementwise", (), True
    if op in _PER_ELEMENT or base in _PER_ELEMENT:
        return (0, _PER_ELEMENT.get(op, _PER_ELEMENT.get(base, 1)) * n, 0), "elementwise", (), True
    if namespace == "aten" and (torch.Tag.pointwise in func.tags or on_lists):
        spread = not on_lists and any(x.dim() and plain_dims(x.shape) != plain_dims(made[0].shape) for x in given)
        return (0, n, 0), "broadcast" if spread else "elementwise", (n,) if spread else (), True
    return None


def _rows(shape: Shape, dim: int) -> Dim:
    if not shape:
        return 1
    d = dim % len(shape)
    return product((*shape[:d], *shape[d + 1 :]))


def _ratio(n: Dim, parts: Dim) -> Dim:
    return n // parts if isinstance(n, int) and isinstance(parts, int) else n / parts


def is_view(func: Any) -> bool:
    """Whether an operator allocates nothing: its results are on its operands' storages."""
    returned = func._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)


def _mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(value)
    for argument in func._schema.arguments:
        if argument.name in kwargs and argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(kwargs[argument.name])
    return found


def _read(x: Tensor) -> Dim:
    """Bytes to read a tensor once: dimensions repeated by a stride of 0 count once."""
    sizes = plain_dims(x.shape)
    kept = (
        size for size, stride in zip(sizes, x.stride(), strict=True) if not (isinstance(stride, int) and stride == 0)
    )
    return product(kept) * x.element_size()


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _largest(tensors: Iterable[Tensor]) -> Dim:
    """Elements of the tensor with the most."""

    def by_hint(x: Tensor) -> int:
        n = x.numel()
        return int(n.node.hint) if isinstance(n, torch.SymInt) else n

    return product(plain_dims(max(tensors, key=by_hint).shape))


def _total(parts: Iterable[Dim]) -> Dim:
    return sum(parts, start=0)
