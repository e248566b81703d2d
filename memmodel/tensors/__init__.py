"""Tensors without data: their layout, the tape that records them, and autograd over them.

What an operator launches, allocates and saves is said in `memmodel.rules`; the torch-shaped namespace that algorithms
use is `memmodel.recording`.
"""
