"""One run of the user's code on fake tensors, and what is seen of it: births, deaths, saved tensors, kernels."""
