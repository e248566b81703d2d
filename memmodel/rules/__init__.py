"""Operators: what each launches, allocates, copies and saves, said once.

A family of operators is one file. It holds, under PyTorch's names (ATen's), the rules of its operators, which both the
recording tensors and the tracer read, and what only recording tensors need, since PyTorch's own have it: the shape of
results, the gradient with what it saves, and the methods that algorithms call.
"""
