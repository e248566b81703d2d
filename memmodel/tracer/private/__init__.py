"""PyTorch's private names: all that the tracer uses of them, and nothing else of it does.

    dispatch.py   operators, dispatch modes, trees of arguments, identities of storages
    autograd.py   nodes of the graph: their order, what they keep; views; who holds a tensor
    fake.py       tensors without data and symbolic sizes
    patches.py    what is replaced in PyTorch while a function is traced
    compiler.py   dynamo, AOTAutograd and Inductor: settings, errors, where they can be replaced
    chip.py       the GPU as Inductor asks for it
    torch_*.py    what was otherwise up to that version

Names without an underscore count as private where PyTorch documents them nowhere.
"""
