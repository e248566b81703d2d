"""PyTorch's compiler (dynamo, AOTAutograd, Inductor): its settings, its errors, and where it can be replaced.

Its modules are imported when something is compiled: they take seconds.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch

# No files, no worker processes, no benchmarks: pad_mm and autotuning would time kernels.
_INDUCTOR = {
    "fx_graph_cache": False,
    "fx_graph_remote_cache": False,
    "autotune_local_cache": False,
    "autotune_remote_cache": False,
    "bundle_triton_into_fx_graph_cache": False,
    "compile_threads": 1,
    "shape_padding": False,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "triton.cudagraphs": False,
}
_FUNCTORCH = {"enable_autograd_cache": False, "enable_remote_autograd_cache": False, "bundled_autograd_cache": False}
# The first would skip torch.compile while a dispatch mode is on, as the watcher is; errors are to be raised.
_DYNAMO = {"inline_torch_dispatch_torch_compile": False, "automatic_dynamic_local_pgo": False, "suppress_errors": False}


class Place(NamedTuple):
    """An attribute that is replaced: of which object, and its name."""

    where: Any
    name: str

    @property
    def now(self) -> Any:
        """The attribute as it is now."""
        return getattr(self.where, self.name)


class Places(NamedTuple):
    """The attributes of the compiler that a trace replaces.

    Attributes:
        compile_fx: Inductor's entry, called with a graph and example inputs.
        module: a lowered graph becomes the code that is run. vectors: whether the CPU's compiler knows an instruction.
        proxy: dynamo adds a call to its graph. joint_passes: Inductor's passes over forward and backward in one graph.
        lowering: Inductor's lowering of one graph. patterns: `torch` for its pattern matcher.
        attention: the call that it puts in the place of attention written out.
    """

    compile_fx: Place
    module: Place
    vectors: Place
    proxy: Place
    joint_passes: Place
    lowering: Place
    patterns: Place
    attention: Place


def places() -> Places:
    """The places of this PyTorch. Raises ImportError for one that is built otherwise."""
    from torch._dynamo.output_graph import SubgraphTracer
    from torch._inductor import compile_fx, cpu_vec_isa, pattern_matcher
    from torch._inductor.fx_passes import fuse_attention
    from torch._inductor.graph import GraphLowering

    return Places(
        compile_fx=Place(compile_fx, "compile_fx"),
        module=Place(GraphLowering, "compile_to_module"),
        vectors=Place(cpu_vec_isa.VecISA, "check_build"),
        proxy=Place(SubgraphTracer, "create_proxy"),
        joint_passes=Place(compile_fx, "_recursive_joint_graph_passes"),
        lowering=Place(compile_fx, "fx_codegen_and_compile"),
        patterns=Place(pattern_matcher, "torch"),
        attention=Place(fuse_attention, "_scaled_dot_product_attention"),
    )


def devices_seen(gpu: torch.device) -> Iterator[tuple[Any, str, Any]]:
    """(class, name, method) with which code that dynamo traces sees its tensors on a GPU."""
    from torch._dynamo.variables import ConstantVariable
    from torch._dynamo.variables.tensor import TensorVariable

    for name, seen in (("device", gpu), ("is_cuda", True), ("is_cpu", False)):
        if hasattr(TensorVariable, f"method_attr_{name}"):
            yield TensorVariable, f"method_attr_{name}", lambda *_, seen=seen: ConstantVariable.create(seen)


@contextmanager
def fresh_dynamo() -> Iterator[None]:
    """Nothing compiled before is used, nothing compiled within stays, and files go to a folder that goes away."""
    with ExitStack() as stack:
        files = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": files}))
        import torch._dynamo  # which makes that folder

        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)  # what goes wrong is in the error
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        stack.callback(torch._dynamo.reset)
        torch._dynamo.utils.counters.clear()
        # Dynamo skips the tracer's own frames, rather than compile them.
        torch._dynamo.trace_rules.add("memmodel.tracer")
        yield


@contextmanager
def planning() -> Iterator[None]:
    """Within, the compiler plans without files, worker processes or benchmarks."""
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    with ExitStack() as stack:
        for part, wanted in ((torch._inductor, _INDUCTOR), (torch._functorch, _FUNCTORCH), (torch._dynamo, _DYNAMO)):
            stack.enter_context(part.config.patch(_known(part.config, wanted)))
        yield


def _known(config: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this PyTorch has."""
    return {key: value for key, value in wanted.items() if key in config._config}


def graph_breaks() -> list[str]:
    """Why dynamo broke the code into several graphs, since `fresh_dynamo`."""
    return list(torch._dynamo.utils.counters["graph_break"])


def fused_attention() -> bool:
    """Whether Inductor replaced attention by `scaled_dot_product_attention`, since `fresh_dynamo`."""
    return bool(torch._dynamo.utils.counters["inductor"]["fuse_attention"])


def errors() -> tuple[type[BaseException], ...]:
    """The errors of dynamo, AOTAutograd and Inductor."""
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
    from torch._inductor.exc import InductorError

    return BackendCompilerFailed, TorchDynamoException, InductorError


def leaves_to_eager(error: BaseException) -> bool:
    """Whether the compiler says by this error that the code is to run uncompiled."""
    from torch._dynamo.exc import SkipFrame

    return isinstance(error, SkipFrame)


def names_in_wrappers() -> dict[str, Any]:
    """Private names that the code generated for a graph uses."""
    guards: Any = torch._C._dynamo.guards
    return {"_quantized": torch.ops._quantized, "assert_size_stride": guards.assert_size_stride}
