"""Command lines, files and calls that are nearly right, drawn from a seed: an answer or one clear sentence."""

import contextlib
import importlib
import inspect
import io
import json
import math
import os
import random
import resource
import signal
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memmodel
from memmodel.base.errors import UsageError
from memmodel.base.files import DATA
from memmodel.cli import run
from memmodel.cli.commands import COMMANDS, Parameter
from memmodel.cli.options import MODEL_SETTINGS

ODD = [
    "0",
    "-1",
    "4096.9",
    "1e308",
    "-1e-308",
    "1e400",
    "5e-324",
    "nan",
    "inf",
    "0x10",
    "1_",
    "\u00bd",
    "\u0663",
    "\uff11\uff12",
]
ODD += ["2147483648", "2147483649", "1180591620717411303424", "-", "--", ",", ":", "*", "1:", "1:2:0", "1:9:*1"]
ODD += ["flash,,naive", "{}", "{names}", "%s", "~", "/", "[red]x[/b]"]
ODD += ["", " ", "\n", "\x1b[31m", "\udcff", "a\0b", "A" * 5000, "9" * 5000, "\N{GRINNING FACE}"]
SIZES = ["1", "2", "7", "64", "1k", "4097", " 3 ", "1M"]
FILES = {
    "empty": b"",
    "bytes": bytes(range(256)),
    "name\x1b[31m": b"{}",
    "truncated.json": b'{"schema": 1, "kind": "calibration", "gpu":',
    "deep.json": b"[" * 100_000,
    "big.json": b"9" * 5000,
    "good.toml": b'name = "G"\nbandwidth_GBps = 1000\ncapacity_GiB = 4\n',
    "own.toml": b'name = "G"\nbase = "own.toml"\n',
    "truncated.pickle": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}",
    "code.pickle": b"cos\nsystem\n(S'touch ran'\ntR.",
    "int.pickle": b"\x80\x02K\x01.",
}
PATHS = [*FILES, "folder.toml", "loop.json", "pipe", "pipe.svg", "/dev/zero", "/dev/full", "/dev/stdin"]
PATHS += ["missing", "no/x.svg", "out.html", "out.md", "a\0b.svg", "x" * 5000]
MANY = ["gpus", "tp", "pp", "dp", "dp-shard", "cp", "ep", "world", "rank"]
WORDS = {  # values that the options take, more or less
    "--gpu": ["A100", "T4", "B100", "mi300x", "gb10", "local", "A100,H100", "H100 MIG 1g.10gb"],
    "--like": ["gpt2", "llama-3.2-1b", "gemma-2-9b"],
    "--model": ["gpt2", "llama-3.2-1b", "deepseek-v2-lite", *PATHS],
    "--set": ["checkpoint=block", "gpus=8", "batch=2", "seq", "=1", "x=y", "dtype=fp8", "lora=1M"],
    "--dtype": ["bf16", "fp16", "fp32", "fp64", "fp8", "BF16"],
    "--mask": ["none", "causal", "window"],
    "--dropout": ["0", "0.1", "1", "-0.1", "0.999999999999"],
    "--phase": ["inference", "forward", "train", "prefill", "decode"],
    "--cache-dtype": ["auto", "fp8", "fp8_e5m2", "bf16", "fp3"],
    "--bias": ["fixed", "learned", "alibi"],
    "--torch": ["2.4", "2.13", "2.99", "3", "2.11.0+cu130"],
    "--algorithm": [
        "naive",
        "flash",
        "decode",
        "chunked",
        "flash,flash",
        "compiled,checkpointed",
        "flash-attn-3",
        "sdpa",
    ],
    "--over": ["seq", "batch", "heads", "kv-seq", "head_dim", "N"],
    "--against": ["batch", "heads", "seq"],
    "--sizes": ["1,2", "8", "1,", "0"],
    "--seq": [*SIZES, "1:9", "1k:4k:*2", "4:1", "1,1", "1:100000000"],
    "--format": ["csv", "json"],
    "--device": ["0", "9"],
    "--alloc-conf": ["backend:x", "a:b", "expandable_segments:True", "roundup_power2_divisions:[256:1,>:8]"],
    "--capacity": ["1GiB", "1_0"],
    "--host": ["8us", "0s", "1"],
    "--kernel": ["vllm-fa3", "x"],
    "--price": ["A100=2", "H100=", "A100=nan", "T4=-1", "=3"],
    "--sort": ["time", "cost", "memory", "name"],
    "--optimizer": ["adamw", "sgd", "muon"],
    "--checkpoint": ["none", "block", "selective", "attention"],
    "--attention": ["eager", "naive", "sdpa", "flash"],
    "--loss": ["full", "native", "in-place", "chunked", "chunked-logits", "fused", "0"],
    "--lora-targets": ["q,v", "all", "q,"],
    "--quantize": ["nf4", "fp8", "none", "awq"],
    "--kv-cache": ["fp8", "auto", "int4"],
    "--schedule": ["gpipe", "1f1b", "interleaved"],
    "--framework": ["huggingface", "megatron"],
    "--link": ["pcie-5", "4xib-ndr", "pcie-5,4xib-ndr", "0xib-ndr"],
    "--input": ["q=B,H,N,D:bf16", "k=B,H,N,D:bf16", "v=B,H,N,D:bf16", "q=", "x=1,2:x", "q=N:bf16"],
    "--at": ["B=8,H=12,N=2k,D=64", "N=1", "B=0", "N=N"],
    "--sweep": ["N=1k:4k:*2", "N=", "B=1,2"],
    "--hf": ["LlamaForCausalLM", *PATHS],
    "--zero": ["0", "1", "2", "3", "4"],
    **{f"--{name}": ["1", "2", "8", "64"] for name in MANY},
    **dict.fromkeys(("--gpu-file", "--calibration", "--config", "--ledger", "--output", "--plot"), PATHS),
}
ARGUMENTS_OF = {
    "trace": ["x:y", "os:getcwd", "pipe:f", "/dev/zero:f", *PATHS],
    "formulas": ["naive", "flash", "sdpa", "chunked"],
    "replay": PATHS,
    "gpus": ["A100", *PATHS],
    "models": ["gpt2", *PATHS],
    "completion": ["bash", "zsh", "fish"],
}
LONG = ("accuracy", "validate", "calibrate", "explore")  # right, they work for minutes: of these only what is wrong
NEEDED = {"model": ["--like", "gpt2"], "trace": [], "report": ["-o", "out.md", "--force"]}
MOST_BYTES, MOST_SECONDS = 1 << 30, 30  # of a command: memory beyond that of this process, and CPU time


