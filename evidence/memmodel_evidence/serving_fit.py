"""Constants of serving stacks' kernels, by `python -m memmodel_evidence.serving_fit`.

A kernel's tiles and splits (data/kernels/choices.json) were searched on one GPU of an architecture, by the error on
its training rows, and hold for all of its GPUs. The other constants are fitted for each GPU by least squares of log
errors to the shapes that are not judged. Spreads are of the errors of those shapes, each left out of a fit once.
Needs scipy.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from memmodel.base.files import DATA as SHIPPED
from memmodel.timing.serving.chip import chip_of
from memmodel.timing.serving.decode import Decode, decode_parts
from memmodel.timing.serving.kernels import ServingKernel
from memmodel.timing.serving.prefill import Prefill, prefill_parts
from memmodel_evidence.bands import spreads_of
from memmodel_evidence.records import DATA
from memmodel_evidence.serving import FOLDS, SOURCE, Table, expected, kernel_tables
from memmodel_evidence.serving_transfers import transfers

Seconds = Callable[[Table, Mapping[str, float]], Any]
_PULL = 0.02  # of a log constant to where it started: keeps those that rows do not show
_MOST = {"power": 6.0}
_PREFILL = {
    "launch": 8e-6,
    "exp": 1.0,
    "prologue": 2000.0,
    "tail": 0.6,
    "sag": 0.15,
    "sag_after": 2e-3,
    "query_copies": 0.5,
    "cache_copies": 1.5,
    "token": 20.0,
}
_PRODUCTS = 1.4
_DECODE = {
    "launch": 8e-6,
    "single": 1e-6,
    "split": 2e-6,
    "dim_clocks": 0.15,
    "row_clocks": 0.5,
    "power": 1.0,
    "key_clocks": 4.0,
    "far": 0.3,
    "prologue": 1000.0,
    "prologue_head": 500.0,
    "cold": 1e-6,
    "loss": 0.15,
    "l2_rate": 30.0,
    "cap": 0.65,
    "width": 0.4,
    "combine": 1.0,
    "swap": 0.3e-6,
    "narrow": 0.3e-6,
}
_STARTS: tuple[dict[str, float], ...] = (  # of a search: it ends in the best of their minima
    {},
    {"prologue": 12000.0, "launch": 4e-6},
    {"prologue": 6000.0, "key_clocks": 1.0, "far": 0.05},
    {"prologue": 4000.0, "key_clocks": 8.0, "dim_clocks": 0.02, "loss": 0.05, "power": 0.7},
)
_SEARCHED_AS = {"blackwell_ultra": "blackwell_dc"}


def choices() -> Any:
    """Tiles and splits by phase, architecture and kernel."""
    return json.loads((DATA / "kernels" / "choices.json").read_text())


def _choice(table: Table) -> Any:
    arch = _SEARCHED_AS.get(table.gpu.arch, table.gpu.arch)
    return choices()[table.phase][arch][table.kernel]


def prefill_model(table: Table) -> tuple[dict[str, float], Seconds]:
    """The start of a prefill kernel's constants, and its times by them: products have one for each head dim."""
    choice, chip = _choice(table), chip_of(table.gpu)
    start = {**_PREFILL, **{f"products.{d}": _PRODUCTS for d in choice["rows"]}}

    def seconds(rows: Table, constants: Mapping[str, float]) -> Any:
        found = np.empty(len(rows.seconds))
        for d, kernel in _head_dims(choice, constants):
            chosen = rows.case.head_dim == d
            found[chosen] = prefill_parts(rows.where(chosen).case, chip, kernel).seconds
        return found

    return start, seconds


def _head_dims(choice: Any, constants: Mapping[str, float]) -> Iterator[tuple[int, Prefill]]:
    shared = {name: constants[name] for name in _PREFILL}
    for d in choice["rows"]:
        tile = {"rows": choice["rows"][d], "cols": choice["cols"][d], **_grid(choice)}
        known: Any = {**tile, **shared, "products": constants[f"products.{d}"]}
        yield int(d), Prefill(**known)


def _grid(choice: Any) -> dict[str, int]:
    return {name: choice[name] for name in ("splits", "dealt") if name in choice}


def decode_model(table: Table, path: str) -> tuple[dict[str, float], Seconds]:
    """The start of a decoding kernel's constants, and its times by them. `path` is "packed" or "single"."""
    choice, chip = _choice(table)[path], chip_of(table.gpu)
    return dict(_DECODE), lambda rows, constants: decode_parts(rows.case, chip, Decode(**choice, **constants)).seconds


