"""Traced events are PyTorch's own: the CPU allocator's without CUDA's corrections, the recording tensors' with them.

These are held to the CPU allocator too, by the same runs.
"""

from typing import Any

import pytest
import torch
from block import B, C, N, training_step
from traced_events import events, recorded_program, traced_events, traced_program

from memmodel import recording
from memmodel.attention.case import make_case
from memmodel.attention.masks import Mask
from memmodel.attention.scores import Scores
from memmodel.base.device import CPU, CUDA
from memmodel.events.liveness import phase_peaks, saved_bytes
from memmodel.events.program import Alloc, Program
from memmodel.gpus import load_gpu
from memmodel.recorder import record
from memmodel.step import memory_of, time_of
from memmodel.timing import Machine
from memmodel.timing.known import community
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting, traced
from memmodel_validate.events import in_order
from pairs import Row, all_pairs
from spellings import SPELLINGS
from spellings import B as BATCH
from spellings import D as HEAD_DIM
from spellings import H as HEADS
from spellings import N as SEQ
from torch_events import real_events, recorded_events

# In float32 alone: the CPU computes these from a float32 copy of half precision, as CUDA does not (sum_kernel,
# mean_kernel).
CPU_UPCASTS = ("centred", "detached_half")


def step(spelling: Any, dtype: str, phase: str) -> Any:
    """Two steps: "train" from an upstream gradient, "loss" from a sum with gradients kept, "inference"."""

    def body(t: Any) -> None:
        grads = phase != "inference"
        shape, kind = (BATCH, HEADS, SEQ, HEAD_DIM), getattr(t, dtype)
        q, k, v = (t.empty(*shape, requires_grad=grads, dtype=kind) for _ in range(3))
        upstream = t.empty(*shape, dtype=kind) if phase == "train" else None
        for _ in range(2):
            if phase == "train":
                q.grad = k.grad = v.grad = None
                spelling(t, q, k, v).backward(upstream)
            elif phase == "loss":
                spelling(t, q, k, v).sum().backward()
            else:
                with t.no_grad():
                    spelling(t, q, k, v)

    return body


@pytest.mark.parametrize(("phase", "dtype"), [("train", "bfloat16"), ("loss", "float32"), ("inference", "float32")])
@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda f: f.__name__)
def test_spellings_are_as_the_cpu_allocator_saw_them(spelling: Any, phase: str, dtype: str) -> None:
    body = step(spelling, "float32" if spelling.__name__ in CPU_UPCASTS else dtype, phase)
    real = in_order(real_events(body))
    assert traced_events(body, CPU) == real
    assert in_order(recorded_events(body)) == real


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda f: f.__name__)
def test_spellings_make_the_events_and_launches_of_recording_tensors(spelling: Any) -> None:
    for dtype, phase in (("float32", "loss"), ("bfloat16", "train"), ("float16", "inference")):
        body = step(spelling, dtype, phase)
        traced, recorded = traced_program(body, CUDA), recorded_program(body, CUDA)
        assert events(traced) == events(recorded)
        assert list(traced.launches()) == list(recorded.launches())


def recorded_step(spelling: Any) -> Program:
    """A spelling's step on recording tensors, as `memmodel.recorder.record` runs an algorithm's."""
    shape = BATCH, HEADS, SEQ, HEAD_DIM
    with recording.Tape(CUDA) as tape:
        tape.mark("inputs")
        q, k, v = (recording.empty(*shape, dtype=recording.bfloat16, requires_grad=True) for _ in range(3))
        dout = recording.empty(*shape, dtype=q.dtype)
        tape.mark("forward")
        out = spelling(recording, q, k, v)
        tape.mark("backward")
        out.backward(dout)
        tape.mark("after")
        del out
        q.grad = k.grad = v.grad = None
    return tape.program


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda f: f.__name__)
def test_a_step_takes_the_memory_and_the_time_of_recording_tensors(spelling: Any) -> None:
    """Saved bytes, peaks, allocated and reserved bytes, and times by datasheet and by calibration.

    All of them follow from events and launches, which the test above compares in more dtypes and phases.
    """
    inputs = inputs_of([f"{name}=B,H,N,D:bfloat16" for name in "qkv"])
    setting = Setting(lambda q, k, v: spelling(torch, q, k, v), inputs, "train", CUDA)
    found = traced(setting, {"B": BATCH, "H": HEADS, "N": SEQ, "D": HEAD_DIM}).program
    expected, gpu = recorded_step(spelling), load_gpu("A100")
    traced_memory, recorded_memory = memory_of(found, "2.13", gpu), memory_of(expected, "2.13", gpu)
    if spelling.__name__.startswith("checkpointed"):  # what it makes again is saved: a trace does not see by whom
        traced_memory = traced_memory._replace(groups=recorded_memory.groups)
    assert traced_memory == recorded_memory
    for machine in (Machine(gpu), Machine(gpu, community(gpu.id))):
        assert time_of(found, machine) == time_of(expected, machine)


@pytest.mark.parametrize("foreach", [True, False])
def test_a_training_step_of_a_transformer_block_with_adamw(foreach: bool) -> None:
    model, train = training_step(foreach=foreach)
    program = traced(Setting(train, inputs_of(["x=B,N,C"]), "own", CPU, iterations=2), {"B": B, "N": N, "C": C}).program
    parameters = {key for key, name in program.names.items() if name != "x"}
    assert len(parameters) == len(list(model.parameters()))
    rest = [e for e in program.events if getattr(e, "key", None) not in parameters]
    x = torch.empty(B, N, C)

    def body(_: Any) -> None:
        train(x)
        train(x)

    real = in_order(real_events(body))
    mine = events(Program([e for e in rest if getattr(e, "key", None) != _key(program, "x")], {}, {}))
    assert mine == real


