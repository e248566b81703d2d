"""Optimizers as operations on parameters, gradients and states, as torch.optim runs them.

Step counters are numbers on the host, but for fused AdamW's. Updates change parameters and states in place, without
autograd. Constants are those of a usual setting: they change no memory.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from memmodel_kernels.kernel import kernel
from memmodel_kernels.namespace import namespace, same_scope

Tensors = Sequence[Any]
States = Sequence[Tensors]  # for each kind of state, that of each parameter


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        title: for people.
        states: makes the states of a parameter, one of each kind.
        update: takes parameters, gradients and the states of each kind, as lists.
        matrices: whether it updates the matrices of layers alone, and AdamW the other parameters.
    """

    title: str
    states: Callable[[Any], tuple[Any, ...]]
    update: Callable[..., None]
    matrices: bool = False

    def fresh(self, parameters: Tensors) -> States:
        """States of every parameter, as the first step makes them."""
        made = []
        for parameter in parameters:
            with same_scope(parameter):
                made.append(self.states(parameter))
        return list(zip(*made, strict=True))


def _none(parameter: Any) -> tuple[Any, ...]:
    return ()


def _momentum(parameter: Any) -> tuple[Any, ...]:
    return (parameter.new_zeros(parameter.shape),)


# In the parameter's own dtype (zeros_like in torch/optim/adam.py), also where that is bf16.
def _moments(parameter: Any) -> tuple[Any, ...]:
    return parameter.new_zeros(parameter.shape), parameter.new_zeros(parameter.shape)


def _moments_and_step(parameter: Any) -> tuple[Any, ...]:
    return *_moments(parameter), parameter.new_zeros((), dtype=namespace(parameter).float32)


def sgd(parameters: Tensors, gradients: Tensors) -> None:
    """Stochastic gradient descent (_multi_tensor_sgd of torch/optim/sgd.py)."""
    namespace(parameters[0])._foreach_add_(parameters, gradients, alpha=-0.001)


def momentum(parameters: Tensors, gradients: Tensors, buffers: Tensors) -> None:
    """Stochastic gradient descent with momentum."""
    xp = namespace(parameters[0])
    xp._foreach_mul_(buffers, 0.9)
    xp._foreach_add_(buffers, gradients, alpha=1)
    xp._foreach_add_(parameters, buffers, alpha=-0.001)


def adamw_foreach(parameters: Tensors, gradients: Tensors, first: Tensors, second: Tensors) -> None:
    """AdamW on lists (_multi_tensor_adam of torch/optim/adam.py): the root of every second moment exists at once."""
    xp = namespace(parameters[0])
    xp._foreach_mul_(parameters, 0.999)
    xp._foreach_lerp_(first, gradients, 0.1)
    xp._foreach_mul_(second, 0.999)
    xp._foreach_addcmul_(second, gradients, gradients, 0.001)
    roots = xp._foreach_sqrt(second)
    # By the root of the bias correction, a number.
    xp._foreach_div_(roots, 0.5)
    xp._foreach_add_(roots, 1e-8)
    xp._foreach_addcdiv_(parameters, first, roots, -0.001)


def adamw_loop(parameters: Tensors, gradients: Tensors, first: Tensors, second: Tensors) -> None:
    """AdamW one tensor after the other (_single_tensor_adam): its temporaries are those of two parameters at most."""
    for parameter, gradient, mean, square in zip(parameters, gradients, first, second, strict=True):
        with same_scope(parameter):
            parameter.mul_(0.999)
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            denominator = (square.sqrt() / 0.5).add_(1e-8)
            parameter.addcdiv_(mean, denominator, value=-0.001)