def fitted(
    rows: Table, model: tuple[dict[str, float], Seconds], near: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Constants that minimise the log errors of some rows; the search starts `near` some, or in several places."""
    from scipy.optimize import least_squares

    start, seconds = model
    names, first, measured = list(start), np.log(list(start.values())), np.log(rows.seconds)

    def errors(x: Any) -> Any:
        return np.concatenate([np.log(seconds(rows, _constants(names, x))) - measured, _PULL * (x - first)])

    begins = [near] if near else [{**start, **{n: v for n, v in other.items() if n in start}} for other in _STARTS]
    ends = [
        least_squares(errors, np.log([begin[n] for n in names]), loss="soft_l1", f_scale=0.05, max_nfev=200)
        for begin in begins
    ]
    best = min(ends, key=lambda end: end.cost)
    for name in () if near else [name for name in ("cap", "width") if name in names]:  # kinks: it may stop early there
        for factor in (0.9, 1.1):
            moved = best.x + np.log(factor) * np.array([one == name for one in names])
            again = least_squares(errors, moved, loss="soft_l1", f_scale=0.05, max_nfev=80)
            best = min(best, again, key=lambda end: end.cost)
    return _constants(names, best.x)


def _constants(names: list[str], x: Any) -> dict[str, float]:
    return {name: min(float(value), _MOST.get(name, np.inf)) for name, value in zip(names, np.exp(x), strict=True)}


def fit_rows(table: Table, model: tuple[dict[str, float], Seconds]) -> tuple[dict[str, float], Any]:
    """Constants of a table's training rows, and the log errors of these, each fold left out of a fit."""
    training = table.where(~table.judged)
    constants = {name: float(f"{value:.4g}") for name, value in fitted(training, model).items()}
    errors = np.empty(len(training.seconds))
    for fold in range(FOLDS):
        left_out = training.bucket % FOLDS == fold
        others = fitted(training.where(~left_out), model, constants)
        held = training.where(left_out)
        errors[left_out] = np.log(held.seconds / model[1](held, others))
    return constants, errors


def kernel_document(prefill: Table, decode: Table) -> dict[str, Any]:
    """The constants and spreads of one kernel on one GPU, as they are shipped."""
    choice, (constants, errors) = _choice(prefill), fit_rows(prefill, prefill_model(prefill))
    head_dims = {
        d: {"rows": choice["rows"][d], "cols": choice["cols"][d], "products": constants[f"products.{d}"]}
        for d in choice["rows"]
    }
    shared = {**_grid(choice), **{name: constants[name] for name in _PREFILL}}
    decoding: dict[str, Any] = {}
    decode_errors = np.empty(len(decode.seconds))
    for path, rows in (("packed", ~decode.single), ("single", decode.single)):
        if rows.any():
            part = decode.where(rows)
            found, decode_errors[rows & ~decode.judged] = fit_rows(part, decode_model(part, path))
            decoding[path] = {**_choice(part)[path], **found}
    document = {
        "version": " and ".join(dict.fromkeys((prefill.version, decode.version))),
        "prefill": {"rows": int((~prefill.judged).sum()), "constants": shared, "head_dims": head_dims},
        "decode": {"rows": int((~decode.judged).sum()), **decoding},
    }
    return with_spreads(document, (prefill, errors), (decode, decode_errors[~decode.judged]))


def with_spreads(document: dict[str, Any], *phases: tuple[Table, Any]) -> dict[str, Any]:
    """A kernel's document with the spreads of its times, by the log errors of each phase's training rows."""
    for table, errors in phases:
        kernel = ServingKernel(table.kernel, table.version, table.gpu.id, "measured", document)
        shares = expected(table.where(~table.judged), kernel).shares
        document[table.phase]["spreads"] = spreads_of(shares, errors)
    return document


def _write(name: str, document: Mapping[str, Any]) -> None:
    from pathlib import Path

    folder = Path(SHIPPED) / "serving"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def main(*gpus: str) -> None:
    """Fit every kernel on some GPUs, or on all, then the spreads of transfers, and write their files."""
    tables = {(table.gpu.id, table.kernel, table.phase): table for table in kernel_tables()}
    for gpu in gpus or dict.fromkeys(id_ for id_, _, _ in tables):
        kernels = [name for id_, name, phase in tables if id_ == gpu and phase == "prefill"]
        documents = {
            name: kernel_document(tables[gpu, name, "prefill"], tables[gpu, name, "decode"]) for name in sorted(kernels)
        }
        _write(gpu, {"gpu": gpu, "source": SOURCE, "kernels": documents})
        print(gpu, *kernels, flush=True)
    _write("transfers", transfers())


if __name__ == "__main__":
    main(*sys.argv[1:])
