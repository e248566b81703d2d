"""What PyTorch on CUDA does otherwise than fake tensors on a CPU show: put right while code is traced."""
