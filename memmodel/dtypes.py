"""Element types: name, bytes per element, and the pipe that a matrix product of them runs on."""

from dataclasses import dataclass

from memmodel.errors import UsageError, unknown


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. `itemsize` is in bytes; `name` is torch's name for it."""

    name: str
    itemsize: int
    floating: bool = True

    def __str__(self) -> str:
        return self.name


float64 = DType("float64", 8)
float32 = DType("float32", 4)
float16 = DType("float16", 2)
bfloat16 = DType("bfloat16", 2)
int64 = DType("int64", 8, floating=False)
int32 = DType("int32", 4, floating=False)
uint8 = DType("uint8", 1, floating=False)
bool_ = DType("bool", 1, floating=False)

_SHORT = {
    "fp64": float64,
    "fp32": float32,
    "fp16": float16,
    "bf16": bfloat16,
    "half": float16,
    "float": float32,
}
_LONG = {t.name: t for t in (float64, float32, float16, bfloat16)}


def dtype(name: "str | DType") -> DType:
    """The floating type called `name`: torch's name or the short form (`bf16`). Raises UsageError for others."""
    if isinstance(name, DType):
        return name
    found = (_SHORT | _LONG).get(str(name).casefold().removeprefix("torch."))
    if found is None:
        if str(name).casefold().startswith(("fp8", "float8", "fp4", "fp6", "int")):
            raise UsageError(f"dtype {name} is not modelled yet: take fp16, bf16, fp32 or fp64")
        raise unknown("dtype", name, ["fp16", "bf16", "fp32", "fp64"])
    return found


def short_name(kind: DType) -> str:
    """The field's short form: `bf16` for `bfloat16`."""
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}.get(kind.name, kind.name)
