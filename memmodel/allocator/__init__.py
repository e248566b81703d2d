"""The CUDA caching allocator: `allocated` and `reserved` from a sequence of requests."""

from memmodel.allocator.blocks import Block
from memmodel.allocator.caching import CachingAllocator, OutOfMemory
from memmodel.allocator.config import AllocatorConfig

__all__ = ["AllocatorConfig", "Block", "CachingAllocator", "OutOfMemory"]
