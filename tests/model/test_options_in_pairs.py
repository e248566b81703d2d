"""A training step under every pair of options makes PyTorch's allocator events, to the byte."""

from typing import Any

import pytest
from training import beyond_numbers, llama, small_case, two_steps

from memmodel.models.architecture import Latent, Mixture
from memmodel.models.setting import Adapter
from pairs import Row, all_pairs, pairs_of
from torch_events import real_events, recorded_events

_GPT = {"norm": "layernorm", "activation": "gelu", "positions": "learned", "max_pos": 13, "tied": True}
_BIASES = {"qkv_bias": True, "output_bias": True, "ffn_bias": True}
_GEMMA = {"norm": "rmsnorm+1", "placement": "both", "pattern": "SF", "window": 5, "qk_norm": "head"}
_LATENT = {"heads": 3, "kv_heads": 3, "head_dim": 14, "value_dim": 10, "mla": Latent(kv_rank=20, rope=6, q_rank=12)}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt": _GPT | _BIASES,
    "gemma": _GEMMA | {"attention_cap": 50.0, "logit_cap": 30.0, "tied": True},
    "olmo": {"norm": "rmsnorm-fp32", "placement": "output", "qk_norm": "all", "sinks": True},
    "mixture": {
        "moe": Mixture(experts=6, top_k=2, width=16, shared=24, groups=3, best_groups=2, scores="softmax-as-is")
    },
    "latent": _LATENT,
}
ADAPTERS = {
    "none": None,
    "lora": Adapter(4, (), in_fp32=False),
    "qlora": Adapter(4, (), dropout=0.1, four_bit=True),
}
UPDATES: dict[str, dict[str, Any]] = {
    "after": {},
    "accumulated and clipped": {"microbatches": 2, "clip": True},
    "masters": {"masters": True},
    "in backward": {"in_backward": True},
    "autocast": {"autocast": True},
}
OPTIONS = {
    "arch": list(ARCHITECTURES),
    "optimizer": ["adamw", "adamw-fused", "adamw-loop", "adamw-8bit", "momentum"],
    "updates": list(UPDATES),
    "loss": ["full", "native", "in-place", "chunked", "fused", "chunked-logits"],
    "checkpoint": ["none", "block", "selective", "attention"],
    "attention": ["sdpa", "naive", "eager"],
    "adapter": list(ADAPTERS),
    "dropout": [0.0, 0.1],
    "keep_logits": [False, True],
    "fused_norms": [False, True],
}


def allowed(row: Row) -> bool:
    """Without plain attention of the library in a selective checkpoint, which torch runs by other operators there.

    Grouped products and the loss with its head do not take part in autocast; adapters have a base in the low precision;
    attention that is recomputed alone under autocast differs in the order of its casts; sinks learn in eager attention.
    """
    plain = (row["arch"], row["attention"], row["checkpoint"]) == ("latent", "sdpa", "selective")
    outside = row["updates"] == "autocast" and (
        row["arch"] == "mixture"
        or row["loss"] in ("fused", "in-place")
        or row["adapter"] != "none"
        or row["checkpoint"] == "attention"
    )
    without_sinks = row["arch"] == "olmo" and row["attention"] != "eager"
    return not (plain or outside or without_sinks)


ROWS = list(all_pairs(OPTIONS, allowed))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(map(str, row.values())))
def test_a_row(row: Row) -> None:
    plain = {name: row[name] for name in ("optimizer", "loss", "checkpoint", "attention", "dropout", "keep_logits")}
    arch = llama(layers=1, **ARCHITECTURES[row["arch"]])
    dtype = "bf16" if row["arch"] == "mixture" or row["updates"] == "autocast" else "fp32"
    case = small_case(
        arch, dtype, **plain, **UPDATES[row["updates"]], adapter=ADAPTERS[row["adapter"]], chunks=3,
        fused_norms=row["fused_norms"],
    )  # fmt: skip
    body = two_steps(case)
    assert beyond_numbers(recorded_events(body)) == beyond_numbers(real_events(body))


def test_every_pair_stands_in_a_row() -> None:
    held = set().union(*map(pairs_of, ROWS))
    wanted = {frozenset({("loss", x), ("updates", y)}) for x in OPTIONS["loss"] for y in list(UPDATES)[:4]}
    assert wanted <= held
