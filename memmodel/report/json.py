"""Results as JSON: a result's fields are its keys, documented in docs/json.md, docs/trace.md and docs/pictures.md.

The table `_FORMS` holds the exceptions. Sizes are bytes, times seconds; expressions are text that
`sympy.sympify` reads.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from operator import attrgetter
from typing import Any

from memmodel.attention.case import SIZES, Case
from memmodel.base.dtypes import short_name
from memmodel.gpus import Gpu

SCHEMA = 1


def document(result: Any) -> dict[str, Any]:
    """A result as a JSON document, with the version of its schema."""
    return {"schema": SCHEMA, **encoded(result)}


def encoded(value: Any) -> Any:
    """A value as JSON data: a result becomes an object whose keys are its fields."""
    return _form_of(type(value))(value)  # type: ignore[arg-type]  # typeshed: `type` is no Hashable


@cache
def _form_of(kind: type) -> Callable[[Any], Any]:
    """The encoding of values of a type."""
    if issubclass(kind, bool | str | float | type(None)):  # bool before int, of which it is a kind
        return lambda value: value
    if issubclass(kind, int):
        return int  # drops the letter of a `Size`
    form = _FORMS.get(f"{kind.__module__}.{kind.__qualname__}".removeprefix("memmodel."))
    if form is not None:
        return form
    if _fields_of(kind) is not None:
        return _keys
    if issubclass(kind, Mapping):
        return lambda value: {str(key): encoded(one) for key, one in value.items()}
    if issubclass(kind, Sequence):
        return lambda value: [encoded(one) for one in value]
    return str  # an expression


def _fields_of(kind: type) -> Sequence[str] | None:
    """The names of the fields of a named tuple, frozen data or a dataclass; None for other types."""
    described = getattr(kind, "_fields", None) or getattr(kind, "__dataclass_fields__", None)
    return described and tuple(described)


def _keys(value: Any, also: Collection[str] = (), hidden: Collection[str] = (), **renamed: str) -> dict[str, Any]:
    """The fields of a result by key.

    Args:
        value: a named tuple, frozen data or a dataclass.
        also: attributes that are keys too, or paths to one, whose last name is the key.
        hidden: fields that are no keys.
        renamed: field -> key, where they differ. `nbytes` is always "bytes".
    """
    renamed = {"nbytes": "bytes", **renamed}
    names = (name for name in _fields_of(type(value)) or () if name not in hidden)
    shown = {renamed.get(name, name): encoded(getattr(value, name)) for name in names}
    return shown | {path.rpartition(".")[2]: encoded(attrgetter(path)(value)) for path in also}


def _gpu(gpu: Gpu) -> dict[str, Any]:
    """A GPU's identity."""
    capability = gpu.compute_capability
    return {
        "id": gpu.id,
        "name": gpu.name,
        "compute_capability": None if capability is None else "{}.{}".format(*capability),
        "taken_as": gpu.ambiguity,
    }


def _case(case: Case) -> dict[str, Any]:
    """The configuration: sizes, dtype, mask, phase."""
    names = (*SIZES, "dtype", "dropout", "phase", "chunk", "deterministic", "torch", "lengths")
    mask = {"mask": case.mask.name, "window": case.mask.window, "sink_keys": case.mask.sinks}
    cache = {"page_size": case.cache.page, "cache_dtype": encoded(case.cache.dtype), "num_splits": case.cache.splits}
    added = case.scores
    scores: dict[str, Any] = {"bias": added.bias or "none", "bias_shape": added.bias_shape}
    scores |= {"softcap": added.softcap, "sinks": added.sinks}
    return {name: encoded(getattr(case, name)) for name in names} | mask | cache | scores


def _work(work: Any) -> dict[str, int]:
    """FLOP and operations by kind, and bytes to and from memory, of one step."""
    return {
        "flops": int(work.flops),
        "matmul_flops": int(work.matmul),
        "vector_flops": int(work.vector),
        "exp_ops": int(work.exp),
        "hbm_bytes": int(work.hbm_bytes),
    }


def _whole_work(work: Any) -> dict[str, Any]:
    """Work with each part of its traffic."""
    return {
        **_work(work),
        "hbm_read_bytes": int(work.read),
        "hbm_written_bytes": int(work.written),
        "l2_bytes": int(work.l2),
        "intensity": float(work.intensity),
    }


def _prediction(prediction: Any) -> dict[str, Any]:
    shown = _keys(prediction, ["case.algorithm"], ["compulsory_bytes"], calibrated="calibrated_time")
    return {**shown, "work": _whole_work(prediction.work) | {"compulsory_bytes": prediction.compulsory_bytes}}


def _model_prediction(prediction: Any) -> dict[str, Any]:
    shown = _keys(prediction, ["case.attention"], calibrated="calibrated_time")
    return {"algorithm": shown.pop("attention"), **shown, "work": _whole_work(prediction.work)}


def _model_case(case: Any) -> dict[str, Any]:
    """The setting of a model's step; of the model its name, its sizes are `memmodel models`'."""
    return {"model": case.arch.name, **_keys(case, hidden=["arch", "device"])}


def _node(node: Any) -> dict[str, Any]:
    """A machine, its links by their names for `--link`."""
    names = {"link": node.link.id, "network": node.network.id}
    return {**_keys(node, ["assumed"], ["switched", "capability", "source", *names]), **names}