def hostile_line(draw: random.Random) -> list[str]:
    """A command with some of its options, half of them with values that they take, half with something odd."""
    name = draw.choice(list(COMMANDS))
    parameters = importlib.import_module(f"memmodel.cli.{name}").command.parameters
    options = [one for one in parameters if one.kind == "option"]
    words = [name]
    for one in draw.sample(options, min(draw.randint(0, 5), len(options))):
        word = draw.choice([word for spelling in one.words for word in spelling.split("/") if word.startswith("-")])
        words += [word] if one.settings.get("is_flag") else [word, draw.choice(values_of(one, draw.random() < 0.5))]
    if any(one.kind == "argument" for one in parameters) and draw.random() < 0.9:
        words.append(draw.choice([*ARGUMENTS_OF[name], *ODD]))
    elif draw.random() < 0.8:
        words += NEEDED.get(name, [])
    return [*words, draw.choice(["--no-such-option", "--json=x", "--force=1"])] if name in LONG else words


def values_of(option: Parameter, right: bool) -> list[str]:
    """Values for an option: those that it takes, or odd ones."""
    known = next((WORDS[word] for word in option.words if word in WORDS), None)
    return (known or SIZES) if right else ODD


VALUES: list[Any] = [None, True, 0, -1, 1, 2.5, math.nan, math.inf, 2**31, 10**30, "", "x", b"x", [], ["naive"], {}]
VALUES += [
    object(),
    ("flash", 3),
    1j,
    "bf16",
    "causal",
    "64",
    "\uff11\uff12",
    range(3),
    int,
    "local",
    "inference",
    (),
    set(),
]
VALUES += [[None], np.array([1, 2]), np.float32(3), "A" * 5000, "a\0b", "/dev/zero", "pipe", "folder.toml"]
WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    5,
    1e-320,
    1e-308,
    1e308,
    math.nan,
    math.inf,
    10**400,
    "",
    "\x1b[31m",
    [],
    [[1]],
    {},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder to work in, with files that are nearly right."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMMODEL_HOME", str(tmp_path))
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    Path("folder.toml").mkdir()
    os.mkfifo("pipe")
    os.mkfifo("pipe.svg")
    Path("loop.json").symlink_to("loop.json")
    yield
    assert not Path("ran").exists()


def answered(words: list[str]) -> None:
    """Run a command; within the limits it must answer with numbers, or refuse with one sentence."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), limited(words):
        status = run(words)
    said, answer = error.getvalue(), out.getvalue()
    assert status in (0, 2), words
    assert bool(said) == (status == 2), words
    assert (said.count("\n"), len(said) < 1000) == ((status == 2), True), words
    if status == 0 and {"--json", "--data"} & set(words):
        json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} in the JSON of {words}"))
    assert not {"nan", "inf"} & set(answer.casefold().replace(",", " ").split()), words


@contextlib.contextmanager
def limited(what: object) -> Iterator[None]:
    """Within, allocating more than MOST_BYTES is a MemoryError, and more than MOST_SECONDS of work fails."""

    def late(*_: object) -> None:
        pytest.fail(f"more than {MOST_SECONDS} s: {what}")

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_DATA, (own_bytes() + MOST_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def own_bytes() -> int:
    """The bytes that RLIMIT_DATA counts, of this process now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) << 10