def _key(program: Program, name: str) -> int:
    return next(key for key, given in program.names.items() if given == name)


MASKS = {mask.name: mask for mask in (Mask(), Mask(causal=True), Mask(causal=True, window=37))}
OPTIONS = {
    "name": ["naive", "naive-by-hand", "chunked", "checkpointed"],
    "phase": ["inference", "forward", "train"],
    "dtype": ["fp32", "bf16", "fp16", "fp64"],
    "mask": list(MASKS),
    "dropout": [0.0, 0.1],
}
ROWS = list(all_pairs(OPTIONS, lambda row: row["name"] != "chunked" or row["dropout"] == 0))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(map(str, row.values())))
def test_algorithms_are_as_recorded(row: Row) -> None:
    """Every two values of different options stand together in a row."""
    import memmodel_kernels

    name, phase, dtype, mask = row["name"], row["phase"], row["dtype"], MASKS[row["mask"]]
    case = make_case(
        name, batch=2, heads=4, kv_heads=2, seq=200, head_dim=24, dtype_name=dtype, mask=mask, phase=phase, chunk=64,
        dropout=row["dropout"],
    )  # fmt: skip
    function = getattr(memmodel_kernels, name.replace("-", "_"))
    options: dict[str, Any] = {"mask": mask}
    options |= {"chunk": 64} if name == "chunked" else {"dropout": row["dropout"]}
    inputs = inputs_of([f"q=B,H,N,D:{dtype}", f"k=B,G,N,D:{dtype}", f"v=B,G,N,D:{dtype}"])
    setting = Setting(lambda q, k, v: function(q, k, v, **options), inputs, phase, CUDA)
    found = traced(setting, {"B": 2, "H": 4, "G": 2, "N": 200, "D": 24}).program
    expected = record(case)
    assert events(found) == events(expected)
    assert list(found.launches()) == list(expected.launches())
    assert phase_peaks(found) == phase_peaks(expected)
    assert saved_bytes(found) == saved_bytes(expected)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("phase", ["inference", "forward", "train"])
def test_flash_attention_by_its_registered_operator(phase: str, dtype: str, deterministic: bool) -> None:
    from memmodel_kernels import flash_attention

    name, cap = "flash-deterministic" if deterministic else "flash", 30.0 if dtype == "bf16" else None
    dropout = 0.0 if cap else 0.1
    sizes = {"batch": 2, "heads": 4, "kv_heads": 2, "seq": 200, "head_dim": 32}
    case = make_case(name, dtype_name=dtype, phase=phase, dropout=dropout, scores=Scores(softcap=cap), **sizes)
    inputs = inputs_of([f"q=B,H,N,D:{dtype}", f"k=B,G,N,D:{dtype}", f"v=B,G,N,D:{dtype}"])
    options: dict[str, Any] = {"deterministic": deterministic, "softcap": cap, "dropout": dropout}
    setting = Setting(lambda q, k, v: flash_attention(q, k, v, **options), inputs, phase, CUDA)
    found, expected = traced(setting, {"B": 2, "H": 4, "G": 2, "N": 200, "D": 32}).program, record(case)
    assert events(found) == events(expected)
    assert list(found.launches()) == list(expected.launches())


@pytest.mark.parametrize("deterministic", [True, False])
def test_packed_sequences_are_as_recorded(deterministic: bool) -> None:
    """A trace takes sequences as alike: 201 tokens of two are 101 and 100."""
    from memmodel_kernels import flash_attention_varlen

    name = "flash-deterministic" if deterministic else "flash"
    case = make_case(name, heads=4, kv_heads=2, head_dim=32, lengths=(101, 100), mask=Mask(causal=True))
    inputs = inputs_of(["q=T,4,32:bf16", "k=T,2,32:bf16", "v=T,2,32:bf16", "cu=3:int32"])

    def function(q: Any, k: Any, v: Any, cu: Any) -> Any:
        return flash_attention_varlen(q, k, v, cu, cu, 101, 101, causal=True, deterministic=deterministic)

    found, expected = traced(Setting(function, inputs, "train", CUDA), {"T": 201}).program, record(case)
    assert phase_peaks(found) == phase_peaks(expected)
    assert saved_bytes(found) == saved_bytes(expected)
    assert list(found.launches()) == list(expected.launches())


def test_decode_is_as_recorded() -> None:
    from memmodel_kernels import decode_eager

    case = make_case("decode-eager", batch=2, heads=4, kv_heads=2, seq=1, kv_seq=300, head_dim=24, phase="inference")
    caches = ["k_cache=B,G,M,D:bf16", "v_cache=B,G,M,D:bf16"]
    inputs = inputs_of(["q=B,H,1,D:bf16", *caches])

    def function(q: Any, k_cache: Any, v_cache: Any) -> Any:
        new_k, new_v = (torch.empty(x.shape[0], x.shape[1], 1, x.shape[3], dtype=q.dtype) for x in (k_cache, v_cache))
        return decode_eager(q, new_k, new_v, k_cache, v_cache)

    found = traced(Setting(function, inputs, "inference", CUDA), {"B": 2, "H": 4, "G": 2, "M": 300, "D": 24}).program
    assert events(found) == events(record(case))
    assert list(found.launches()) == list(record(case).launches())


def test_inputs_are_named_and_the_upstream_gradient_is_one_of_them() -> None:
    found = traced(Setting(lambda x: x * x, inputs_of("x=N"), "train", CUDA), {"N": 10}).program
    born = [e.key for e in found.phases()["inputs"] if isinstance(e, Alloc)]
    assert [found.names[key] for key in born] == ["x", "dout"]
