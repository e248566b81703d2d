"""One harness per recorded table: what its script does with memory, in the script's order.

A harness takes the library (`torch` or `memmodel.recording`), a row, `mark` and the attention
function. `mark` begins a phase where the script resets the peak or reads `memory_allocated()`; the phases
that are read back are "forward" and "backward" (see `memmodel_evidence.memory`).
"""

from functools import partial

from memmodel_evidence import attention as scripts
from memmodel_evidence.harnesses import summed, upstream
from memmodel_evidence.harnesses.script import Harness

HARNESSES: dict[str, Harness] = {
    "seed-eager": partial(upstream.upstream_gradient, attention=scripts.handout),
    "seed-compiled": partial(upstream.upstream_gradient, attention=scripts.compiled_by_hand),
    "markmrli-eager": partial(summed.zeroed_grads, attention=scripts.handout),
    "markmrli-compiled": partial(summed.zeroed_grads, attention=scripts.compiled_by_hand),
    "yyin-eager": partial(summed.retained_graph, attention=scripts.handout),
    "yyin-compiled": partial(summed.retained_graph, attention=scripts.compiled_by_hand),
    "yyin-compiled-tf32": partial(summed.retained_graph, attention=scripts.compiled_by_hand),
    "enzo-eager": partial(summed.fresh_inputs, attention=scripts.handout),
    "magma27-eager": partial(summed.leaves_on_the_host, attention=scripts.library_softmax),
    "magma27-compiled": partial(summed.leaves_on_the_host, attention=scripts.compiled_library_softmax),
    "niccolo-eager": partial(summed.kept_grads, attention=scripts.unnamed_difference),
    "niccolo-compiled": partial(summed.kept_grads, attention=scripts.compiled_by_hand),
    "okazaki-eager": partial(upstream.upstream_gradient, attention=scripts.handout),
    "wuyh11-eager": partial(upstream.earlier_output, attention=scripts.handout),
    "ab2163-eager": partial(summed.dropped_grads, attention=scripts.inverted_mask),
    "brandon-eager": partial(summed.only_queries_learn, attention=scripts.handout),
    "brandon-compiled": partial(summed.only_queries_learn, attention=scripts.at_most_eight_graphs),
    "sara-eager": partial(summed.last_grads, attention=scripts.unnamed_difference),
    "sara-eager-2": partial(summed.last_grads, attention=scripts.unnamed_difference),
    "sara-compiled": partial(summed.last_grads, attention=scripts.compiled_by_hand),
    "duoan-eager": partial(summed.mask_of_positions, attention=scripts.handout),
    "tianqguo-h100-eager": partial(summed.named_loss, attention=scripts.library_softmax),
    "tianqguo-h100-eager-2": partial(summed.named_loss, attention=scripts.library_softmax),
    "tianqguo-h100-compiled": partial(summed.named_loss, attention=scripts.last_size_runs_eager),
    "tianqguo-h200-eager": partial(summed.named_loss, attention=scripts.library_softmax),
    "tianqguo-h200-compiled": partial(summed.named_loss, attention=scripts.last_size_runs_eager),
    "tianqguo-laptop-eager": partial(summed.named_loss, attention=scripts.library_softmax),
    "subha-eager": partial(summed.named_loss, attention=scripts.handout),
    "subha-compiled": partial(summed.named_loss, attention=scripts.compiled_by_hand),
    "wedsonlin-eager": partial(upstream.warm_up_output, attention=scripts.handout),
    "wedsonlin-compiled": partial(upstream.warm_up_output, attention=scripts.compiled_by_hand),
    "victorhuu-eager": partial(upstream.cloned_inputs, attention=scripts.library_softmax),
    "victorhuu-compiled": partial(upstream.cloned_inputs, attention=scripts.compiled_library_softmax),
    "sidsoc-eager": upstream.values_do_not_learn,
    "hyperion-eager": partial(summed.with_and_without_gradients, attention=scripts.handout),
    "hyperion-compiled": partial(summed.with_and_without_gradients, attention=scripts.compiled_by_hand),
    "shanning-eager": partial(upstream.forwards_first, attention=scripts.library_softmax),
    "shanning-eager-2": partial(upstream.forwards_first, attention=scripts.library_softmax),
    "jennjwang-eager": partial(
        summed.fresh_processes, attention=scripts.handout, first=frozenset({(256, 16), (1024, 16), (4096, 32)})
    ),
    "jennjwang-compiled": partial(
        summed.fresh_processes, attention=scripts.compiled_by_hand, first=frozenset({(256, 16), (256, 32), (1024, 32)})
    ),
    "christine-compiled": partial(upstream.ones_upstream, attention=scripts.compiled_by_hand),
    "damek-eager": partial(summed.two_graphs, attention=scripts.handout),
    "damek-eager-2": partial(summed.two_graphs, attention=scripts.handout),
    "damek-compiled": partial(summed.two_graphs, attention=scripts.compiled_by_hand),
    "luke-eager": partial(summed.self_attention, attention=scripts.by_amax),
    "ymao-eager": partial(summed.last_loss, attention=scripts.handout),
}
