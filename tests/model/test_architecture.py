"""Parameters are counted from the list of tensors; the expected numbers are Hugging Face's own counts."""

import pytest

from memmodel.models.architecture import Architecture, Latent, Mixture, active_parameters, layer_weights, parameters

LLAMA = Architecture("llama", 128256, 32, 4096, 14336, 32, 8, 128, 128)


def gpt2() -> Architecture:
    biases = {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "fused_qkv": True}
    return Architecture(
        *("gpt2", 50257, 12, 768, 4 * 768, 12, 12, 64, 64),
        **biases,
        tied=True,
        norm="layernorm",
        activation="gelu-tanh",
        positions="learned",
        max_pos=1024,
    )


def deepseek_v3() -> Architecture:
    moe = Mixture(256, 8, 2048, shared=2048, first_dense=3, scores="sigmoid")
    return Architecture(
        *("deepseek-v3", 129280, 61, 7168, 18432, 128, 128, 192, 128), moe=moe, mla=Latent(512, 64, q_rank=1536)
    )


def test_a_llama_by_hand() -> None:
    # Of a layer: q and output 4096 x 4096, k and v 1024 x 4096, gate, up, down 4096 x 14336, two norms.
    attention, ffn = 2 * 4096 * 4096 + 2 * 1024 * 4096, 3 * 4096 * 14336
    assert parameters(LLAMA) == {
        "embedding": 128256 * 4096,
        "attention": 32 * attention,
        "feed-forward": 32 * ffn,
        "experts": 0,
        "norms": (2 * 32 + 1) * 4096,
        "head": 128256 * 4096,
    }


@pytest.mark.parametrize(
    ("arch", "count"),
    [(LLAMA, 8_030_261_248), (gpt2(), 124_439_808), (deepseek_v3(), 671_026_404_352)],
    ids=lambda value: value.name if isinstance(value, Architecture) else "",
)
def test_counts_are_those_of_transformers(arch: Architecture, count: int) -> None:
    assert sum(parameters(arch).values()) == count


def test_a_token_meets_the_experts_that_it_goes_to() -> None:
    arch = deepseek_v3()
    unused = 58 * (256 - 8) * 3 * 7168 * 2048
    assert active_parameters(arch) == sum(parameters(arch).values()) - unused
    assert active_parameters(LLAMA) == sum(parameters(LLAMA).values())


def test_layers_differ_by_pattern_mixture_and_positions() -> None:
    moe = Mixture(8, 2, 64, first_dense=1, every=2)
    arch = Architecture(*("mixed", 100, 6, 64, 128, 4, 4, 16, 16), moe=moe, pattern="SSF", no_rotary_every=3)
    assert [kind.attention for kind in arch.kinds()] == list("SSFSSF")
    assert [kind.mixture for kind in arch.kinds()] == [False, True, False, True, False, True]
    assert [kind.rotary for kind in arch.kinds()] == [True, True, False, True, True, False]


def test_fused_projections_hold_the_same_parameters() -> None:
    fused = Architecture(*("fused", 100, 1, 64, 96, 4, 2, 16, 16), fused_qkv=True, fused_gate_up=True)
    apart = Architecture(*("apart", 100, 1, 64, 96, 4, 2, 16, 16))
    assert parameters(fused) == parameters(apart)
    assert {w.name for w in layer_weights(fused, fused.kind(0))} >= {"qkv.weight", "ffn.gate_up.weight"}