def _kernel(kernel: Any) -> dict[str, Any]:
    ceilings = {ceiling.name: ceiling.seconds for ceiling in kernel.ceilings}
    return _keys(kernel) | {"binding": kernel.binding.name, "ceilings": ceilings}


def _trace(trace: Any) -> dict[str, Any]:
    names = {"title": "function", "calibrated": "calibrated_time", "forms": "formulas", "graphs": "compiled"}
    shown = _keys(trace, hidden=["program", "torch", "config", "why_no_forms"], **names)
    return {**shown, "no_formulas": trace.why_no_forms or None}


def _forms(forms: Any) -> dict[str, Any]:
    letters = {str(x.symbol): {"count": x.count, "what": x.what} for x in (forms.layers,) if x}
    return _keys(forms, hidden=["symbols", "checked", "layers"], saved="saved_bytes") | {"letters": letters}


def _formulas(forms: Any) -> dict[str, Any]:
    shown = _keys(forms, ["case.algorithm", "case.phase", "case.dtype"], ["case"], saved="saved_bytes")
    return {**shown, "mask": forms.case.mask.name}


def _timeline(shown: Any) -> dict[str, Any]:
    case = shown.configuration
    found = _keys(shown, hidden=["configuration"]) | {"algorithm": case and case.algorithm}
    return found if case is None else {**found, "case": _case(case)}


def _roofline(shown: Any) -> dict[str, Any]:
    return _keys(shown, without="without_arithmetic") | {"kind": "roofline", "peak": shown.peak.name}


def _compared(row: Any) -> dict[str, Any]:
    """A step on one GPU: its memory in short, its times without their kernels."""
    time, expected = row.time, row.calibrated
    return {
        "gpu": _gpu(row.gpu),
        **{name: getattr(row.memory, name) for name in ("fits", "device_bytes", "capacity_bytes")},
        "at_least_seconds": time and time.seconds,
        "expected_seconds": expected and expected.seconds,
        "low_seconds": expected and expected.low,
        "high_seconds": expected and expected.high,
        "binding": time and time.binding,
        "basis": expected and expected.basis,
        "calibration": expected and expected.calibration,
        **{name: getattr(row, name) for name in ("tokens", "tokens_per_second")},
        **{name: getattr(row, name) for name in ("dollars_per_hour", "dollars_per_million_tokens")},
        "missing": row.missing or None,
    }


_FORMS: dict[str, Callable[[Any], Any]] = {
    "base.dtypes.DType": short_name,
    "gpus.gpu.Gpu": _gpu,
    "gpus.links.Node": _node,
    "attention.case.Case": _case,
    "events.work.Work": _work,
    "gpu_comparison.OnGpu": _compared,
    "gpu_comparison.GpuComparison": lambda shown: _keys(shown, rows="gpus") | {"kind": "comparison"},
    "prediction.Memory": partial(_keys, also=["device_bytes"]),
    "prediction.Prediction": _prediction,
    "models.results.ModelPrediction": _model_prediction,
    "models.setting.ModelCase": _model_case,
    "models.step_time.StepTime": partial(_keys, also=["overlapped"], hidden=["low", "high", "phases", "basis"]),
    "models.capacity.ModelThreshold": partial(_keys, also=["case.attention"], attention="algorithm"),
    "models.fit.TriedLayout": partial(
        _keys, also=["limits", "case.layout", "case.microbatches", "case.checkpoint"], hidden=["case"]
    ),
    "timing.ceiling.KernelTime": _kernel,
    "thresholds.Threshold": partial(_keys, also=["case.algorithm"]),
    "closed_forms.Formulas": _formulas,
    "events.moments.Branch": partial(_keys, expression="bytes", wins="where"),
    "tracer.result.Trace": _trace,
    "tracer.lines.SourceLine": partial(_keys, names="tensors"),
    "tracer.formulas.closed.Forms": _forms,
    "pictures.timeline.Timeline": _timeline,
    "pictures.roofline.Roofline": _roofline,
    "pictures.roofline.Point": partial(_keys, also=["rate", "expected_rate"]),
    "pictures.roofline.MeasuredPoint": partial(_keys, also=["rate"]),
    "pictures.frontier.Frontier": lambda shown: _keys(shown) | {"kind": "frontier"},
    "pictures.frontier.HeatMap": lambda shown: _keys(shown, hidden=["title", "sizes", "seqs"]) | {"kind": "heat map"},
}


def pictures_dict(pictures: Sequence[Any]) -> dict[str, Any]:
    """Pictures of one kind: a timeline as panels, one for each GPU and algorithm, and so several rooflines."""
    if hasattr(pictures[0], "moments"):
        return {"schema": SCHEMA, "kind": "timeline", "panels": encoded(pictures)}
    if len(pictures) == 1:
        return document(pictures[0])
    return {"schema": SCHEMA, "kind": document(pictures[0])["kind"], "panels": encoded(pictures)}


def picture_dict(shown: Any) -> dict[str, Any]:
    """One picture."""
    return pictures_dict([shown])


def gpu_values_dict(gpu: Gpu) -> dict[str, Any]:
    """A GPU with every value in SI units and its source."""
    values = {
        quantity: {"value": listed.value, "source": gpu.source(quantity), "note": listed.note}
        for quantity, listed in gpu.values.items()
    }
    balance = gpu.balance_points()
    return {**_gpu(gpu), "vendor": gpu.vendor, "arch": gpu.arch, "balance_points": balance, "values": values}
