"""The result of a trace: formulas, lines, work and sizes, held to the built-in model and to rewritten code."""

from typing import Any

import pytest
import torch
import traced_functions as functions
from block import Block, training_step
from traced_functions import INPUTS, SIZES

import memmodel
from memmodel.attention.case import make_case
from memmodel.base.device import CUDA
from memmodel.closed_forms import formulas
from memmodel.events.program import Alloc, Launch
from memmodel.recorder import record
from memmodel.step import memory_of, time_of
from memmodel.timing import Machine
from memmodel.tracer.formulas.symbolic import hints, traced_in_letters
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting, traced

pytestmark = pytest.mark.usefixtures("without_advice")
MODES = (torch.no_grad, torch.inference_mode)


def naive(q: Any, k: Any, v: Any) -> Any:
    import memmodel_kernels

    return memmodel_kernels.naive(q, k, v)


def naive_by_hand(q: Any, k: Any, v: Any) -> Any:
    import memmodel_kernels

    return memmodel_kernels.naive_by_hand(q, k, v)


@pytest.mark.parametrize("phase", ["inference", "train"])
@pytest.mark.parametrize(("name", "function"), [("naive", naive), ("naive-by-hand", naive_by_hand)])
def test_formulas_are_the_built_in_ones(name: str, function: Any, phase: str) -> None:
    """At every sampled size the largest branch of each phase is the built-in closed form's."""
    found = memmodel.trace(function, INPUTS, step=phase, at=SIZES).forms
    assert found is not None
    case = make_case(name, batch=2, heads=3, seq=256, head_dim=32, phase=phase)
    theirs = formulas(case)
    letters = dict(zip("bhnd", "BHND", strict=True))
    for n, d in ((4096, 64), (16, 4096), (3, 2), (100, 133)):
        sizes = {"B": 5, "H": 7, "N": n, "D": d}
        for phase_name, branches in theirs.peaks.items():
            mine = max(found.value(b.expression, sizes) for b in found.peaks[phase_name])
            expected = max(
                int(b.expression.subs({s: sizes[letters[s.name]] for s in b.expression.free_symbols})) for b in branches
            )
            assert mine == expected
    assert found.region == "every size at least 2"


@pytest.mark.parametrize(("name", "function"), [("naive", naive), ("naive-by-hand", naive_by_hand)])
def test_memory_work_and_time_are_the_built_in_ones(name: str, function: Any) -> None:
    found = memmodel.trace(function, INPUTS, step="train", at=SIZES, gpu="H100", formulas=False)
    case = make_case(name, batch=2, heads=3, seq=256, head_dim=32, torch=torch.__version__)
    program = record(case)
    assert found.memory == memory_of(program, case.torch, found.gpu)
    mine, theirs = (list(p.launches()) for p in (found.program, program))
    assert mine == theirs
    assert found.time is not None
    assert found.time.seconds == time_of(program, Machine(found.gpu)).seconds


def test_nothing_of_a_traces_time_to_expect_is_below_its_bound() -> None:
    """One kernel on so few bytes that it waits for its launch, whose least and expected times are near."""
    found = memmodel.trace(lambda x: x * 2, ["x=4,8"], gpu="A100", formulas=False)
    bound, expected = found.time, found.calibrated
    assert bound is not None
    assert expected is not None
    assert expected.low is not None
    assert bound.seconds <= expected.low <= expected.seconds


def test_formulas_hold_at_sizes_they_were_not_traced_at() -> None:
    forms = memmodel.trace(functions.in_chunks, INPUTS, step="train", at=SIZES).forms
    assert forms is not None
    assert "N a multiple of 4" in forms.region
    for n in (64, 512, 1000):
        sizes = SIZES | {"N": n}
        setting = Setting(functions.in_chunks, inputs_of(INPUTS), "train", CUDA)
        again = memmodel.trace(functions.in_chunks, INPUTS, step="train", at=sizes, formulas=False)
        for phase, peak in again.memory.phase_peaks.items():
            assert max(forms.value(b.expression, sizes) for b in forms.peaks[phase]) == peak
        assert traced(setting, sizes).operators == again.operators


def test_a_size_that_the_code_loops_over_is_fixed() -> None:
    forms = memmodel.trace(functions.looped, INPUTS, at=SIZES).forms
    assert forms is not None
    assert forms.fixed == {"N": 256}
    assert "N fixed at 256" in forms.region


def test_equal_sizes_stay_apart() -> None:
    """B = H = 8: the product B·H must not become a square, nor N² vanish in it."""
    forms = memmodel.trace(naive, INPUTS, at={"B": 8, "H": 8, "N": 64, "D": 64}).forms
    assert forms is not None
    assert {str(s) for s in forms.peaks["forward"][0].expression.free_symbols} == {"B", "H", "N", "D"}
    values = hints("BHND", {"B": 8, "H": 8, "N": 64, "D": 64})
    assert len(set(values.values())) == 4
    assert all(value % 8 == 0 for value in values.values())


