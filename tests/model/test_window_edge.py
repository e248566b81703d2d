"""Where a window begins to have a mask: against transformers' own choice."""

import pytest
import torch
from training import llama

from memmodel.models.record import record
from memmodel.models.setting import ModelCase


@pytest.mark.parametrize("n", [15, 16, 17])
def test_a_window_of_all_tokens_has_a_mask(n: int) -> None:
    """It hides nothing, but SDPA is not left to is_causal: `kv_length >= local_attention_size` in masking_utils.py."""
    masks = pytest.importorskip("transformers.masking_utils")
    config = pytest.importorskip("transformers").MistralConfig(sliding_window=16, attn_implementation="sdpa")
    made = masks.create_sliding_window_causal_mask(config, torch.empty(2, n, 8), attention_mask=None, cache=None)
    program = record(ModelCase(llama(layers=1, pattern="S", window=16), batch=2, seq=n))
    assert (made is not None) == any(tuple(birth.shape[-2:]) == (n, n) for birth in program.births()) == (n >= 16)
