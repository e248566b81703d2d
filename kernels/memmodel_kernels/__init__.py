"""The attention algorithms and the Triton kernels."""
