"""FlashAttention-2 in Triton: forward and backward kernels, their launch, and offline compilation."""
