"""The KV cache of decoding: its pages, its dtype, and the number of splits in which it is read."""

from typing import NamedTuple

from memmodel.base.dtypes import DType, short_name
from memmodel.sizes.dims import Dim, ceil_div

MOST_SPLITS = 128  # of flash-attention: csrc/flash_attn/flash_api.cpp, set_params_splitkv


class Cache(NamedTuple):
    """A KV cache as `decode` has it.

    Attributes:
        page: keys in a page, whose place a block table tells; None for (b, g, m, d) tensors.
        dtype: of its elements; None for that of the queries.
        splits: parts in which the keys are read; None for flash-attention's choice.
    """

    page: Dim | None = None
    dtype: DType | None = None
    splits: int | None = None

    def pages(self, keys: Dim) -> Dim:
        """Pages of a sequence of that many keys; the last may be partly empty."""
        return ceil_div(keys, self.page)

    def described(self) -> str:
        """The settings that differ from the default, in words: "fp8_e4m3 cache, pages of 16 keys, 4 splits"."""
        words = (
            "" if self.dtype is None else f"{short_name(self.dtype)} cache",
            "" if self.page is None else f"pages of {self.page} keys",
            "" if self.splits is None else f"{self.splits} splits",
        )
        return ", ".join([word for word in words if word])


PLAIN = Cache()
