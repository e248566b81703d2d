"""Many configurations at once: the same run on polynomials in columns of sizes.

Sizes of one change PyTorch's layout rules, and the number of chunks changes which kernels run, so configurations are
grouped by these, and each group is one run. What a GPU adds (allocator, verdict, times) takes single cases.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memmodel.algorithms import algorithm, splits_of, tiles_of
from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import LARGEST, SIZES, TWINS, Case, check_case, make_case
from memmodel.attention.tiles import ceilings
from memmodel.base.dtypes import short_name
from memmodel.base.errors import UsageError, check_kind, shortened
from memmodel.cases import on_gpu
from memmodel.events.liveness import moments, saved_bytes
from memmodel.events.program import Launch, Program
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.prediction import columns_on_gpu
from memmodel.predictor import predict_case
from memmodel.recorder import record
from memmodel.rules.flex import BLOCK
from memmodel.rules.sdpa import MOST_BLOCKS
from memmodel.sizes.columns import Table
from memmodel.timing import Calibration
from memmodel.timing.transfer import expected_rates

Column = NDArray[Any]
QUANTITIES = ("live_peak_bytes", "saved_bytes", "flops", "hbm_bytes")
_BLOCK = 1 << 20  # configurations at a time: columns of all of them that rules compute would take too much memory
_CODES = 1 << 62
_EXACT = 1 << 62  # int64 products below this are exact; above, Python ints are used


@dataclass(frozen=True, slots=True)
class Sweep:
    """Columns of equal length: the sizes of every configuration and its quantities.

    Attributes:
        case: of the settings that all configurations share.
        sizes: size -> int64 column, in elements.
        results: quantity (see `QUANTITIES`) -> int64 column, in bytes or FLOP; Python ints beyond int64's range. With
            a GPU also those of `prediction.columns_on_gpu`.
        gpu: None for what holds on any GPU.
    """

    case: Case
    sizes: dict[str, Column]
    results: dict[str, Column]
    gpu: Gpu | None = None

    def __len__(self) -> int:
        return len(self.sizes["seq"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dictionary per configuration."""
        columns = {**self.sizes, **self.results}
        common = {
            "algorithm": self.case.algorithm,
            "phase": self.case.phase,
            "dtype": short_name(self.case.dtype),
            "mask": self.case.mask.name,
            "window": self.case.mask.window,
        }
        usual = _settings(make_case())
        common |= {name: value for name, value in _settings(self.case).items() if value != usual[name]}
        if self.gpu is not None:
            common = {"gpu": self.gpu.id, **common}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            yield {**common, **dict(zip(columns, values, strict=True))}


def _settings(case: Case) -> dict[str, Any]:
    """What a configuration has beside its sizes, that a row names where it is not the default."""
    page, cache_dtype, splits = case.cache
    return {
        "sink_keys": case.mask.sinks,
        "dropout": case.dropout,
        "chunk": case.chunk,
        "page_size": page,
        "cache_dtype": cache_dtype and short_name(cache_dtype),
        "num_splits": splits,
        **case.scores._asdict(),
        "deterministic": case.deterministic,
        "torch": case.torch,
    }


def grid(case: Case, ranges: Mapping[str, Sequence[int]]) -> dict[str, Column]:
    """Every combination of the ranges, by size; the others as in `case`.

    kv_seq, kv_heads and value_dim stay equal to seq, heads and head_dim if they are in `case`.
    """
    ranges = ranges or {"seq": [case.seq]}
    names = list(ranges)
    for name, values in ranges.items():
        _whole(name, values)
    combined = np.array(list(product(*ranges.values())), dtype=np.int64).reshape(-1, len(names))
    sizes = {name: combined[:, i] for i, name in enumerate(names)}
    count = len(combined)
    for name in SIZES:
        if name in sizes:
            continue
        twin = TWINS.get(name)
        if twin in sizes and getattr(case, name) == getattr(case, twin):
            sizes[name] = sizes[twin]
        else:
            sizes[name] = np.full(count, getattr(case, name), dtype=np.int64)
    return {name: sizes[name] for name in SIZES}


