"""Kernel tests run on a GPU where there is one, else in Triton's interpreter, which must be asked for at import."""

import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

collect_ignore_glob: list[str] = []

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("*")  # installed without the torch extra
else:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or deterministic matmuls are refused

    @pytest.fixture(autouse=True)
    def poisoned() -> Iterator[None]:
        """Fill every torch.empty with NaN, so that an element nobody wrote cannot pass."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        yield
        torch.use_deterministic_algorithms(before)

    @pytest.fixture(autouse=True, scope="session")
    def patched_once() -> None:
        """Let the interpreter patch each of Triton's modules once per launch.

        It does so at every call of a helper, and spends a third of its time on it. Where its parts have other names,
        it stays as it is.
        """
        interpreter: Any = importlib.import_module("triton.runtime.interpreter")
        if not all(hasattr(interpreter, name) for name in ("_patch_lang", "_LangPatchScope", "GridExecutor")):
            return
        patch, launch, patched = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

        def patch_once(fn: Any) -> Any:
            modules = {id(value) for value in fn.__globals__.values() if isinstance(value, ModuleType)}
            if modules & languages <= patched:
                return interpreter._LangPatchScope()
            patched.update(modules)
            return patch(fn)

        def launch_anew(self: Any, *arguments: Any, **options: Any) -> Any:
            patched.clear()
            return launch(self, *arguments, **options)

        languages = {id(interpreter.tl), id(interpreter.tl.core)}
        interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launch_anew

    @pytest.fixture(autouse=True, scope="session")
    def products() -> None:
        """Multiply as a GPU does: bfloat16, and K Q^T in fp32 to the bit as Q K^T.

        The interpreter keeps bfloat16 as 16-bit integers: it multiplies those, and rounds down. In fp32 the compiler
        adds one product after another for both; NumPy's matmul has an order for each layout, its einsum one for all.
        """
        interpreter: Any = importlib.import_module("triton.runtime.interpreter")
        builder, tl, handle = interpreter.InterpreterBuilder, interpreter.tl, interpreter.TensorHandle
        numpy = interpreter.np
        cast, dot = builder.cast_impl, builder.create_dot

        def cast_to_nearest(self: Any, x: Any, to: Any) -> Any:
            if (x.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
                return cast(self, x, to)
            bits = x.data.view("uint32")
            return handle(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16"), tl.bfloat16)

        def dot_of_numbers(self: Any, a: Any, b: Any, c: Any, *rest: Any) -> Any:
            if a.dtype.scalar == tl.float32:
                rows, columns = map(numpy.ascontiguousarray, (a.data, b.data.T))
                return handle(numpy.einsum("ik,jk->ij", rows, columns) + c.data, c.dtype.scalar)
            a, b = (cast(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
            return dot(self, a, b, c, *rest)

        builder.cast_impl, builder.create_dot = cast_to_nearest, dot_of_numbers
