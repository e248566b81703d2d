"""Layers under torch.compile: what they keep for backward, and the kernels between products."""

from dataclasses import replace

from memmodel import recording as xp
from memmodel.events.liveness import saved_bytes
from memmodel.events.program import Launch
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.program import program_of
from memmodel.recording import Tape
from memmodel_kernels.feed_forward import gated

H, F, HEADS, GROUPS, D, TOKENS, BYTES = 512, 1536, 8, 2, 64, 128, 2


def kept(layers, **setting):
    arch = listed("llama-3-8b").architecture
    arch = replace(
        arch,
        hidden=H,
        ffn=F,
        heads=HEADS,
        kv_heads=GROUPS,
        head_dim=D,
        value_dim=D,
        rotary_dim=D,
        vocab=1000,
        layers=layers,
    )
    return saved_bytes(program_of(model_case(arch, seq=TOKENS, compiled=True, **setting)))


def test_a_compiled_layer_keeps_each_input_of_a_product_or_of_attention_once():
    # The layer's input, both normed streams, the one between the blocks, queries and what attention made: 6 H a token;
    # keys and values; gate, up and their product: all in 16 bits. In fp32 a number a row of each norm, and a head's;
    # and the state of the random generator, 24 bytes.
    widths = 6 * H + 2 * GROUPS * D + 3 * F
    # An eager loss keeps log-probabilities in fp32 and the sum of weights, a compiled one its logits in bf16.
    assert kept(4, eager_loss=True) - kept(4) == (4 - BYTES) * TOKENS * 1000 + 4
    assert kept(4) - kept(3) == TOKENS * (BYTES * widths + 4 * (2 + HEADS)) + 24


def test_a_gated_unit_is_one_kernel_each_way_that_touches_each_tensor_once():
    with Tape() as tape:
        gate, up = (xp.zeros(TOKENS, F, dtype=xp.bfloat16).requires_grad_() for _ in range(2))
        start = len(tape.events)
        gated(gate, up, "silu-glu", compiled=True).sum().backward()
    one = TOKENS * F * BYTES
    forward, *_, backward = (e for e in tape.events[start:] if isinstance(e, Launch))
    assert (forward.work.read, forward.work.written) == (2 * one, one)
    assert (backward.work.written, len(backward.sizes)) == (2 * one, 0)
    assert backward.work.read - 2 * one in (BYTES, one)  # a gradient of ones is expanded
