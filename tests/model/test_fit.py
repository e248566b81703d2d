"""Every layout on some GPUs: what is left out, what few layers tell of many, and what is said of each."""

from dataclasses import replace
from random import Random

import pytest

from memmodel.base.errors import UsageError
from memmodel.events.liveness import summary
from memmodel.gpus import load_gpu
from memmodel.gpus.links import node_of
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.fit import fit_model
from memmodel.models.layout import Rank
from memmodel.models.program import live_peak, program_of
from memmodel.models.record import record_in_full
from memmodel.models.share import share
from memmodel.models.step_time import stages_of, step_time
from memmodel.pictures.describe import pictures_of
from memmodel.step import device_of, room_bytes
from memmodel.timing import Machine
from memmodel.timing.transfer import expected_rates

GPU = load_gpu("H100")
ARCH = replace(listed("llama-3.1-8b").architecture, layers=16)


def found(gpus=16, given=None, sequences=64, **setting):
    setting = {"framework": "megatron", "loss": "fused"} | setting
    return fit_model(model_case(ARCH, **setting), GPU, gpus, sequences=sequences, given=given)


@pytest.fixture(scope="module")
def report():
    return found()


def test_every_layout_uses_all_gpus_and_sequences(report):
    for one in (*report.fitting, *report.others):
        layout = one.case.layout
        assert layout.world == 16
        assert layout.batches * one.case.microbatches * one.case.batch == 64
        assert layout.tp <= 8  # within a machine
    assert len({(one.case.layout, one.case.checkpoint) for one in (*report.fitting, *report.others)}) > 20


def test_the_fastest_come_first_and_those_that_fit_have_room(report):
    rates = [one.tokens_per_second for one in report.fitting]
    exact = sum(one.exact for one in report.fitting)
    assert rates[exact:] == sorted(rates[exact:], reverse=True)
    assert all(one.fits and one.peak_bytes <= room_bytes(GPU) for one in report.fitting)
    assert not any(one.fits for one in report.others)


@pytest.mark.parametrize("index", [3, 8, -1])
def test_few_layers_tell_the_peak_and_the_time_of_all(report, index):
    one = report.fitting[index]
    assert not one.exact
    case = replace(one.case, device=device_of(GPU))
    stages = {0, case.layout.pp - 1}
    peaks = [summary(program_of(replace(case, rank=Rank(stage=stage)))).peaks["peak"] for stage in stages]
    assert one.peak_bytes == pytest.approx(max(peaks), rel=0.01)
    whole = step_time(case, Machine(GPU, expected_rates(GPU)), node_of(GPU), stages_of(case, program_of))
    assert one.time.seconds == pytest.approx(whole.seconds, rel=0.03)
    assert one.time.exposed == pytest.approx(whole.exposed, rel=0.1, abs=0.01 * whole.seconds)


def test_what_is_given_is_not_varied():
    report = found(given={"tp": 4, "checkpoint": "block"})
    for one in (*report.fitting, *report.others):
        assert (one.case.layout.tp, one.case.checkpoint) == (4, "block")


def test_huggingfaces_classes_are_sharded_or_replicated():
    report = found(gpus=8, given={"pp": 1, "tp": 1}, framework="huggingface", loss="full", masters=True)
    zeros = {(one.case.layout.zero, one.case.layout.dp, one.case.layout.dp_shard) for one in report.fitting}
    assert (3, 1, 8) in zeros
    assert all(zero == 3 or shards == 1 for zero, _, shards in zeros)


@pytest.mark.parametrize("zero", [0, 3])
def test_stages_have_buffers_for_all_micro_batches_and_gradients_beside_those_held(zero, monkeypatch):
    monkeypatch.setattr("memmodel.models.fit.EXACT", 0)
    given = {"tp": 2, "pp": 4, "cp": 1, "zero": zero, "checkpoint": "block"}
    found_layouts = found(given=given, framework="huggingface", loss="full")
    for one in (*found_layouts.fitting, *found_layouts.others):
        case = replace(one.case, device=device_of(GPU))
        peaks = [live_peak(replace(case, rank=Rank(stage=stage))) for stage in range(4)]
        assert one.peak_bytes == pytest.approx(max(peaks), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layers", "given"),
    [
        ("llama-3.1-8b", 8, {"tp": 2, "pp": 4}),
        ("llama-3.1-8b", 5, {"tp": 1, "pp": 1, "checkpoint": "block"}),
        ("mixtral-8x7b", 4, {"tp": 2, "pp": 1, "ep": 4}),
        ("deepseek-v2-lite", 6, {"tp": 1, "pp": 2, "ep": 2, "checkpoint": "block"}),
    ],
    ids=["stages", "data parallel", "experts", "dense layers first"],
)
def test_few_layers_give_the_peaks_of_all_to_the_byte(model, layers, given, monkeypatch):
    """Of DDP and FSDP: where weights fill buckets, and none holds a changing number of layers."""
    monkeypatch.setattr("memmodel.models.fit.EXACT", 0)
    arch = replace(listed(model).architecture, layers=layers)
    report = fit_model(model_case(arch, seq=1024), GPU, 32, sequences=128, given=given)
    for one in Random(1).sample([*report.fitting, *report.others], 2):
        case = replace(one.case, device=device_of(GPU))
        stages = range(case.layout.pp)
        full = [record_in_full(share(replace(case, rank=Rank(stage=stage)))) for stage in stages]
        assert one.peak_bytes == max(summary(program).peaks["peak"] for program in full)


def test_no_layout_is_one_sentence():
    with pytest.raises(UsageError, match=r"no layout of llama-3\.1-8b on 16 GPUs: .*fewer sizes of the layout"):
        found(given={"tp": 3})
    with pytest.raises(UsageError, match=r"on 7 GPUs: 64 sequences of a step, .*a --global-batch that it divides"):
        found(gpus=7)


def test_its_picture_has_a_mark_a_layout_and_the_room(report):
    (picture,) = pictures_of(report)
    assert len(picture.marks) >= len(report.fitting)
    assert picture.lines[0].points[0][0] == room_bytes(GPU)
    assert [entry.look.key for entry in picture.legend][:3] == ["A", "B", "C"]