def sweep(
    case: Case,
    sizes: dict[str, Column],
    progress: Any = None,
    gpu: str | Gpu | None = None,
    config: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
) -> Sweep:
    """Live peak, saved bytes, FLOPs and HBM bytes of every configuration.

    Args:
        case: the settings that all configurations share.
        sizes: columns of equal length, from `grid`.
        progress: called with the number of configurations done since its last call.
        gpu: also whether each fits on this GPU, what the allocator holds and the times. That is one prediction a
            configuration: some hundred a second, not a million.
        config: the allocator's settings on that GPU.
        calibration: rates measured on it; shipped ones are taken where there are any.

    Raises UsageError for sizes below one, heads that kv_heads do not divide, or columns of different lengths.
    """
    check_case(case)
    if not isinstance(sizes, Mapping) or set(sizes) != set(SIZES):
        raise UsageError(
            f"sizes {shortened(sizes)}: expected a column for each size, as memmodel.sweeps.grid makes them"
        )
    if progress is not None and not callable(progress):
        raise UsageError(f"progress {shortened(progress)}: expected a function of a number, or none")
    check_kind("config", config, AllocatorConfig)
    check_kind("calibration", calibration, Calibration)
    if gpu is None:
        return _swept(case, sizes, progress)
    gpu = gpu if isinstance(gpu, Gpu) else load_gpu(gpu)
    (case,) = on_gpu([case], gpu)
    found = _swept(case, sizes, None)
    return replace(found, gpu=gpu, results=found.results | _on_gpu(found, gpu, config, calibration, progress))


def _on_gpu(
    found: Sweep, gpu: Gpu, config: AllocatorConfig | None, calibration: Calibration | None, progress: Any
) -> dict[str, Column]:
    """What the GPU adds, by a prediction for each configuration."""
    rates, rows = calibration or expected_rates(gpu, found.case.dtype.itemsize), []
    for values in zip(*(column.tolist() for column in found.sizes.values()), strict=True):
        one = predict_case(replace(found.case, **dict(zip(found.sizes, values, strict=True))), gpu, config, rates)
        rows.append(columns_on_gpu(one.memory, one.time, one.calibrated))
        if progress is not None:
            progress(1)
    return {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}


def _swept(case: Case, sizes: dict[str, Column], progress: Any) -> Sweep:
    names = {id(sizes[name]): name for name in reversed(sizes)}  # equal sizes are often one column
    whole = {key: _whole(name, sizes[name]) for key, name in names.items()}
    columns = {name: whole[id(column)] for name, column in sizes.items()}
    _check(columns)
    groups = _groups(case, columns)
    if len(groups) == 1:
        return Sweep(case, columns, _evaluate(case, columns, progress))
    found: dict[str, Column] = {}
    for indices in groups:
        chosen = {key: column[indices] for key, column in whole.items()}
        values = _evaluate(case, {name: chosen[id(column)] for name, column in sizes.items()}, progress)
        for name, column in values.items():
            kept = found.get(name)
            if kept is None or column.dtype == object != kept.dtype:
                found[name] = np.empty(len(columns["seq"]), column.dtype) if kept is None else kept.astype(object)
            found[name][indices] = column
    return Sweep(case, columns, found)


def _whole(name: str, column: Any) -> Column:
    """A column as int64. Raises UsageError for values that are no whole numbers, which a conversion would cut."""
    given = np.asarray(column)
    if given.dtype.kind not in "iu" or given.ndim != 1 or (given.size and given.max() > LARGEST):
        shown = shortened(column)
        raise UsageError(f"{name.replace('_', '-')} {shown}: expected a list of whole numbers up to {LARGEST} (2^31)")
    return given.astype(np.int64)


def _check(columns: dict[str, Column]) -> None:
    if len({len(column) for column in columns.values()}) != 1:
        raise UsageError("a sweep's columns must have the same length")
    for name, column in columns.items():
        if not len(column):
            raise UsageError("a sweep needs at least one configuration")
        if column.min() < 1:
            raise UsageError(f"{name.replace('_', '-')} {column.min()}: expected a whole number of at least 1")
    if columns["kv_heads"] is columns["heads"]:
        return
    bad = np.flatnonzero(columns["heads"] % columns["kv_heads"])
    if len(bad):
        at = bad[0]
        raise UsageError(
            f"{columns['heads'][at]} heads do not divide among {columns['kv_heads'][at]} kv-heads: "
            "kv-heads must divide heads"
        )


