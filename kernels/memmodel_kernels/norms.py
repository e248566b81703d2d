"""Norms over the last dimension, as models write them."""

from collections.abc import Callable, Mapping
from typing import Any

from memmodel_kernels.namespace import functional, namespace, scope

EPS = 1e-6


def norm(x: Any, weights: Mapping[str, Any], name: str, kind: str, fused: bool = False, compiled: bool = False) -> Any:
    """The norm called `name` of x (..., h), of a kind of `memmodel.models.architecture.NORMS`.

    `fused`: by the library's one function (F.rms_norm), instead of operators in fp32 as Hugging Face's classes.
    `compiled`: every kind as that function, whose kernels read and write what the compiler's do.
    """
    with scope(x, part="norms"):
        if kind == "layernorm":
            return _layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        if kind == "layernorm-no-weight":  # in fp32 (OlmoLayerNorm)
            return _layer_norm(x.to(namespace(x).float32)).to(x.dtype)
        weight = weights[f"{name}.weight"]
        if kind == "layernorm-native-no-bias":
            return _layer_norm(x, weight)
        if kind == "layernorm-no-bias":
            return _layer_norm(x, weight) if compiled else _layer_norm_by_hand(x, weight)
        if compiled or (fused and kind == "rmsnorm"):
            return functional(x).rms_norm(x, weight.shape, weight, EPS)
        return RMS_NORMS[kind](x, weight)


def rms_norm(x: Any, weight: Any) -> Any:
    """x / root mean square * weight, the statistics and the quotient in fp32 (LlamaRMSNorm)."""
    dtype = x.dtype
    return weight * _over_root_mean_square(x).to(dtype)


def rms_norm_in_fp32(x: Any, weight: Any) -> Any:
    """RMS norm, with the product by the weight in fp32 too (Olmo2RMSNorm)."""
    dtype = x.dtype
    return (weight * _over_root_mean_square(x)).to(dtype)


def rms_norm_of_t5(x: Any, weight: Any) -> Any:
    """RMS norm of which the statistics alone are of a copy in fp32 (T5LayerNorm)."""
    variance = x.to(namespace(x).float32).pow(2).mean(-1, keepdim=True)
    x = x * (variance + EPS).rsqrt()
    return weight * x.to(weight.dtype)


def _over_root_mean_square(x: Any) -> Any:
    x = x.to(namespace(x).float32)
    variance = x.pow(2).mean(-1, keepdim=True)
    return x * (variance + EPS).rsqrt()


def rms_norm_plus_one(x: Any, weight: Any) -> Any:
    """RMS norm times 1 + weight, in fp32 throughout (Gemma2RMSNorm)."""
    output = _over_root_mean_square(x)
    output = output * (1.0 + weight.float())
    return output.type_as(x)


def _layer_norm(x: Any, weight: Any = None, bias: Any = None) -> Any:
    return functional(x).layer_norm(x, x.shape[-1:], weight, bias)


def _layer_norm_by_hand(x: Any, weight: Any) -> Any:
    """Layer norm without a bias, in plain operators in fp32 (CohereLayerNorm)."""
    dtype, wide = x.dtype, namespace(x).float32
    x = x.to(wide)
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).pow(2).mean(-1, keepdim=True)
    x = (x - mean) * (variance + EPS).rsqrt()
    x = weight.to(wide) * x
    return x.to(dtype)


RMS_NORMS: dict[str, Callable[[Any, Any], Any]] = {
    "rmsnorm": rms_norm,
    "rmsnorm+1": rms_norm_plus_one,
    "rmsnorm-fp32": rms_norm_in_fp32,
    "rmsnorm-t5": rms_norm_of_t5,
}
