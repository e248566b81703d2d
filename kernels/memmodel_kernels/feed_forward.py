"""The dense feed-forward of a layer: two linear layers and an activation, or three where one is a gate."""

from collections.abc import Callable, Mapping
from typing import Any

from memmodel_kernels.fused import fused
from memmodel_kernels.linear import columns, row
from memmodel_kernels.namespace import functional
from memmodel_kernels.parallel.tensor import TensorParallel


def _gelu_by_hand(x: Any) -> Any:
    """GELU's approximation by tanh in plain operators (NewGELUActivation of transformers)."""
    return 0.5 * x * (1.0 + (0.7978845608 * (x + 0.044715 * x.pow(3.0))).tanh())


ACTIVATION: dict[str, Callable[[Any, Any], Any]] = {
    "silu": lambda f, x: f.silu(x),
    "gelu": lambda f, x: f.gelu(x),
    "gelu-tanh": lambda f, x: f.gelu(x, approximate="tanh"),
    "gelu-new": lambda f, x: _gelu_by_hand(x),
    "relu": lambda f, x: f.relu(x),
    "relu2": lambda f, x: f.relu(x).pow(2),
}


def feed_forward(
    x: Any,
    weights: Mapping[str, Any],
    activation: str,
    name: str = "ffn",
    adapter_dropout: float = 0.0,
    tensor: TensorParallel | None = None,
    compiled: bool = False,
    dropout: float = 0.0,
    held: list[Any] | None = None,
) -> Any:
    """act(x W_up) W_down, or act(x W_gate) * (x W_up) W_down; x (b, n, h). `tensor`: ranks that share the weights.

    `compiled`: what is between the products is one kernel. `dropout`: probability, on what W_down multiplies, which
    goes to `held` too where that is given.
    """

    def up(*parts: str) -> list[Any]:
        return columns(x, weights, [f"{name}.{part}" for part in parts], tensor, adapter_dropout)

    def down(value: Any) -> Any:
        if held is not None:
            held.append(value)
        value = functional(value).dropout(value, dropout, True) if dropout else value
        return row(value, weights, f"{name}.down", tensor, adapter_dropout)

    if not activation.endswith("glu"):
        return down(activated(up("up")[0], activation, compiled))
    if f"{name}.gate_up.weight" in weights:
        gate, through = up("gate_up")[0].chunk(2, dim=-1)
        return down(gated(gate, through, activation, compiled) if compiled else through * activated(gate, activation))
    # The gate is activated before the other exists, as by Hugging Face's act_fn(gate_proj(x)) * up_proj(x).
    if tensor is None and not compiled:
        return down(activated(up("gate")[0], activation) * up("up")[0])
    gate, through = up("gate", "up")  # one input, gathered once
    return down(gated(gate, through, activation, compiled))


def through(hidden: Any, activation: str, compiled: bool = False) -> Any:
    """The activation of a hidden layer, of which the halves are gate and values where there is a gate."""
    if not activation.endswith("glu"):
        return activated(hidden, activation, compiled)
    gate, up = hidden.chunk(2, dim=-1)
    return gated(gate, up, activation, compiled)


def activated(x: Any, activation: str, compiled: bool = False) -> Any:
    """The activation of x, by its name in an architecture; `compiled`: in one kernel."""
    if compiled:

        def activation_of(x: Any) -> Any:
            return activated(x, activation)

        return fused(activation_of, x)
    return ACTIVATION[activation.removesuffix("-glu")](functional(x), x)


def gated(gate: Any, up: Any, activation: str, compiled: bool = False) -> Any:
    """The activation of a gate times what it lets through; gpt-oss clamps both, and adds one to that.

    `compiled`: in one kernel.
    """
    if compiled:

        def gated_unit(gate: Any, up: Any) -> Any:
            return gated(gate, up, activation)

        return fused(gated_unit, gate, up)
    if activation != "clamped-swiglu":
        return activated(gate, activation) * up
    gate = gate.clamp(max=7.0)
    up = up.clamp(min=-7.0, max=7.0)
    return (up + 1) * (gate * (gate * 1.702).sigmoid())
