"""The cases of `memmodel validate --suite parallel`: a program of `programs` on a number of ranks."""

from collections.abc import Iterable
from typing import NamedTuple

from memmodel.base.errors import choice

_OF_TWO = (
    "ddp", "ddp_views", "fsdp", "fsdp_kept", "fsdp_bf16", "fsdp_recomputed", "fsdp_accumulated", "tp", "tp_sp",
    "pp_gpipe", "pp_1f1b", "pp_interleaved", "pp_zero_bubble", "pp_zero_bubble_v", "pp_dual_v",
    "cp_ring", "decoder_tp", "decoder_sp", "decoder_gpt_tp", "decoder_gpt_sp",
    "decoder_gpipe", "decoder_1f1b", "decoder_interleaved", "decoder_cp", "decoder_gpt_cp",
    "decoder_gpt_1f1b", "decoder_lora_1f1b", "decoder_autocast_1f1b",
    "decoder_autocast_tp", "decoder_autocast_sp", "decoder_loss_parallel",
    "decoder_bert_tp", "decoder_bert_sp", "decoder_bert_1f1b", "decoder_bert_cp",
    "decoder_moe_sp", "decoder_lora_tp", "decoder_lora_sp", "decoder_mla_tp", "decoder_mla_sp",
    "decoder_ep", "decoder_ep_ddp", "decoder_ep_zero_1",
)  # fmt: skip
_OF_THREE = ("ddp", "fsdp", "pp_1f1b", "cp_ring")
_OF_FOUR = (
    "hsdp",
    "tp_fsdp",
    "fsdp",
    "pp_1f1b",
    "decoder_tp",
    "decoder_sp",
    "decoder_1f1b",
    "decoder_sp_1f1b",
    "decoder_cp",
    "decoder_sp_cp",
    "decoder_cp_1f1b",
    "decoder_ep",
    "decoder_ep_sp",
    "decoder_ep_zero_1",
    "decoder_ep_zero_2",
    "decoder_zero_2_sp",
    "decoder_fsdp_1f1b",
)


class RankCase(NamedTuple):
    """A program, and the number of ranks that run it."""

    program: str
    ranks: int

    @property
    def name(self) -> str:
        """The name on the command line: `fsdp-2`."""
        return f"{self.program.replace('_', '-')}-{self.ranks}"


def rank_cases(names: Iterable[str] = ()) -> list[RankCase]:
    """All cases, or those of these names. Raises UsageError for one that is unknown."""
    sizes = {2: _OF_TWO, 3: _OF_THREE, 4: _OF_FOUR}
    every = {case.name: case for n, programs in sizes.items() for case in (RankCase(x, n) for x in programs)}
    return [every[choice("case", name, every)] for name in dict.fromkeys(names)] or list(every.values())