def adamw_fused(parameters: Tensors, gradients: Tensors, first: Tensors, second: Tensors, steps: Tensors) -> None:
    """AdamW in one kernel (_fused_adam), with step counters on the device."""
    xp = namespace(parameters[0])
    # The kernel reads the step on the device, where other variants read a number on the host.
    xp._foreach_add_(steps, 1)
    xp._fused_adamw_(
        parameters, gradients, first, second, [], steps, amsgrad=False, lr=0.001, beta1=0.9, beta2=0.999,
        weight_decay=0.01, eps=1e-8, maximize=False,
    )  # fmt: skip


_BLOCK, _SMALL = 256, 4096  # elements that share a scale; smaller tensors keep states in fp32


def _blockwise(parameter: Any) -> tuple[Any, ...]:
    """Two states in 8 bits with a scale a block, or in fp32 (bitsandbytes, optim/optimizer.py)."""
    xp, count = namespace(parameter), parameter.numel()
    if count < _SMALL:
        return *_in_fp32(parameter), None, None
    codes = tuple(parameter.new_zeros(parameter.shape, dtype=xp.uint8) for _ in range(2))
    return codes + tuple(parameter.new_zeros(-(-count // _BLOCK), dtype=xp.float32) for _ in range(2))


def adamw_8bit(parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
    """AdamW with states in 8 bits: a kernel a parameter, without temporaries (bitsandbytes)."""
    for parameter, gradient, *own in zip(parameters, gradients, *states, strict=True):
        with same_scope(parameter):
            _update_kernel("adamw_8bit", parameter, gradient, own)


def _of_torchao(parameter: Any) -> tuple[Any, ...]:
    """Two states in 8 bits, each with a scale a block and a table of the 256 values, or in the parameter's dtype."""
    xp, count = namespace(parameter), parameter.numel()
    if count < _SMALL or count % _BLOCK:
        return *_moments(parameter), None, None, None, None
    codes = tuple(parameter.new_zeros(parameter.shape, dtype=xp.uint8) for _ in range(2))
    return codes + tuple(parameter.new_zeros(n, dtype=xp.float32) for n in (count // _BLOCK, 256) for _ in range(2))


def adamw_8bit_compiled(parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
    """AdamW with states in 8 bits, each parameter's update compiled (single_param_adam of torchao/optim/adam.py).

    The decayed parameter and both moments exist in fp32: blocks' maxima, codes and the update read them, in kernels of
    their own. Beside them are the codes of one state.
    """
    for parameter, gradient, *own in zip(parameters, gradients, *states, strict=True):
        with same_scope(parameter):
            if own[-1] is None:  # all in one kernel
                _update_kernel("adamw", parameter, gradient, own)
                continue
            xp, codes, kept = namespace(parameter), own[:2], (parameter, *own)
            wide = [parameter.new_empty(parameter.shape, dtype=xp.float32) for _ in range(3)]
            with kernel("moments", reads=(gradient, *kept), writes=wide):
                pass
            for state in codes:
                code = parameter.new_empty(parameter.shape, dtype=xp.uint8)
                with kernel("codes", reads=wide[:1], writes=(code, state)):
                    pass
                del code
            with kernel("update", reads=wide, writes=(parameter,)):
                pass


def _in_fp32(parameter: Any) -> tuple[Any, ...]:
    wide = namespace(parameter).float32
    return tuple(parameter.new_zeros(parameter.shape, dtype=wide) for _ in range(2))


def adamw_32bit(parameters: Tensors, gradients: Tensors, *states: Tensors) -> None:
    """AdamW with states in fp32 whatever the parameters: a kernel a parameter, without temporaries (bitsandbytes)."""
    for parameter, gradient, *own in zip(parameters, gradients, *states, strict=True):
        with same_scope(parameter):
            _update_kernel("adamw_32bit", parameter, gradient, own)


def _update_kernel(name: str, parameter: Any, gradient: Any, states: Iterable[Any]) -> None:
    """A library's kernel that updates a parameter and its states in place; its arithmetic is not repeated here."""
    kept = [state for state in states if state is not None]
    with kernel(name, reads=(gradient, parameter, *kept), writes=(parameter, *kept)):
        pass


def _factored(parameter: Any) -> tuple[Any, ...]:
    """Row and column factors of the second moment of a matrix, the whole of a vector's."""
    if parameter.dim() < 2:
        return parameter.new_zeros(parameter.shape), None
    *outer, rows, columns = parameter.shape
    return parameter.new_zeros((*outer, rows, 1)), parameter.new_zeros((*outer, 1, columns))


def adafactor(parameters: Tensors, gradients: Tensors, rows: Tensors, columns: Tensors) -> None:
    """Adafactor, one tensor after the other (_single_tensor_adafactor of torch/optim/_adafactor.py)."""
    for parameter, gradient, row, column in zip(parameters, gradients, rows, columns, strict=True):
        with same_scope(parameter):
            # The host reads both norms: the step is relative to the parameter's, and limited by the update's.
            parameter.norm(2)
            parameter.mul_(0.999)
            if column is not None:
                # A mean of squares by way of the norm, which makes no tensor of the gradient's size.
                row_mean = gradient.norm(2, -1, True).square_().div_(2)
                row.lerp_(row_mean, 0.5)
                column_mean = gradient.norm(2, -2, True).square_().div_(2)
                column.lerp_(column_mean, 0.5)
                estimate = row @ column
                estimate.div_(row.mean(-2, keepdim=True).clamp_(min=1e-8))
            else:
                squared = gradient * gradient
                row.lerp_(squared, 0.5)
                estimate = row.clone()
            update = estimate.clamp_(min=1e-16).rsqrt_()
            update.mul_(gradient)
            update.norm(2)
            parameter.add_(update, alpha=-0.001)


def muon(parameters: Tensors, gradients: Tensors, buffers: Tensors) -> None:
    """Muon on matrices (_single_tensor_muon of torch/optim/_muon.py)."""
    for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
        with same_scope(parameter):
            buffer.lerp_(gradient, 0.05)
            update = gradient.lerp(buffer, 0.95)
            update = _orthogonal(update)
            parameter.mul_(0.999)
            parameter.add_(update, alpha=-0.001)


def _orthogonal(gradient: Any) -> Any:
    """Five Newton-Schulz iterations in bf16 towards the nearest orthogonal matrix (_zeropower_via_newtonschulz)."""
    xp = namespace(gradient)
    result = gradient.bfloat16()
    tall = gradient.shape[0] > gradient.shape[1]
    # The Gram matrix is then the smaller of the two.
    if tall:
        result = result.T
    result.div_(result.norm().clamp(min=1e-7))
    for _ in range(5):
        gram = result @ result.T
        # DEFAULT_A, DEFAULT_B and DEFAULT_C there.
        mixed = xp.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        result = xp.addmm(result, mixed, result, beta=3.4445)
    return result.T if tall else result


OPTIMIZERS = {
    "adamw": Optimizer("AdamW on lists, PyTorch's default", _moments, adamw_foreach),
    "adamw-fused": Optimizer("AdamW in one kernel", _moments_and_step, adamw_fused),
    "adamw-loop": Optimizer("AdamW tensor by tensor", _moments, adamw_loop),
    "adamw-8bit": Optimizer("AdamW with 8-bit states, as bitsandbytes", _blockwise, adamw_8bit),
    "adamw-8bit-torchao": Optimizer("AdamW with 8-bit states, as torchao", _of_torchao, adamw_8bit_compiled),
    "adamw-32bit": Optimizer("AdamW with fp32 states, as bitsandbytes", _in_fp32, adamw_32bit),
    "sgd": Optimizer("SGD", _none, sgd),
    "momentum": Optimizer("SGD with momentum", _momentum, momentum),
    "adafactor": Optimizer("Adafactor", _factored, adafactor),
    "muon": Optimizer("Muon, with AdamW on what is no matrix of a layer", _momentum, muon, matrices=True),
}
