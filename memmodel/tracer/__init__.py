"""The tracer: the memory of any PyTorch function, from one run on tensors without data.

The only package of the core that imports torch, and only when `memmodel.trace` is asked for. Tracing runs the
user's code.
"""