@cache
def hostile_lines() -> list[tuple[str, ...]]:
    """A thousand command lines, but each once: one without options is drawn again and again."""
    draw = random.Random(0)
    return list(dict.fromkeys(tuple(hostile_line(draw)) for _ in range(1000)))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_hostile_command_lines(part: int) -> None:
    for line in hostile_lines()[part::10]:
        answered(list(line))


CASE = memmodel.make_case("flash", seq=64)
FUNCTIONS: list[tuple[Any, dict[str, Any], Sequence[str]]] = [  # arguments that are right, and names of more
    (memmodel.predict, {"seq": 64, "algorithms": "flash"}, ()),
    (memmodel.make_case, {"algorithm": "flash"}, ()),
    (memmodel.compare, {"gpus": "A100", "seq": 64}, ("batch", "heads", "mask", "dtype", "lengths")),
    (memmodel.threshold, {"case": CASE, "gpu": "A100", "step": 1 << 14}, ()),
    (memmodel.sweep, {"case": CASE, "sizes": {}}, ()),
    (memmodel.formulas, {"case": CASE}, ()),
    (memmodel.load_gpu, {"name": "A100"}, ()),
    (memmodel.model, {"like": "gpt2", "gpu": "A100", "seq": 64}, MODEL_SETTINGS),
]


def refusal(call: Callable[[], object]) -> str:
    """The sentence that a call is refused with; "" for one that is answered."""
    try:
        call()
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_hostile_calls() -> None:
    """Functions of the package with one or two arguments that are something else."""
    draw = random.Random(0)
    for _ in range(1000):
        function, right, more = draw.choice(FUNCTIONS)
        parameters = inspect.signature(function).parameters.values()
        names = [*(one.name for one in parameters if one.kind is not one.VAR_KEYWORD), *more]
        given = {name: draw.choice(VALUES) for name in draw.sample(names, min(len(names), draw.randint(1, 2)))}
        with limited((function.__name__, given)):
            said = refusal(partial(function, **{**right, **given}))
        assert (said.count("\n"), len(said) < 1000) == (0, True), given


def spoilt(value: Any, draw: random.Random) -> Any:
    """A document in which one value is replaced, or left out."""
    if not isinstance(value, dict) or not value or draw.random() < 0.05:
        return draw.choice(WRONG)
    key = draw.choice(sorted(value))
    rest = {name: one for name, one in value.items() if name != key}
    return rest if draw.random() < 0.05 else {**rest, key: spoilt(value[key], draw)}


def toml(value: Any) -> str:
    """A value as TOML writes it; what it cannot say, as text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return "nan" if value != value else str(value) if isinstance(value, float) else json.dumps(value)


@pytest.mark.slow
def test_files_with_one_wrong_value() -> None:
    draw = random.Random(0)
    calibration = json.loads(Path(DATA, "calibrations", "a100-80gb-sxm.json").read_bytes())
    gpu = tomllib.loads(Path(DATA, "gpus", "a100-80gb-sxm.toml").read_text(encoding="utf-8"))
    for _ in range(100):
        Path("c.json").write_text(json.dumps(spoilt(calibration, draw)))
        answered(
            ["predict", "--calibration", "c.json", *draw.choice([["--json"], ["-a", "flash"], ["--dtype", "fp16"]])]
        )
        wrong = spoilt(gpu, draw)
        if isinstance(wrong, dict):
            lines = (f"{json.dumps(key)} = {toml(value)}\n" for key, value in wrong.items())
            Path("g.toml").write_text("".join(lines))
        answered(["predict", "--gpu-file", "g.toml", *draw.choice([["--json"], []])])


@pytest.mark.parametrize(
    "name", ["config", "calibration", "case", "gpu", "gpus", "model", "prices", "sizes", "host", "mask"]
)
def test_no_argument_of_a_wrong_type_is_a_traceback(name: str) -> None:
    """What is no such thing is refused in one sentence, by every function that has the argument."""
    case = memmodel.make_case("flash", seq=64)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (
            memmodel.predict,
            {"gpu": "A100", "algorithms": "flash", "seq": 64, "config": None, "calibration": None, "host": None},
        ),
        (memmodel.make_case, {"algorithm": "flash", "mask": None}),
        (memmodel.formulas, {"case": case}),
        (memmodel.model, {"like": "gpt2", "gpu": "A100", "seq": 64, "calibration": None}),
        (memmodel.compare, {"gpus": "A100", "seq": 64, "prices": None, "model": None}),
        (memmodel.threshold, {"case": case, "gpu": "A100", "config": None}),
        (memmodel.sweep, {"case": case, "sizes": None, "config": None, "calibration": None}),
    ]
    for function, given in calls:
        for value in (True, 2.5, 10**30, "x", b"x", [1], {"x": 1}, object(), np.array(64), np.int64(64), 1j, int):
            if name in given:
                with pytest.raises(UsageError):
                    function(**{**given, name: value})
