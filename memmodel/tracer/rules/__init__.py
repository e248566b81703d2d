"""What PyTorch's kernels allocate and do that fake tensors do not tell, on CUDA and on the CPU, with sources."""
