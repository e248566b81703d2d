"""The dense feed-forward of a layer: two linear layers and an activation, or three where one is a gate."""

from collections.abc import Callable, Mapping
from typing import Any

from memmodel_kernels.linear import linear
from memmodel_kernels.namespace import functional

ACTIVATION: dict[str, Callable[[Any, Any], Any]] = {
    "silu": lambda f, x: f.silu(x),
    "gelu": lambda f, x: f.gelu(x),
    "gelu-tanh": lambda f, x: f.gelu(x, approximate="tanh"),
    "relu": lambda f, x: f.relu(x),
    "relu2": lambda f, x: f.relu(x).pow(2),
}


def feed_forward(
    x: Any, weights: Mapping[str, Any], activation: str, name: str = "ffn", adapter_dropout: float = 0.0
) -> Any:
    """act(x W_up) W_down, or act(x W_gate) * (x W_up) W_down; x (b, n, h)."""

    def project(value: Any, part: str) -> Any:
        return linear(value, weights, f"{name}.{part}", adapter_dropout)

    act = activated(x, activation)
    if not activation.endswith("glu"):
        return project(act(project(x, "up")), "down")
    if f"{name}.gate_up.weight" in weights:
        gate, up = project(x, "gate_up").chunk(2, dim=-1)
        return project(up * act(gate), "down")
    return project(act(project(x, "gate")) * project(x, "up"), "down")


def activated(x: Any, activation: str) -> Callable[[Any], Any]:
    """The activation as a function, by its name in an architecture."""
    function, library = ACTIVATION[activation.removesuffix("-glu")], functional(x)
    return lambda value: function(library, value)
