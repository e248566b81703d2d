"""einsum of two tensors, as ATen carries it out: permuted and reshaped onto one batched matrix product.

Source: aten/src/ATen/native/Linear.cpp (einsum, sumproduct_pair).
"""

from memmodel.dims import Dim, product, same
from memmodel.errors import UsageError
from memmodel.recording.ops_matmul import Bmm
from memmodel.recording.ops_view import permute, reshape, squeeze, unsqueeze, view
from memmodel.recording.tensor import Tensor


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """The sum of products that `equation` names, such as "bhqd,bhkd->bhqk"; two operands, `...` for leading dims."""
    inputs, output = _labels(equation, operands)
    summed = sorted({label for labels in inputs for label in labels} - set(output))
    order = [*output, *summed]
    left, right = (_aligned(x, labels, order) for x, labels in zip(operands, inputs, strict=True))
    sums = list(range(len(output), len(order)))
    for i in sums:
        if same(left.shape[i], 1) or same(right.shape[i], 1):
            raise UsageError(f"einsum {equation!r}: {order[i]} is summed in one operand only; sum it before")
    return _product(left, right, sums)


def _labels(equation: str, operands: tuple[Tensor, ...]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, `...` spelled out."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if not arrow or len(inputs) != 2 or len(operands) != 2:
        raise UsageError(f"einsum {equation!r}: recording tensors take two operands and an explicit result")
    widest = max(x.ndim - len(labels.replace("...", "")) for x, labels in zip(operands, inputs, strict=True))
    dots = "0123456789"[:widest]
    spelled = []
    for x, labels in zip(operands, inputs, strict=True):
        own = x.ndim - len(labels.replace("...", ""))
        spelled.append(labels.replace("...", dots[len(dots) - own :] if own else ""))
        if len(spelled[-1]) != x.ndim or len(set(spelled[-1])) != x.ndim:
            raise UsageError(f"einsum {equation!r}: {labels} does not name each dimension of shape {x.shape} once")
    return spelled, output.replace("...", dots)


def _aligned(x: Tensor, labels: str, order: list[str]) -> Tensor:
    """The tensor with its dimensions in `order`, ones where it lacks a label."""
    position = {label: i for i, label in enumerate(labels)}
    for label in order:
        if label not in position:
            position[label] = x.ndim
            x = unsqueeze(x, -1)
    return permute(x, tuple(position[label] for label in order))


def _product(left: Tensor, right: Tensor, sums: list[int]) -> Tensor:
    """Dimensions of both, of the left, of the right; the summed ones in the middle of one matrix product."""
    rest = [i for i in range(left.ndim) if i not in sums]
    shared = [i for i in rest if not same(left.shape[i], 1) and not same(right.shape[i], 1)]
    of_left = [i for i in rest if i not in shared and not same(left.shape[i], 1)]
    of_right = [i for i in rest if i not in shared and i not in of_left]
    batch = _size(left, shared)
    a = reshape(permute(left, (*shared, *of_left, *sums, *of_right)), batch, _size(left, of_left), _size(left, sums))
    b = reshape(
        permute(right, (*shared, *sums, *of_right, *of_left)), batch, _size(right, sums), _size(right, of_right)
    )
    out = Bmm.apply(a, b)
    shape = [*(left.shape[i] for i in (*shared, *of_left)), *(1 for _ in sums), *(right.shape[i] for i in of_right)]
    order = [*shared, *of_left, *sums, *of_right]
    result = permute(view(out, *shape), tuple(order.index(i) for i in range(left.ndim)))
    for i in reversed(sums):
        result = squeeze(result, i)
    return result


def _size(x: Tensor, dims: list[int]) -> Dim:
    return product(x.shape[i] for i in dims)
