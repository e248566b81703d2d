"""How long `memmodel predict` and `memmodel model` take from a cold start, as whole processes, beside a bare Python.

Medians of 15 runs each of the processor time (user and system), which a busy machine disturbs less than the clock. Runs
are taken in turns, so that a busy moment hits all alike. Byte code is written on the first run and read after that, as
for an installed package. Exits with status 1 if a heavy package was imported.
"""

import os
import resource
import statistics
import subprocess
import sys

RUNS = 15
PREDICT = ("-m", "memmodel", "predict", "--gpu", "A100", "--seq", "16384")
MODEL = ("-m", "memmodel", "model", "--gpu", "H100", "--seq", "8k", "--like")
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    'python -c "import click"': ("-c", "import click"),
    "memmodel predict --json": (*PREDICT, "--json"),
    "memmodel predict": PREDICT,
    "memmodel model, 8B": (*MODEL, "llama-3-8b", "--batch", "2"),
    "memmodel model, 405B": (*MODEL, "llama-3.1-405b"),
}
TARGETS = {"memmodel predict --json": 5, "memmodel predict": 8}  # times a bare Python
SECONDS = {"memmodel model, 8B": 0.5, "memmodel model, 405B": 1.0}
HEAVY = ("numpy", "sympy", "torch", "matplotlib")


def environment() -> dict[str, str]:
    """The environment of the process, with byte code allowed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(arguments: tuple[str, ...]) -> float:
    """Processor time of one process, its output thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def medians(runs: int = RUNS) -> dict[str, float]:
    """Median seconds by command."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        seconds(arguments)
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    return {name: statistics.median(times) for name, times in taken.items()}


def heavy_imports(arguments: tuple[str, ...]) -> list[str]:
    """Packages that take long to import and that the command imported all the same."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, env=environment()
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    return [name for name in HEAVY if name in imported]


def main() -> int:
    """Print the table; the status."""
    found = medians()
    bare = found["python -c pass"]
    print(f"{'command':26} {'median':>8} {'over bare Python':>18} {'target':>8}")
    for name, median in found.items():
        target = f"{TARGETS[name]} x" if name in TARGETS else f"{SECONDS[name]} s" if name in SECONDS else ""
        print(f"{name:26} {median:6.3f} s {median / bare:15.1f} x  {target:>8}")
    heavy = {name: heavy_imports(COMMANDS[name]) for name in (*TARGETS, *SECONDS)}
    for name, imported in heavy.items():
        print(f"{name} imports {', '.join(imported) or 'none of ' + ', '.join(HEAVY)}")
    return 1 if any(heavy.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
