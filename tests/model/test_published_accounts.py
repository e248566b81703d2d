"""Activations of a layer beside an account by hand: Korthikanti et al., "Reducing Activation Recomputation" (2022)."""

import pytest
from training import llama

from memmodel.events.liveness import saved_bytes
from memmodel.models.record import record_in_full
from memmodel.models.setting import ModelCase


@pytest.mark.parametrize(("b", "s", "a", "h"), [(2, 64, 4, 64), (3, 128, 8, 96)])
def test_a_gpt_layer_in_16_bits(b: int, s: int, a: int, h: int) -> None:
    """34 s b h + 5 a s^2 b bytes (their section 4.1), and what that leaves out: the causal mask, statistics of norms.

    Attention: 11 s b h + 5 a s^2 b (input, queries, keys, values, the projection's input, its dropout mask of a byte;
    probabilities, their dropout mask and the dropped ones). Feed-forward of 4 h: 19 s b h. Two norms: 4 s b h. Left out
    are a mask of a byte a pair of tokens, and a mean and a deviation in fp32 a row for each norm.
    """
    sizes = {"hidden": h, "ffn": 4 * h, "heads": a, "kv_heads": a, "head_dim": h // a, "value_dim": h // a}
    gpt = {"norm": "layernorm", "activation": "gelu", "positions": "learned", "max_pos": s, "ffn_bias": True}

    def saved(layers: int) -> int:
        arch = llama(layers=layers, **sizes, **gpt)
        case = ModelCase(arch, b, s, attention="naive", dropout=0.1, attention_dropout=0.1)
        return int(saved_bytes(record_in_full(case)))

    assert saved(2) - saved(1) == (34 * s * b * h + 5 * a * s**2 * b) + s * s + 2 * 2 * 4 * s * b
