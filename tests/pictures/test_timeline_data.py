"""The timeline's numbers are the prediction's."""

from typing import Any

import pytest
from picture_cases import cases

from memmodel.allocator import AllocatorConfig
from memmodel.gpus import load_gpu
from memmodel.models.choices import model_case
from memmodel.models.predict import named_architecture
from memmodel.pictures.timeline import NAMED, model_timeline, timeline
from memmodel.predictor import predict


def test_maxima_are_those_of_the_prediction(configured: Any) -> None:
    case, gpu, sizes = configured
    shown = timeline(case, gpu)
    memory = predict(gpu, case.algorithm, **sizes)[case.algorithm].memory
    assert shown.memory == memory
    assert max(m.live_bytes for m in shown.moments) == memory.live_peak_bytes == shown.at_peak.live_bytes
    assert max(m.allocated_bytes for m in shown.moments) == memory.allocated_peak_bytes
    assert max(m.reserved_bytes for m in shown.moments) == memory.reserved_peak_bytes
    for phase, peak in memory.phase_peaks.items():
        assert max(m.live_bytes for m in shown.moments if m.phase == phase) == peak


def test_what_is_kept_when_forward_ends_is_what_the_table_says(configured: Any) -> None:
    case, gpu, _ = configured
    shown = timeline(case, gpu)
    if case.phase == "train":
        last = [m for m in shown.moments if m.phase == "forward"][-1]
        assert last.saved_bytes == shown.memory.saved_bytes


def test_bands_add_up_at_every_moment(configured: Any) -> None:
    case, gpu, _ = configured
    shown = timeline(case, gpu)
    for i, moment in enumerate(shown.moments):
        assert sum(band.live_bytes[i] for band in shown.bands) == moment.live_bytes
        assert sum(band.saved_bytes[i] for band in shown.bands) == moment.saved_bytes
        assert moment.live_bytes <= moment.allocated_bytes <= moment.reserved_bytes
        assert all(0 <= band.saved_bytes[i] <= band.live_bytes[i] for band in shown.bands)


def test_few_bands_and_the_largest_have_names(configured: Any) -> None:
    case, gpu, _ = configured
    shown = timeline(case, gpu)
    assert len(shown.bands) <= NAMED + 3
    assert shown.bands[0].kind == "inputs"
    records = predict(gpu, case.algorithm, **configured[2])[case.algorithm].tensors
    largest = max((r for r in records if r.where != "caller"), key=lambda r: r.nbytes)
    assert max(max(b.live_bytes) for b in shown.bands if b.kind == "tensor") >= largest.nbytes


def test_a_step_that_fits_only_by_giving_cache_back_is_shown_as_it_runs() -> None:
    for seq in range(15872, 16384, 128):
        (case,), gpu = cases("A100", ["naive"], {"seq": seq})
        shown = timeline(case, gpu)
        assert max(m.reserved_bytes for m in shown.moments) == shown.memory.reserved_peak_bytes


@pytest.mark.parametrize("expandable", [False, True])
def test_settings_of_the_allocator_count(expandable: bool) -> None:
    (case,), gpu = cases("A100", ["naive"], {"seq": 16384})
    config = AllocatorConfig(expandable_segments=expandable)
    shown = timeline(case, gpu, config)
    memory = predict(gpu, "naive", seq=16384, config=config)["naive"].memory
    assert max(m.reserved_bytes for m in shown.moments) == memory.reserved_peak_bytes
    assert shown.memory.fits is expandable


def test_the_peak_of_naive_attention_by_hand() -> None:
    b, h, n, d, bf16 = 2, 4, 1024, 64, 2
    (case,), gpu = cases("H100", ["naive"], {"batch": b, "heads": h, "seq": n, "head_dim": d})
    shown = timeline(case, gpu)
    matrix, vector = b * h * n * n * bf16, b * h * n * d * bf16
    assert shown.at_peak.live_bytes == 4 * matrix + 6 * vector  # P, dP, dS, P dP; q, k, v, dout, output, dV
    at_peak = {band.name: band.live_bytes[shown.peak] for band in shown.bands}
    assert at_peak["q, k, v, dout"] == 4 * vector
    assert at_peak["probs"] == at_peak["grad(probs)"] == at_peak["grad(scores)"] == matrix
    (probs,) = (band for band in shown.bands if band.name == "probs")
    assert max(probs.saved_bytes) == matrix


def test_what_is_kept_is_let_go_of_when_backward_has_used_it() -> None:
    (case,), gpu = cases("H100", ["naive"], {})
    shown = timeline(case, gpu)
    assert shown.moments[0].saved_bytes == 0
    assert shown.moments[-1].saved_bytes == 0
    (probs,) = (band for band in shown.bands if band.name == "probs")
    assert [i for i, live in enumerate(probs.live_bytes) if live] == [i for i, s in enumerate(probs.saved_bytes) if s]


def test_thousands_of_chunks_are_a_picture_too() -> None:
    (case,), gpu = cases("B200", ["chunked"], {"seq": 1 << 18, "chunk": 256})
    shown = timeline(case, gpu)
    assert len(shown.moments) > 20_000
    assert max(m.live_bytes for m in shown.moments) == shown.memory.live_peak_bytes
    assert max(m.allocated_bytes for m in shown.moments) == shown.memory.allocated_peak_bytes


def test_inputs_of_one_kind_are_named_once() -> None:
    """A model has hundreds of parameters: the legend has to fit below the picture."""
    case = model_case(named_architecture("gpt2"), seq=64)
    (inputs,) = (band for band in model_timeline(case, load_gpu("A100")).bands if band.kind == "inputs")
    named = inputs.name.split(", ")
    assert "parameters" in named
    assert len(named) == len(set(named)) <= 6
