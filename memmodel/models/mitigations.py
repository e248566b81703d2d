"""Changes to a training step that lower its memory, each with what the step then takes."""

from collections.abc import Iterator
from dataclasses import replace

from memmodel.allocator import AllocatorConfig
from memmodel.base.errors import UsageError
from memmodel.gpus import Gpu
from memmodel.models.choices import usual_targets
from memmodel.models.program import live_peak, memory_program
from memmodel.models.setting import EAGER, Adapter, ModelCase
from memmodel.prediction import Memory, Mitigation
from memmodel.step import allocated_peak, room_bytes

RANK = 16  # of suggested adapters
Change = tuple[str, ModelCase, AllocatorConfig | None]


def mitigations(case: ModelCase, before: Memory, gpu: Gpu, config: AllocatorConfig | None = None) -> list[Mitigation]:
    """The changes that lower the allocated peak or make the step fit; least memory first.

    Where live bytes alone exceed the GPU, they stand for the allocated ones: a replay would be that of a larger GPU.
    """
    room, found = room_bytes(gpu), []
    for change, changed, settings in _changes(case, before, config):
        try:
            live = live_peak(changed)
        except UsageError:
            continue  # this setting does not allow the change
        fits: bool | None = False
        if room is not None and live > room:
            peak, less = live, before.live_peak_bytes - live
        else:
            peak, fits = allocated_peak(memory_program(changed), case.torch, gpu, settings)
            less = before.allocated_peak_bytes - peak
        if less > 0 or (fits and before.fits is False):  # other settings of the allocator leave the peak as it is
            found.append(Mitigation(change, peak, less, fits))
    return sorted(found, key=lambda one: one.allocated_peak_bytes)


def _changes(case: ModelCase, before: Memory, config: AllocatorConfig | None) -> Iterator[Change]:
    """(name, changed case, allocator settings) of each change to try."""
    if case.phase != "train":
        return
    if before.fits is False and before.excess == "fragmentation":
        settings = replace(config or AllocatorConfig(), expandable_segments=True)
        yield "PYTORCH_ALLOC_CONF=expandable_segments:True", case, settings
    if case.checkpoint == "none":
        yield "recompute each layer: --checkpoint block", replace(case, checkpoint="block"), config
    if case.attention == EAGER and not case.arch.sinks:
        yield "scores never in memory: --attention flash-attn", replace(case, attention="flash-attn"), config
    for loss, words in (("chunked", "logits in chunks"), ("fused", "loss fused with the head")):
        if case.loss in ("full", "native"):
            yield f"{words}: --loss {loss}", replace(case, loss=loss), config
    if case.batch > 1 and case.batch % 2 == 0:
        halved = replace(case, batch=case.batch // 2, microbatches=2 * case.microbatches)
        yield (
            f"half the batch, accumulated: --batch {halved.batch} --microbatches {halved.microbatches}",
            halved,
            config,
        )
    if before.fits is False:
        yield from _optimizers(case, config)


def _optimizers(case: ModelCase, config: AllocatorConfig | None) -> Iterator[Change]:
    from memmodel_kernels.optimizers import OPTIMIZERS

    if case.adapter is not None:
        return
    for name in ("adamw-fused", "adamw-8bit"):
        if case.optimizer.startswith("adamw") and name != case.optimizer:
            yield f"{OPTIMIZERS[name].title}: --optimizer {name}", replace(case, optimizer=name), config
    if not (case.in_backward or case.clip or case.masters or case.microbatches > 1):
        yield "updates in backward: --in-backward", replace(case, in_backward=True), config
    adapter = Adapter(RANK, usual_targets(case.arch))
    yield f"adapters alone learn: --lora {RANK}", replace(case, adapter=adapter, masters=False), config
