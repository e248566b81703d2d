"""`memmodel sweep`."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from memmodel.cli.files import check_free, kind_of, tell
from memmodel.cli.options import SIZE, algorithm_option, examples, print_json
from memmodel.errors import UsageError, choice

_RANGED = ("batch", "heads", "kv_heads", "seq", "kv_seq", "head_dim")
_FORMATS = ("csv", "json")
_ROWS_BEFORE_PROGRESS = 200_000
_MOST_ROWS = 10_000_000  # about a gigabyte of numbers


def ranges(text: str, option: str) -> list[int]:
    """A list of sizes: 1024,4k or 1k:16k:1k (first:last:step) or 1k:64k:*2 (times two)."""
    sizes: list[int] = []
    for part in text.split(","):
        pieces = part.split(":")
        if len(pieces) == 1:
            sizes.append(SIZE.convert(pieces[0], None, None))
            continue
        if len(pieces) != 3:
            raise UsageError(f"{option} {part}: expected first:last:step, such as 1k:16k:1k or 1k:64k:*2")
        first, last = (SIZE.convert(piece, None, None) for piece in pieces[:2])
        times = pieces[2].startswith("*")
        step = SIZE.convert(pieces[2].removeprefix("*"), None, None)
        if step < (2 if times else 1) or first < 1:
            raise UsageError(f"{option} {part}: the step must lead upwards from a first size of at least 1")
        found = _powers(first, last, step) if times else range(first, last + 1, step)
        if len(found) > _MOST_ROWS:
            raise UsageError(f"{option} {part}: {_too_many(len(found))}")
        sizes += found
    if not sizes:
        raise UsageError(f"{option} {text}: the range holds no size")
    return sizes


def _powers(first: int, last: int, factor: int) -> list[int]:
    found: list[int] = []
    while first <= last:
        found.append(first)
        first *= factor
    return found


def _too_many(count: int) -> str:
    return f"{count:,} configurations, expected at most {_MOST_ROWS:,}: take larger steps, or several sweeps"


@click.command("sweep", epilog=examples("memmodel sweep --seq 1k:64k:*2 --batch 1,8 -a naive,flash"))
@algorithm_option
@click.option("--batch", help="Sizes: 1,2,4 or 1:64:*2. [default: 1]")
@click.option("--heads", help="[default: 32]")
@click.option("--kv-heads", help="[default: heads]")
@click.option("--seq", help="Sizes: 1k:16k:1k or 1k:64k:*2. [default: 4096]")
@click.option("--kv-seq", help="[default: seq]")
@click.option("--head-dim", help="[default: 128]")
@click.option("--dtype", metavar="TYPE", help="bf16, fp16, fp32 or fp64. [default: bf16]")
@click.option("--mask", metavar="MASK", help="none, causal or window. [default: none]")
@click.option("--window", type=SIZE, help="Keys a query sees, itself included.")
@click.option("--dropout", type=float, help="Probability of dropout. [default: 0]")
@click.option("--phase", metavar="PHASE", help="inference, forward or train. [default: train]")
@click.option("--chunk", type=SIZE, help="Queries at a time in `chunked`. [default: 1024]")
@click.option("--format", "style", help="csv or json. [default: as FILE ends, else csv]")
@click.option("--output", "-o", metavar="FILE", help="Write there instead of to the screen.")
@click.option("--force", is_flag=True, help="Overwrite the output file.")
def command(algorithms: str | None, style: str | None, output: str | None, force: bool, **options: Any) -> None:
    """Evaluate many configurations: live peak, saved bytes, FLOPs and HBM bytes of each."""
    if style is None:
        style = "json" if output is not None and kind_of(output) == "json" else "csv"
    style = choice("format", style, _FORMATS)
    if output is not None:
        check_free(output, force)
    swept = _swept(algorithms, options)
    if output is None:
        write_rows(_rows(swept), style, sys.stdout)
        return
    with _opened(output) as target:
        write_rows(_rows(swept), style, target)
    tell(output)


def _swept(algorithms: str | None, options: dict[str, Any]) -> list[Any]:
    from memmodel.cli.options import split_names
    from memmodel.predictor import cases_of
    from memmodel.sweeps import grid, sweep

    given_ranges = {name: options.pop(name) for name in _RANGED if options.get(name) is not None}
    swept = {name: ranges(text, f"--{name.replace('_', '-')}") for name, text in given_ranges.items()}
    given = {name: value for name, value in options.items() if value is not None}
    first: dict[str, Any] = {name: sizes[0] for name, sizes in swept.items()}
    cases = cases_of(split_names(algorithms), **first, **given)
    total = math.prod(map(len, swept.values())) * len(cases)
    if total > _MOST_ROWS:
        raise UsageError(_too_many(total))
    columns = grid(cases[0], swept)
    if total < _ROWS_BEFORE_PROGRESS or not sys.stderr.isatty():
        return [sweep(case, columns) for case in cases]
    with click.progressbar(length=total, label="configurations", file=sys.stderr) as bar:
        return [sweep(case, columns, bar.update) for case in cases]


def _opened(output: str) -> IO[str]:
    try:
        return Path(output).open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"{output} can't be written ({error.strerror}): choose another place with --output") from None


def _rows(sweeps: list[Any]) -> Iterator[dict[str, Any]]:
    return (row for swept in sweeps for row in swept.rows())


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
    writer = csv.DictWriter(target, fieldnames=list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(rows)
