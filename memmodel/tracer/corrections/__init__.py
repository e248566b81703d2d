"""Corrections while code is traced: where PyTorch on CUDA differs from fake tensors on the CPU."""
