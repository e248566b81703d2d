"""From the arguments of `predict` to checked cases, one per algorithm: defaults, a model's shape, a GPU's tiles."""

from collections.abc import Sequence
from typing import Any

from memmodel.algorithms import ALGORITHMS, algorithm
from memmodel.attention.case import TWINS, Case, make_cache, make_case
from memmodel.attention.masks import Mask
from memmodel.attention.masks import mask as mask_named
from memmodel.attention.scores import make_scores
from memmodel.base.errors import UsageError
from memmodel.gpus import Gpu
from memmodel.recorder import supported
from memmodel.step import device_of

DEFAULT_ALGORITHMS = ("naive", "flash")
_DEFAULT_SIZES: dict[str, Any] = {"heads": 32, "seq": 4096, "head_dim": 128}
DEFAULTS: dict[str, Any] = {**_DEFAULT_SIZES, "dtype": "bf16"}
_FILLED_IN = ("heads", "head_dim", "kv_heads", "kv_seq", "value_dim", "dtype")  # None: of a model, or by default


def _shape_of(like: str | None) -> dict[str, Any]:
    if like is None:
        return {}
    from memmodel.models.catalogue import model_shape

    return model_shape(like)


def _softcap_of(like: str | None) -> float | None:
    if like is None:
        return None
    from memmodel.models.catalogue import listed

    return listed(like).softcap


def _latent_shape(like: str, names: list[str]) -> dict[str, Any]:
    """The attention of a model over its cache of latents. Raises UsageError beside other algorithms."""
    from memmodel.models.catalogue import listed

    arch = listed(like).architecture
    if arch.mla is None:
        raise UsageError(f"{', '.join(names)} with {like}: its attention has no latents; take decode, or deepseek-v3")
    if len(names) > 1:
        raise UsageError(f"{', '.join(names)} with {like}: keys of latents have sizes of their own, ask for them alone")
    return {"kv_heads": 1, "head_dim": arch.mla.kv_rank + arch.mla.rope, "value_dim": arch.mla.kv_rank}


def by_default(cases: Sequence[Case], like: str | None) -> tuple[str, ...]:
    """Notes: which parts of the cases have default values, which come from a model, and what of it is left out."""
    case, cap = cases[0], _softcap_of(like)
    model = _shape_of(like)
    words, usual = case.described(), make_case(dtype_name=DEFAULTS["dtype"], **_DEFAULT_SIZES).described()
    left_out = {*model, *TWINS}
    parts = [word for name, word in words.items() if word and word == usual[name] and name not in left_out]
    names = "heads, head dim and mask" if cap is None else "heads, head dim, mask and soft cap"
    of_model = f"; {names} of {like} where not given" if like else ""
    uncapped = [each.algorithm for each in cases if cap is not None and each.scores.softcap is None]
    without = uncapped and f"{', '.join(uncapped)}: without the soft cap of {cap:g} of {like}, which it does not take"
    return (f"defaults: {', '.join(parts)}{of_model}", *([without] if without else []))


def cases_of(
    algorithms: Sequence[str] | None,
    *,
    like: str | None = None,
    mask: str | Mask | None = None,
    window: int | None = None,
    **given: Any,
) -> list[Case]:
    """The checked case of each algorithm, from the arguments of `predict`."""
    if algorithms is not None and not algorithms:
        raise UsageError("algorithms: expected at least one name, such as flash; None takes naive and flash")
    names = dict.fromkeys(algorithm(name).name for name in (algorithms or DEFAULT_ALGORITHMS))
    model = _shape_of(like)
    if like is not None and any(ALGORITHMS[name].latent for name in names):
        model |= _latent_shape(like, list(names))
    of_model = model.pop("mask", None), model.pop("window", None)
    if given.get("head_dim") is not None:
        model.pop("value_dim", None)
    named = mask.casefold() if isinstance(mask, str) else ""
    if mask is None and window is None:
        mask, window = of_model
    elif window is None and named == "window":
        window = of_model[1]
    elif window is not None and named == "none":
        raise UsageError(f"--mask none and --window {window}: give one of them")
    sink_keys = given.pop("sink_keys", None)
    cache = make_cache(*(given.pop(name, None) for name in ("page_size", "cache_dtype", "num_splits")))
    scores = make_scores(*(given.pop(name, None) for name in ("bias", "bias_shape", "softcap", "sinks")))
    told = {name: value for name, value in given.items() if value is not None or name not in _FILLED_IN}
    arguments = {**DEFAULTS, **model, **told}
    case = make_case(
        cache=cache,
        scores=scores,
        dtype_name=arguments.pop("dtype"),
        mask=mask if isinstance(mask, Mask) else mask_named(mask, window, 0 if sink_keys is None else sink_keys),
        **arguments,
    )
    cases = [case.replace(algorithm=name) for name in names]
    if scores.softcap is None:
        cases = [_capped(case, _softcap_of(like)) for case in cases]
    if algorithms:
        return cases
    able = [case for case in cases if supported(case)]
    if not able:
        raise UsageError(supported(cases[0]).reason)
    return able


def _capped(case: Case, softcap: float | None) -> Case:
    """The case with a model's soft cap, where its algorithm has one."""
    if softcap is None or "softcap" not in ALGORITHMS[case.algorithm].scores:
        return case
    capped = case.replace(scores=case.scores._replace(softcap=softcap))
    return capped if supported(capped) else case


def on_gpu(cases: Sequence[Case], gpu: Gpu) -> list[Case]:
    """The cases with the tiles and SMs of a GPU, or an A100's for one without tiles."""
    device = device_of(gpu)
    return [case.replace(device=device) for case in cases]