def _groups(case: Case, columns: dict[str, Column]) -> list[Column]:
    """Indices of the configurations of each group, which run the same kernels."""
    numbers = [column == 1 for column in _distinct(columns).values() if column.min() == 1]
    for name in ("kv_heads", "kv_seq"):
        if columns[name] is not columns[TWINS[name]]:
            numbers.append(columns[name] == columns[TWINS[name]])
    if algorithm(case.algorithm).tiled:
        numbers.append(sum((columns["head_dim"] > ceiling).astype(np.int8) for ceiling in ceilings()))
    if columns["kv_heads"] is not columns["heads"]:
        numbers.append(columns["heads"] // columns["kv_heads"])
    if algorithm(case.algorithm).chooses:
        numbers += [columns["head_dim"], columns["value_dim"], columns["kv_seq"] % 8, columns["seq"] < BLOCK]
        numbers += [columns[name] > MOST_BLOCKS for name in ("batch", "heads")]
    if case.algorithm == "decode":
        numbers += [columns["head_dim"], columns["value_dim"], _splits(case, columns)]
    if case.algorithm == "chunked":
        numbers += [-(-columns["seq"] // case.chunk), columns["seq"] % case.chunk == 1]
    varying = [number for number in numbers if (number != number[0]).any()]
    code = np.zeros(len(columns["seq"]) if varying else 0, dtype=np.int64)
    for number in varying:
        least, most = int(number.min()), int(number.max())
        if (int(code.max()) + 1) * (most - least + 1) >= _CODES:
            _, number = np.unique(number, return_inverse=True)
            _, code = np.unique(code, return_inverse=True)
            least, most = 0, int(number.max())
        code = code * (most - least + 1) + (number - least)
    if not varying:
        return [np.arange(len(columns["seq"]))]
    if int(code.max()) < 1 << 16:
        code = code.astype(np.uint16)  # sorted by counting
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1)


def _distinct(columns: dict[str, Column]) -> dict[int, Column]:
    """The columns by identity."""
    return {id(column): column for column in columns.values()}


def _splits(case: Case, columns: dict[str, Column]) -> Column:
    """The splits of the keys in each configuration of decoding."""
    rows = zip(*(columns[name].tolist() for name in SIZES), strict=True)
    return np.array([splits_of(replace(case, **dict(zip(SIZES, row, strict=True)))) for row in rows])


def _evaluate(case: Case, columns: dict[str, Column], progress: Any) -> dict[str, Column]:
    """The results of one group, by one run on polynomials in its columns."""
    found: list[dict[str, Column]] = []
    for start in range(0, len(columns["seq"]), _BLOCK):
        part = {name: column[start : start + _BLOCK] for name, column in columns.items()}
        found.append(_results(case, part))
        if progress is not None:
            progress(len(part["seq"]))
    return (
        found[0] if len(found) == 1 else {name: np.concatenate([part[name] for part in found]) for name in QUANTITIES}
    )


def _results(case: Case, columns: dict[str, Column]) -> dict[str, Column]:
    table, program = _recorded(case, columns)
    work = sum((e.work for e in program.events if isinstance(e, Launch)), start=Work())
    sums = {"saved_bytes": saved_bytes(program), "flops": work.flops, "hbm_bytes": work.hbm_bytes}
    values = table.evaluated(sums.values(), highest=moments(program))
    found = dict(zip((*sums, "live_peak_bytes"), values, strict=True))
    return {name: found[name] for name in QUANTITIES}


def _recorded(case: Case, columns: dict[str, Column]) -> tuple[Table, Program]:
    """The program of a group, its sizes polynomials in the table's columns."""
    if case.algorithm == "decode":
        splits = int(_splits(case, {name: column[:1] for name, column in columns.items()})[0])
        case = replace(case, cache=case.cache._replace(splits=splits))
    if algorithm(case.algorithm).tiled:
        case = replace(case, tiles=tiles_of(replace(case, head_dim=int(columns["head_dim"][0]))))
    exact, table = _upper_bound(columns) < _EXACT, Table(len(columns["seq"]))
    known = {key: table.size(column if exact else column.astype(object)) for key, column in _distinct(columns).items()}
    dims: dict[str, Any] = {name: known[id(column)] for name, column in columns.items()}
    if dims["heads"] != dims["kv_heads"]:  # a whole number of times as many, the same throughout a group
        dims["heads"] = int(columns["heads"][0] // columns["kv_heads"][0]) * dims["kv_heads"]
    return table, record(replace(case, **dims))


def _upper_bound(columns: dict[str, Column]) -> int:
    """An upper bound of every quantity of the group: a hundred times the FLOP of its largest matrix product."""
    largest = {name: int(column.max()) for name, column in columns.items()}
    width = max(largest["head_dim"], largest["value_dim"], 64)
    rows = max(largest["seq"], 256) * max(largest["kv_seq"], 256)
    return 100 * 2 * largest["batch"] * largest["heads"] * rows * width
