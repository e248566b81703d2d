"""Attention of one sequence over several GPUs: context parallelism by a ring."""

from memmodel_kernels.ring.attention import ring_attention
from memmodel_kernels.ring.zigzag import joined, shard

__all__ = ["joined", "ring_attention", "shard"]
