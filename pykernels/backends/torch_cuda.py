"""PyTorch on a GPU as a peer, where it is installed with CUDA: EmbeddingBag, matrix times vectors, softmax.

torch is imported when a session opens. The library takes any torch device, so that the expressions run on a CPU too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pykernels.backends import gpu_arrays
from pykernels.backends.base import Runner
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.model import Case, Implementation, Machine, Placement, Problem, Skipped

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Any]


def softmax(torch: Any, problem: Problem, a: Arrays) -> None:
    """softmax of the scaled rows: two kernels where the scale is not 1."""
    scale = problem.scalars()[0]
    torch.softmax(a["x"] if scale == 1.0 else a["x"] * scale, dim=1, out=a["out"])


def gemv(torch: Any, problem: Problem, a: Arrays) -> None:
    """Y = X A^T by the library's product."""
    torch.matmul(a["x"], a["a"].T, out=a["y"])


def embedding_bag(torch: Any, problem: Problem, a: Arrays) -> None:
    """EmbeddingBag, summed or mean, with weights where the problem has them."""
    weights = a["weights"] if getattr(problem, "weighted", False) else None
    a["out"].copy_(
        torch.nn.functional.embedding_bag(
            a["indices"], a["table"], a["offsets"], mode=getattr(problem, "mode", "sum"), per_sample_weights=weights,
            include_last_offset=True,
        )
    )  # fmt: skip


def embedding_gather(torch: Any, problem: Problem, a: Arrays) -> None:
    """out = table[indices]"""
    torch.index_select(a["table"], 0, a["indices"], out=a["out"])


#: kernel -> (function, dtypes)
FUNCTIONS: dict[str, tuple[Callable[[Any, Problem, Arrays], None], tuple[str, ...]]] = {
    "softmax": (softmax, ("fp32", "fp16", "bf16")),
    "gemv": (gemv, ("fp64", "fp32", "fp16", "bf16")),
    "embedding_bag": (embedding_bag, ("fp32",)),
    "embedding_gather": (embedding_gather, ("fp32",)),
}


def function_for(problem: Problem) -> Callable[[Any, Problem, Arrays], None] | None:
    """The expression for a problem, or None."""
    function, dtypes = FUNCTIONS.get(problem.kernel, (None, ()))
    weighted_mean = getattr(problem, "weighted", False) and getattr(problem, "mode", "sum") == "mean"
    return None if problem.dtype not in dtypes or weighted_mean or getattr(problem, "mask", False) else function


class TorchLibrary:
    """gpu_arrays.Library over torch's current stream; bf16 travels as its bits."""

    def __init__(self, device: str) -> None:
        try:
            import torch
        except (ImportError, OSError) as error:
            raise PykernelsError(f"torch cannot be imported: {error}", hint="pip install torch") from error
        self.torch, self.device = torch, torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        if self.on_gpu and not torch.cuda.is_available():
            raise PykernelsError(f"torch {torch.__version__} sees no CUDA device", hint="pip install torch (with CUDA)")
        torch.backends.cuda.matmul.allow_tf32 = False

    def to_device(self, array: Array) -> Any:
        """A copy on the device."""
        tensor = self.torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
        tensor = tensor.view(self.torch.bfloat16) if array.dtype == np.uint16 else tensor
        return self._guarded(lambda: tensor.clone().to(self.device))

    def to_host(self, array: Any) -> Array:
        """A copy on the host."""
        found = self._guarded(lambda: array.detach().cpu())
        if found.dtype == self.torch.bfloat16:
            return np.asarray(found.view(self.torch.int16).numpy()).view(np.uint16)
        return np.array(found.numpy())

    def synchronize(self) -> None:
        """Wait."""
        if self.on_gpu:
            self._guarded(lambda: self.torch.cuda.synchronize(self.device))

    def span(self, body: Callable[[], None]) -> float:
        """Seconds between two events."""
        if not self.on_gpu:
            started = time.perf_counter()
            body()
            return time.perf_counter() - started
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._guarded(body)
        stop.record()
        self._guarded(stop.synchronize)
        return float(start.elapsed_time(stop)) / 1e3

    def facts(self) -> dict[str, Any]:
        """Versions."""
        return {"torch": self.torch.__version__, "runtime": self.torch.version.cuda or ""}

    def release(self) -> None:
        """Free what torch's allocator keeps."""
        if self.on_gpu:
            self.torch.cuda.empty_cache()

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """Out of memory as MemoryError; another error of the device ends this process's use of it."""
        try:
            return call()
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise MemoryError(str(error)) from error
            if "CUDA error" in str(error):
                raise DeviceLost(str(error)) from error
            raise


class TorchCudaSession:
    """One device."""

    def __init__(self, device: str, about: Mapping[str, Any]) -> None:
        self.library, self.about = TorchLibrary(device), about

    def prepare(self, problem: Problem, implementation: Implementation) -> Runner:
        """Tensors filled and the expression run once."""
        function = function_for(problem)
        if function is None:
            raise PykernelsError(f"torch has no {problem.kernel} of this kind on a GPU")
        return gpu_arrays.ArrayRunner(self.library, problem, lambda a: self._call(function, problem, a), self.about)

    def _call(self, function: Callable[[Any, Problem, Arrays], None], problem: Problem, a: Arrays) -> None:
        with self.library.torch.no_grad():
            function(self.library.torch, problem, a)


class TorchCudaBackend:
    """See the module."""

    name = "torch_cuda"
    kinds = ("gpu",)

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """No GPU, no torch, or no expression for it."""
        return gpu_arrays.skip("torch_cuda", "torch", bool(self.variants(case)), case, machine)

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """Not an axis."""
        return ()

    def variants(self, case: Case) -> tuple[str, ...]:
        """One."""
        return ("expression",) if function_for(case.problem) else ()

    def open(self, placement: Placement, machine: Machine) -> TorchCudaSession:
        """Import torch and choose the device."""
        about = gpu_arrays.device_facts(placement, machine)
        return TorchCudaSession(f"cuda:{placement.device.partition(':')[2] or 0}", about)


BACKEND = TorchCudaBackend()
