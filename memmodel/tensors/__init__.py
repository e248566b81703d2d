"""Tensors without data: their layout, the tape that records them, and autograd over them.

`memmodel.rules` says what each operator launches, allocates and saves; `memmodel.recording` is the torch-like namespace
that algorithms use.
"""
