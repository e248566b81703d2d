"""`memmodel sweep`."""

import sys
from collections.abc import Iterator
from typing import IO, Any

from memmodel.attention.case import check_size
from memmodel.base.errors import UsageError, choice, shortened
from memmodel.base.units import parse_size
from memmodel.cli.commands import option, subcommand
from memmodel.cli.options import SIZES, Inputs, inputs
from memmodel.cli.output import busy, check_free, force_option, kind_of, opened, print_json, progress_bar, tell

_FORMATS = ("csv", "json")
_ROWS_BEFORE_PROGRESS, _PREDICTIONS_BEFORE_PROGRESS = 200_000, 100  # well below two seconds
_MOST_ROWS = 10_000_000  # about a gigabyte of numbers
_MOST_PREDICTIONS = 100_000  # some minutes
_MOST_STEPS, _STEPS_BEFORE_PROGRESS = 2_000, 3  # of a whole model, each recorded
_FEWER = "take larger steps, or several sweeps"


def ranges(text: str, option: str, most: int = _MOST_ROWS) -> list[int]:
    """A list of at most `most` sizes: 1024,4k or 1k:16k:1k (first:last:step) or 1k:64k:*2 (times two).

    Raises UsageError, before it makes a list that is too long.
    """
    sizes: list[int] = []
    for part in text.split(","):
        first, *others = part.split(":")
        found = _range(part, *(first, *others), option=option) if others else [parse_size(first, option)]
        count = len(sizes) + len(found)
        if count > most:
            more = f"{count:,} sizes make more than {most:,} configurations"
            raise UsageError(f"{option} {shortened(text)}: {more}: {_FEWER}")
        sizes += found
    if not sizes:
        raise UsageError(f"{option} {text}: the range holds no size")
    return sizes


def _range(part: str, *pieces: str, option: str) -> "range | list[int]":
    if len(pieces) != 3:
        raise UsageError(f"{option} {part}: expected first:last:step, such as 1k:16k:1k or 1k:64k:*2")
    times = pieces[2].startswith("*")
    first, last, step = (parse_size(piece, option) for piece in (*pieces[:2], pieces[2].removeprefix("*")))
    if step < (2 if times else 1) or first < 1:
        raise UsageError(f"{option} {part}: the step must lead upwards from a first size of at least 1")
    check_size(option, last)
    return _powers(first, last, step) if times else range(first, last + 1, step)


def _powers(first: int, last: int, factor: int) -> list[int]:
    found: list[int] = []
    while first <= last:
        found.append(first)
        first *= factor
    return found


@subcommand(
    "sweep",
    "memmodel sweep --seq 1k:64k:*2 --batch 1,8 -a naive,flash",
    "memmodel sweep --like llama-3-8b --seq 1k:16k:1k -o rows.json",
    "memmodel sweep --gpu A100,H100 --seq 1k:64k:*2 -o rows.csv",
    "memmodel sweep --model llama-3-8b --batch 1:64:1 --seq 1k:32k:1k -o models.csv",
)
@inputs("any gpus", "ranges", "a model", "algorithms", "allocator", "rates")
@option("--format", "style", help="csv or json. [default: as FILE ends, else csv]")
@option("--json", "as_json", is_flag=True, help="As --format json.")
@option("--output", "-o", metavar="FILE", help="Write there instead of to the screen.")
@force_option
def command(asked: Inputs, style: str | None, as_json: bool, output: str | None, force: bool) -> None:
    """Evaluate many configurations: live peak, saved bytes, FLOPs and HBM bytes of each.

    With a GPU also whether each fits, what the allocator holds, and the times at least and expected.

    SIZES are numbers with commas between, or ranges: 1k:16k:1k in steps of 1024, 1k:64k:*2 in powers of two.
    """
    ends_in = kind_of(output or "")
    style = choice("format", style or ("json" if as_json or ends_in == "json" else "csv"), _FORMATS)
    if output is not None:
        check_free(output, force)
    rows = (row for swept in _swept(asked) for row in swept.rows())
    if output is None:
        write_rows(rows, style, sys.stdout)
        return
    with opened(output) as target:
        write_rows(rows, style, target)
    tell(output)


def _swept(asked: Inputs) -> list[Any]:
    if "model" in asked.given:
        return _of_model(asked)
    from memmodel.cases import cases_of
    from memmodel.sweeps import grid, sweep

    given, gpus = asked.case, asked.any_gpus
    if not gpus and {"calibration", "expandable_segments"} & {name for name, value in asked.given.items() if value}:
        raise UsageError("--calibration and --expandable-segments change what a GPU adds to a sweep: give --gpu too")
    most = _MOST_PREDICTIONS if gpus else _MOST_ROWS
    swept: dict[str, list[int]] = {}
    total = 1
    for name in SIZES:
        if name in given:
            # Divided by what is there already: a list that would be too long with the others is not even made.
            swept[name] = ranges(given[name], f"--{name.replace('_', '-')}", most // total)
            total *= len(swept[name])
    cases = cases_of(asked.algorithms, **{**given, **{name: sizes[0] for name, sizes in swept.items()}})
    total *= len(cases) * max(1, len(gpus))
    if total > most:
        raise UsageError(f"{total:,} configurations, expected at most {most:,}: {_FEWER}")
    columns = grid(cases[0], swept)
    pairs: list[Any] = list(zip(gpus, asked.calibrations, strict=True)) if gpus else [(None, None)]
    with progress_bar(total, "configurations", _PREDICTIONS_BEFORE_PROGRESS if gpus else _ROWS_BEFORE_PROGRESS) as done:
        return [sweep(case, columns, done, gpu, asked.allocator, rates) for gpu, rates in pairs for case in cases]


def _of_model(asked: Inputs) -> list[Any]:
    """A whole model by batch and length, on each GPU that is named."""
    from memmodel.models.sweep import model_sweep, swept_on

    gpus = asked.any_gpus
    most = _MOST_STEPS // len(gpus) if gpus else _MOST_ROWS
    sizes = {name: asked.given.pop(name, None) for name in ("batch", "seq")}
    batches = ranges(sizes["batch"], "--batch", most) if sizes["batch"] else [1]
    seqs = ranges(sizes["seq"], "--seq", most // len(batches)) if sizes["seq"] else []
    asked.given.update(batch=max(batches), **({"seq": max(seqs)} if seqs else {}))
    with busy("evaluating the step on all sizes"):
        found = model_sweep(asked.model_case, batches, seqs or [int(asked.model_case.seq)])
    if not gpus:
        return [found]
    pairs = list(zip(gpus, asked.calibrations, strict=True))
    with progress_bar(len(pairs) * len(found.batch), "steps", _STEPS_BEFORE_PROGRESS) as done:
        return [swept_on(found, gpu, asked.allocator, rates, done) for gpu, rates in pairs]


def write_rows(rows: Iterator[dict[str, Any]], style: str, target: IO[str]) -> None:
    """Rows as "csv" or "json"."""
    if style == "json":
        if target is sys.stdout:
            print_json({"schema": 1, "rows": list(rows)})
        else:
            import json

            json.dump({"schema": 1, "rows": list(rows)}, target, indent=2)
        return
    import csv

    first = next(rows)
    writer = csv.writer(target, lineterminator="\n")
    writer.writerows((first, first.values()))
    writer.writerows(row.values() for row in rows)  # all have the same names, in one order
