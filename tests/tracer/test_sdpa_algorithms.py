"""`predict -a sdpa` and a trace of the same call: the same events, launches, memory, time and choice."""

from typing import Any

import pytest
from traced_events import events

from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import Mask
from memmodel.attention.scores import Scores
from memmodel.cases import on_gpu
from memmodel.gpus import load_gpu
from memmodel.recorder import recorded
from memmodel.rules.sdpa import Backends
from memmodel.step import memory_of, time_of
from memmodel.timing import Machine
from memmodel.timing.known import community
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting, traced
from memmodel_kernels import checkpointed, naive
from memmodel_kernels.sdpa import BACKENDS, sdpa
from memmodel_validate.events import program_events

MASKS = (Mask(), Mask(causal=True), Mask(causal=True, window=37))


def both(case: Case, gpu: str, backends: tuple[str, ...] = BACKENDS) -> tuple[Any, Any]:
    """The case as traced and as recorded, on a GPU."""
    case = on_gpu([case], load_gpu(gpu))[0]
    shapes = {"q": "B,H,N,D", "k": "B,G,M,D", "v": "B,G,M,D"}
    inputs = inputs_of([f"{name}={shape}:{case.dtype.name}" for name, shape in shapes.items()])
    sizes = {"B": case.batch, "H": case.heads, "G": case.kv_heads, "N": case.seq, "M": case.kv_seq, "D": case.head_dim}

    def function(q: Any, k: Any, v: Any) -> Any:
        return sdpa(q, k, v, case.mask, case.dropout, backends)

    target = Backends(case.device.capability, gfx=case.device.gfx)
    setting = Setting(function, inputs, case.phase, case.device, target)
    return traced(setting, sizes), recorded(case)


def check_alike(case: Case, gpu: str, backends: tuple[str, ...] = BACKENDS) -> None:
    found, expected = both(case, gpu, backends)
    assert events(found.program) == events(expected.program)
    assert list(found.program.launches()) == list(expected.program.launches())
    assert [choice for choice, _ in found.choices] == expected.choices
    device = load_gpu(gpu)
    assert memory_of(found.program, "2.13", device) == memory_of(expected.program, "2.13", device)
    for machine in (Machine(device), Machine(device, community(device.id))):
        assert time_of(found.program, machine) == time_of(expected.program, machine)


@pytest.mark.parametrize("phase", ["inference", "forward", "train"])
@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.name)
@pytest.mark.parametrize("gpu", ["A100", "H100"])
def test_the_chosen_kernel_is_as_traced(gpu: str, mask: Mask, phase: str) -> None:
    """Shared heads, head dims that are padded, more keys than queries; fp32, which flash refuses."""
    for kv_heads, head_dim, keys, dtype in ((4, 64, 200, "bf16"), (2, 36, 300, "bf16"), (4, 160, 200, "fp32")):
        case = make_case(
            "sdpa", batch=2, heads=4, kv_heads=kv_heads, seq=200, kv_seq=keys, head_dim=head_dim, dtype_name=dtype,
            mask=mask, phase=phase,
        )  # fmt: skip
        check_alike(case, gpu)


@pytest.mark.parametrize("dropout", [0.0, 0.125])
@pytest.mark.parametrize("name", BACKENDS)
def test_each_kernel_is_as_traced(name: str, dropout: float) -> None:
    mask = Mask(causal=True) if name in ("flash", "cudnn") else Mask(causal=True, window=37)
    case = make_case(
        f"sdpa-{name}", batch=2, heads=4, kv_heads=4 if name == "efficient" else 2, seq=200, head_dim=64, mask=mask,
        dropout=dropout, phase="train",
    )  # fmt: skip
    check_alike(case, "H100", (name,))


def test_amds_kernel_is_as_traced() -> None:
    """Flash attention to head dims of 512, which NVIDIA's refuses."""
    case = make_case("sdpa", heads=2, seq=64, head_dim=512, phase="train")
    check_alike(case, "MI300X")
    assert [recorded(on_gpu([case], load_gpu(gpu))[0]).choices[0].backend for gpu in ("MI300X", "A100")] == [
        "flash", "efficient",
    ]  # fmt: skip


@pytest.mark.parametrize(("bias", "shape"), [("fixed", "1,h"), ("learned", "1,h"), ("learned", "b,1")])
@pytest.mark.parametrize(("algorithm", "keys"), [("naive", 200), ("checkpointed", 200), ("sdpa", 200), ("sdpa", 300)])
def test_a_bias_is_as_traced(algorithm: str, keys: int, bias: str, shape: str) -> None:
    """Numbers with and without a gradient; of 300 keys efficient reads a padded copy (multiples of 8)."""
    case = on_gpu(
        [
            make_case(
                algorithm, batch=2, heads=4, seq=200, kv_seq=keys, head_dim=64, mask=MASKS[1], phase="train",
                scores=Scores(bias, shape),
            )
        ],
        load_gpu("A100"),
    )[0]  # fmt: skip
    learns = "grad" if bias == "learned" else "nograd"
    inputs = inputs_of(
        ["q=B,H,N,D:bf16", "k=B,H,M,D:bf16", "v=B,H,M,D:bf16", f"bias={shape.upper()},N,M:bf16:{learns}"]
    )
    sizes = {"B": 2, "H": 4, "N": 200, "M": keys, "D": 64}
    function = {"naive": naive, "checkpointed": checkpointed, "sdpa": sdpa}[algorithm]

    def run(q: Any, k: Any, v: Any, bias: Any) -> Any:
        return function(q, k, v, case.mask, bias=bias)

    found, expected = traced(Setting(run, inputs, "train", case.device, Backends()), sizes), recorded(case)
    assert events_but_inputs(found.program) == events_but_inputs(expected.program)
    assert list(found.program.launches()) == list(expected.program.launches())


def events_but_inputs(program: Any) -> Any:
    """From the first forward on, as the order of the inputs differs; by size, as that of equal leaves does."""
    found = program_events(program)
    start = next(i for i, event in enumerate(found) if event.kind == "forward")
    return [(event.kind, event.nbytes) for event in found[start:]]
