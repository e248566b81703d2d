"""Pipeline stages on recording tensors: what they hold between steps and at the peak, from first principles."""

from dataclasses import replace

import pytest

from memmodel.events.groups import COMMUNICATION, by_kind, groups_at_peak
from memmodel.events.liveness import summary
from memmodel.events.program import Alloc, Free, Program
from memmodel.expansion import _numbered as numbered
from memmodel.models import record as records
from memmodel.models import run
from memmodel.models.architecture import Architecture
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.layout import Layout, Rank
from memmodel.models.program import program_of, remembered
from memmodel.models.setting import ModelCase
from memmodel.models.share import share
from memmodel.models.step_time import stream_bytes

LLAMA = Architecture("llama", 104, 8, 48, 80, heads=8, kv_heads=4, head_dim=6, value_dim=6)
STREAM = 2 * 16 * 48 * 2  # bytes of b·n·H in bf16


def staged(stage: int = 0, microbatches: int = 1, **layout: object) -> ModelCase:
    laid_out = Layout(**layout)  # type: ignore[arg-type]
    return ModelCase(LLAMA, 2, 16, optimizer="sgd", layout=laid_out, rank=Rank(stage=stage), microbatches=microbatches)


def peak(program: Program) -> int:
    return int(summary(program).peaks["peak"])


def test_buffers_of_every_micro_batch_are_there_from_start_to_end() -> None:
    """torch's PipelineStage: a buffer for each input, one for each gradient of an output, and each input's gradient."""
    first, middle, last = (program_of(staged(stage, pp=4, microbatches=4)) for stage in (0, 1, 3))
    buffers = [
        sum(int(x.nbytes) for x in program.phases()["inputs"] if isinstance(x, Alloc) and x.shape == (2, 16, 48))
        for program in (first, middle, last)
    ]
    assert buffers == [4 * STREAM, 8 * STREAM, 4 * STREAM + 2 * STREAM]  # the last runs two, and has two gradients
    assert by_kind(groups_at_peak(last))[COMMUNICATION] == 8 * STREAM  # the last backward has made all gradients


def test_under_autocast_stages_send_the_residual_stream_in_fp32() -> None:
    """Products are in bf16, and added to a stream that the embedding has made in fp32: so is their sum, as in torch."""
    case = replace(staged(0, pp=2, microbatches=2), autocast=True)
    sent = {int(launch.sizes[0]) for launch in program_of(case).launches() if launch.name == "send"}
    assert sent == {2 * STREAM} == {int(stream_bytes(case))}


@pytest.mark.parametrize(("schedule", "held"), [("gpipe", [8, 8]), ("1f1b", [2, 1])])
def test_activations_grow_with_the_micro_batches_that_a_stage_holds(schedule: str, held: list[int]) -> None:
    """What a layer keeps at the end of the warm-up is as many times what one micro-batch keeps."""
    for stage, count in enumerate(held):
        many = kept_by_layers(staged(stage, pp=2, microbatches=8, schedule=schedule))
        one = kept_by_layers(staged(stage, pp=2, microbatches=1, schedule=schedule))
        assert many == count * one


def kept_by_layers(case: ModelCase) -> int:
    """The most bytes that feed-forwards keep for backward."""
    program = program_of(case)
    kept = {birth.key: int(birth.nbytes) for birth in program.births()
            if program.groups.get(birth.key) == "activations feed-forward"}  # fmt: skip
    live = most = 0
    for event in program.events:
        if isinstance(event, Alloc | Free) and event.key in kept:
            live += kept[event.key] if isinstance(event, Alloc) else -kept[event.key]
            most = max(most, live)
    return most


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stage", [0, 1])
def test_the_peak_is_that_of_all_micro_batches(schedule: str, stage: int) -> None:
    """In whichever of them it comes: of live bytes after every event of the step."""
    program = program_of(staged(stage, pp=2, microbatches=6, schedule=schedule))
    sizes = {birth.key: int(birth.nbytes) for birth in program.births()}
    live = [0]
    for event in program.events:
        if isinstance(event, Alloc | Free):
            live.append(live[-1] + (sizes[event.key] if isinstance(event, Alloc) else -sizes[event.key]))
    assert peak(program) == max(live)


@pytest.mark.parametrize("stage", [0, 1])
def test_the_first_micro_batches_need_not_run(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve, few show the peak that all twelve have."""
    case = staged(stage, pp=2, microbatches=12)
    some = program_of(case)
    monkeypatch.setattr(run, "shown_micro_batches", lambda layout, stage, micro_batches: micro_batches)
    remembered.cache_clear()
    every = program_of(case)
    assert len(every.events) > 2 * len(some.events)
    assert peak(every) == peak(some)


@pytest.mark.parametrize("layout", [{"pp": 2, "dp_shard": 2}, {"pp": 4, "tp": 2, "sequence_parallel": True}])
def test_layers_of_a_stage_repeat(layout: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A long stage is not run in full, and has the events of one that is."""
    case = staged(1, microbatches=4, **layout)
    assert_repeated(share(replace(case, arch=replace(LLAMA, layers=32))), monkeypatch)


@pytest.mark.parametrize("layout", [{"dp": 8, "zero": 0}, {"dp_shard": 8}, {"dp_shard": 8, "ep": 4}])
def test_layers_of_ranks_with_other_batches_repeat(layout: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose gradients are averaged in buckets or shared by rows, of several micro-batches; whose experts are shared."""
    arch = replace(listed("mixtral-8x7b").architecture, layers=9)
    assert_repeated(share(model_case(arch, seq=512, microbatches=2, **layout)), monkeypatch)


def assert_repeated(mine: ModelCase, monkeypatch: pytest.MonkeyPatch) -> None:
    full = records.record_in_full(mine).events
    monkeypatch.setattr(records, "record_in_full", None)
    assert numbered(records.record(mine).events) == numbered(full)