def test_conditions_of_the_run_are_shown() -> None:
    def split(x: Any) -> Any:
        return x.view(x.shape[0], 4, x.shape[1] // 4) * 2

    symbolic = traced_in_letters(Setting(split, inputs_of("x=N,C"), "inference", CUDA), {"N": 7, "C": 64})
    assert any(c.subs(symbolic.symbols["C"], 6) == False for c in symbolic.conditions)  # noqa: E712
    forms = memmodel.trace(split, {"x": "N,C"}, at={"N": 7, "C": 64}).forms
    assert forms is not None
    assert "C a multiple of 4" in forms.region


def test_a_size_that_the_code_divides_by_another_is_a_multiple_of_it() -> None:
    inputs = {"q": "B,H,N,D", "k": "B,G,N,D", "v": "B,G,N,D"}
    sizes = {"B": 3, "H": 8, "G": 2, "N": 64, "D": 16}
    found = memmodel.trace(functions.grouped, inputs, step="forward", at=sizes)
    assert found.forms is not None
    assert found.forms.region == "H = 4·G, every size at least 2"
    more = sizes | {"H": 12, "G": 3}
    again = memmodel.trace(functions.grouped, inputs, step="forward", at=more, formulas=False)
    for phase, peak in again.memory.phase_peaks.items():
        assert max(found.forms.value(b.expression, more) for b in found.forms.peaks[phase]) == peak


def test_a_size_of_one_is_a_number() -> None:
    forms = memmodel.trace(naive, INPUTS, at=SIZES | {"B": 1}).forms
    assert forms is not None
    assert forms.fixed == {"B": 1}


@pytest.mark.parametrize("cast", [False, True])
def test_inference_mode_takes_composites_apart_as_autograd_does(cast: bool) -> None:
    def run(a: Any, b: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16, enabled=cast):
            scores = torch.einsum("bnd,bmd->bnm", a, b)
            return torch.nn.functional.linear(scores.softmax(-1), b[0].T) @ a.transpose(1, 2)

    def under(mode: Any) -> list[Any]:
        def inside(a: Any, b: Any) -> Any:
            with mode():
                return run(a, b)

        setting = Setting(inside, inputs_of({"a": "2,24,16", "b": "2,24,16"}), "own", CUDA)
        return [(e.op, e.nbytes) if isinstance(e, Alloc) else e for e in traced(setting, {}).program.events[3:]]

    shown = [[x if isinstance(x, tuple) and len(x) == 2 else type(x) for x in under(mode)] for mode in MODES]
    assert shown[0] == shown[1]


def test_lines_of_the_peak() -> None:
    found = memmodel.trace(functions.three_names, INPUTS, at=SIZES)
    scores = 2 * 3 * 256 * 256 * 2
    output = 2 * 3 * 256 * 32 * 2
    assert [line.nbytes for line in found.lines] == [scores, scores, scores, output]
    assert [line.names for line in found.lines] == [("scores",), ("scaled",), ("weights",), ("output",)]
    assert all(line.file.endswith("traced_functions.py") for line in found.lines)
    assert found.lines[1].text == "scaled = scores / math.sqrt(q.shape[-1])"
    inputs = 3 * output
    assert sum(line.nbytes for line in found.lines) + inputs == found.memory.live_peak_bytes


def test_gradients_are_named_and_belong_to_the_line_whose_backward_they_are() -> None:
    found = memmodel.trace(functions.three_names, INPUTS, step="train", at=SIZES)
    names = {record.name for record in found.tensors}
    assert {"q", "dout", "weights", "output", "grad(weights)", "grad(scaled)", "q.grad", "v.grad"} <= names
    first = found.lines[0]
    assert first.backward
    assert first.text.startswith("weights = torch.softmax")
    kept = {record.name: record.kept_by for record in found.tensors}
    assert kept["weights"] in ("saved for SoftmaxBackward0", "saved for BmmBackward0")


def test_the_largest_size_is_checked_on_both_sides() -> None:
    sizes = {"B": 8, "H": 12, "N": 4096, "D": 64}
    found = memmodel.trace(naive, INPUTS, at=sizes, over="N", formulas=False)
    assert found.largest is not None
    assert found.largest.first_failing is not None
    for n, expected in ((found.largest.largest, True), (found.largest.first_failing, False)):
        again = memmodel.trace(naive, INPUTS, at=sizes | {"N": n}, formulas=False)
        assert again.memory.fits is expected


@pytest.mark.parametrize("step", ["inference", "train"])
def test_a_module_and_its_parameters(step: str) -> None:
    model = Block()
    before = [p.detach().clone() for p in model.parameters()]
    found = memmodel.trace(model, {"x": "B,N,48"}, step=step, at={"B": 2, "N": 40}, formulas=False)
    names = {record.name for record in found.tensors}
    assert {"x", "qkv.weight", "norm1.weight"} <= names
    parameters = sum(4 * p.numel() for p in model.parameters())
    held = sum(r.nbytes for r in found.tensors if r.name in dict(model.named_parameters()))
    assert held == parameters
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(type(p) is torch.nn.Parameter and p.grad is None for p in model.parameters())


def test_a_step_with_its_optimizer_holds_two_states_per_parameter() -> None:
    model, step = training_step(foreach=False)
    found = memmodel.trace(step, {"x": "B,N,48"}, step="own", at={"B": 2, "N": 40}, formulas=False)
    assert list(found.memory.phase_peaks) == ["forward", "backward", "optimizer"]
    inputs = [e for e in found.program.events if isinstance(e, Alloc) and e.op == "zeros_like"]
    assert sum(int(e.nbytes) for e in inputs) == 2 * sum(4 * p.numel() for p in model.parameters())


def test_flash_keeps_output_and_log_sum_exp() -> None:
    fused = torch.nn.functional.scaled_dot_product_attention
    inputs = dict.fromkeys(("query", "key", "value"), "B,H,N,D:bf16")
    found = memmodel.trace(fused, inputs, step="train", at=SIZES, torch_version="2.10")
    vector, rows = 2 * 3 * 256 * 32 * 2, 2 * 3 * 256 * 4
    seed = sum(r.nbytes for r in found.tensors if r.nbytes <= 16)
    assert found.memory.saved_bytes == vector + rows + seed


def test_plain_attention_adds_its_mask_in_place_as_the_cpu_does() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from traced_events import traced_events

    from memmodel.base.device import CPU
    from memmodel_validate.events import in_order
    from torch_events import real_events

    def body(t: Any) -> None:
        q, k, v = (t.empty(2, 3, 40, 24, requires_grad=True) for _ in range(3))
        dout = t.empty(2, 3, 40, 24)
        with sdpa_kernel(SDPBackend.MATH):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.backward(dout)

    assert traced_events(body, CPU) == in_order(real_events(body))


def test_dropout_on_cuda_keeps_a_byte_per_element() -> None:
    def dropped(x: Any) -> Any:
        return torch.nn.functional.dropout(x, 0.1, True)

    found = memmodel.trace(dropped, {"x": "N,N"}, step="forward", at={"N": 64}, formulas=False)
    assert found.memory.saved_bytes == 64 * 64


def test_dropout_and_attention_inside_pytorchs_own_functions_are_cudas() -> None:
    layer = torch.nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
    found = memmodel.trace(
        lambda x: layer(x, x, x, need_weights=False)[0], {"x": "B,N,32"}, step="forward", at={"B": 2, "N": 64}
    )
    ops = {e.op for e in found.program.events if isinstance(e, Alloc)}
    assert "_scaled_dot_product_efficient_attention" in ops


def test_half_softmax_in_float_converts_in_the_kernel_for_float16_alone() -> None:
    def upcast(x: Any) -> Any:
        return torch.softmax(x, -1, dtype=torch.float32)

    peaks = {
        dtype: memmodel.trace(upcast, {"x": f"N,N:{dtype}"}, at={"N": 64}, formulas=False).memory.live_peak_bytes
        for dtype in ("fp16", "bf16")
    }
    assert peaks == {"fp16": 64 * 64 * (2 + 4), "bf16": 64 * 64 * (2 + 4 + 4)}


def test_work_of_what_is_not_known_is_listed_and_its_bytes_are_not_lost() -> None:
    def odd(x: Any) -> Any:
        return torch.special.i0(torch.fft.fft(x).abs())

    found = memmodel.trace(odd, {"x": "N,N"}, at={"N": 64}, formulas=False)
    assert any("fft" in op for op in found.unknown)
    launches = [e for e in found.program.events if isinstance(e, Launch) and "fft" in e.name]
    assert launches
    assert all(launch.work.hbm_bytes > 0 for launch in launches)


def test_constants_that_the_code_holds_count_among_the_inputs() -> None:
    mask = torch.ones(64, 64, dtype=torch.bool)
    found = memmodel.trace(lambda x: x.masked_fill(mask, 0.0), {"x": "N,N"}, at={"N": 64}, formulas=False)
    assert found.memory.live_peak_bytes == 64 * 64 * (1 + 4 + 4)
    assert "constant" in {record.name for record in found.tensors}


def test_a_view_of_a_constant_is_the_constant() -> None:
    found = memmodel.trace(functions.times_a_constant, {"x": "N,32"}, step="train", at={"N": 64}, formulas=False)
    weight, rows = 32 * 32 * 4, 64 * 32 * 4
    assert found.memory.phase_peaks == {"forward": weight + 3 * rows, "backward": weight + 4 * rows}
