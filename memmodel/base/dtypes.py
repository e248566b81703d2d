"""Element types: name, bytes per element, and type promotion."""

from typing import Any

from memmodel.base.errors import UsageError, unknown
from memmodel.base.frozen import Frozen


class DType(Frozen):
    """An element type. `itemsize` is in bytes; `name` is torch's name for it."""

    name: str
    itemsize: int
    floating: bool = True

    # There is one object for each type (`element_type`), which keys of rules are full of.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __reduce__(self) -> "tuple[Any, ...]":
        return element_type, (self.name, self.itemsize, self.floating)

    def __str__(self) -> str:
        return self.name


float64 = DType("float64", 8)
float32 = DType("float32", 4)
float16 = DType("float16", 2)
bfloat16 = DType("bfloat16", 2)
int64 = DType("int64", 8, floating=False)
int32 = DType("int32", 4, floating=False)
float8_e4m3fn = DType("float8_e4m3fn", 1)
float8_e5m2 = DType("float8_e5m2", 1)
FP8 = (float8_e4m3fn, float8_e5m2)
uint64 = DType("uint64", 8, floating=False)
uint8 = DType("uint8", 1, floating=False)
bool_ = DType("bool", 1, floating=False)
_FLOATING = (float64, float32, float16, bfloat16, *FP8)
_KNOWN = {t.name: t for t in (*_FLOATING, int64, int32, uint64, uint8, bool_)}


def element_type(name: str, itemsize: int, floating: bool) -> DType:
    """The element type of that name: always the same object, so that types can be compared by `is`."""
    return _KNOWN.setdefault(name, DType(name, itemsize, floating))


def promote(a: DType, b: DType) -> DType:
    """The type that an operator on both computes in (torch.promote_types)."""
    if a is b:
        return a
    low, high = sorted((a, b), key=lambda t: (_category(t), t.itemsize))
    if _category(low) < _category(high):
        return high
    if {low.name, high.name} == {"float16", "bfloat16"}:
        return float32
    if {low.name, high.name} == {"uint8", "int8"}:
        return element_type("int16", 2, floating=False)
    return high


def _category(kind: DType) -> int:
    if kind.name.startswith("complex"):
        return 3
    return 2 if kind.floating else 0 if kind.name == "bool" else 1


_SHORT = {
    "fp64": float64,
    "fp32": float32,
    "fp16": float16,
    "bf16": bfloat16,
    "half": float16,
    "float": float32,
}
_LONG = {t.name: t for t in (float64, float32, float16, bfloat16)}
_FP8 = {
    "fp8": float8_e4m3fn,
    "fp8_e4m3": float8_e4m3fn,
    "fp8_e5m2": float8_e5m2,
    **{t.name: t for t in FP8},
}


def dtype(name: "str | DType", fp8: bool = False) -> DType:
    """The floating type called `name`: torch's name or the short form (`bf16`); those of 8 bits where `fp8` says so.

    Raises UsageError for others.
    """
    if isinstance(name, DType):
        return name
    found = (_SHORT | _LONG | (_FP8 if fp8 else {})).get(str(name).casefold().removeprefix("torch."))
    if found is None:
        if str(name).casefold().startswith(("fp8", "float8", "fp4", "fp6", "int")):
            raise UsageError(f"dtype {name} is not modelled yet: take fp16, bf16, fp32 or fp64")
        raise unknown("dtype", name, ["fp16", "bf16", "fp32", "fp64"])
    return found


def cache_dtype(name: "str | DType") -> DType:
    """The type of a KV cache called `name`, as servers call it: also "fp8", "fp8_e4m3" and "fp8_e5m2".

    Raises UsageError for others.
    """
    if isinstance(name, DType):
        return name
    found = (_SHORT | _LONG | _FP8).get(str(name).casefold().removeprefix("torch."))
    if found is None:
        raise unknown("cache dtype", name, ["bf16", "fp16", "fp32", "fp8", "fp8_e4m3", "fp8_e5m2"])
    return found


def peak_name(kind: DType) -> str:
    """The name of a GPU's peak for products of this type: one for both kinds of fp8."""
    return "fp8" if kind in FP8 else short_name(kind)


def short_name(kind: DType) -> str:
    """The field's short form: `bf16` for `bfloat16`."""
    short = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
    return {**short, "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"}.get(kind.name, kind.name)
