"""Operators: one rule each for what it launches, allocates and copies.

Each file holds a family of operators. Rules are registered under ATen's names; recording tensors and
the tracer both read them. Recording tensors also need the shape of results, the gradient with the tensors it saves, and
the methods that algorithms call: for traced tensors PyTorch does these.
"""
