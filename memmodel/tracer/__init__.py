"""The tracer: the memory of any PyTorch function, from one run on tensors without data.

The only package of the core that imports torch, and only when something is traced. Tracing runs the user's code.
"""
