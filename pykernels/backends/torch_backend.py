"""PyTorch on the CPU, whichever is installed: EmbeddingBag, mv and mm, softmax, on the same memory as the others."""

from __future__ import annotations

import os
from typing import Any

from pykernels.backends import torch_dense
from pykernels.backends.pytimed import Arrays, Passes, PyBackend, looped, part_rows
from pykernels.model import Machine, Placement, Problem

DTYPES = {
    "embedding_bag": ("fp32", "int8"), "embedding_gather": ("fp32",), "gemv": ("fp64", "fp32", "bf16"),
    "softmax": ("fp32", "fp16", "bf16"),
}  # fmt: skip
_WHY = {
    ("embedding_bag", "fp16"): "torch's EmbeddingBag gives results in the table's type, not in fp32",
    ("embedding_bag", "bf16"): "torch's EmbeddingBag gives results in the table's type, not in fp32",
    ("embedding_bag", "int4"): "torch's 4-bit rows have scale and bias in fp16, so they are other rows",
}


class TorchBackend(PyBackend):
    """Implements backends.base.Backend."""

    name = "torch"
    package = "torch"

    def lacks(self, problem: Problem) -> str:
        """Kernels and dtypes it does not have."""
        if problem.kernel in torch_dense.DTYPES:
            return torch_dense.lacks(problem)
        if problem.kernel not in DTYPES:
            return f"torch has no {problem.kernel} here"
        if problem.dtype not in DTYPES[problem.kernel]:
            common = f"torch has no {problem.dtype} {problem.kernel} with the same operands"
            return _WHY.get((problem.kernel, problem.dtype), common)
        if problem.kernel == "embedding_bag" and problem.dtype == "int8" and getattr(problem, "mode", "sum") != "sum":
            return "torch pools int8 rows by sum only"
        return ""

    def names(self, problem: Problem) -> tuple[str, ...]:
        """One."""
        return ("plain",)

    def load(self, placement: Placement, machine: Machine) -> None:
        """Import torch with its one OpenMP pool bound to the placement's CPUs."""
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(placement.threads)
        if placement.threads > 1:
            os.environ["OMP_PROC_BIND"] = "true"
        import torch

        torch.set_num_threads(placement.threads)
        torch.set_grad_enabled(False)

    def facts(self) -> dict[str, Any]:
        """Version and threads."""
        import torch

        return {"torch": str(torch.__version__), "torch_threads": torch.get_num_threads()}

    def bind(self, problem: Any, variant: str, arrays: Arrays) -> Passes:
        """Passes of the kernel, over tensors that share the operands' memory."""
        tensors = {name: _tensor(array, dtype) for (name, dtype), array in _typed(problem, arrays)}
        if problem.kernel in torch_dense.DTYPES:
            return torch_dense.bind(problem, tensors)
        return {"embedding_bag": bags, "embedding_gather": gather, "gemv": gemv, "softmax": softmax}[problem.kernel](
            problem, tensors
        )


def _typed(problem: Problem, arrays: Arrays) -> Any:
    return (((operand.name, operand.dtype), arrays[operand.name]) for operand in problem.operands())


def _tensor(array: Any, dtype: str) -> Any:
    import torch

    tensor = torch.from_numpy(array.view("int16") if dtype == "bf16" else array)
    return tensor.view(torch.bfloat16) if dtype == "bf16" else tensor


def bags(problem: Any, a: Arrays) -> Passes:
    """EmbeddingBag; the quantised operator for int8 rows, which hold scale and bias as ours do. Both make a new tensor
    a call, which is what their user gets: it is copied into the output only to be checked."""
    import torch

    indices, offsets = a["indices"], a["offsets"]
    weights = a["weights"] if problem.weighted else None
    mode = {"sum": 0, "mean": 1}[problem.mode]
    results: list[Any] = [None]

    def call(number: int) -> None:
        chosen = indices[number % problem.sets]
        results[0] = torch.embedding_bag(a["table"], chosen, offsets, False, mode, False, weights, True)[0]

    def quantised(number: int) -> None:
        chosen = indices[number % problem.sets]
        results[0] = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            a["table"], chosen, offsets, False, 0, False, weights, None, True
        )

    return looped(quantised if problem.dtype == "int8" else call, finish=lambda: a["out"].copy_(results[0]))


def gather(problem: Any, a: Arrays) -> Passes:
    """index_select into the output."""
    import torch

    def call(number: int) -> None:
        torch.index_select(a["table"], 0, a["indices"][number % problem.sets], out=a["out"])

    return looped(call)


def gemv(problem: Any, a: Arrays) -> Passes:
    """mv for one vector, mm for more, into the output."""
    import torch

    matrix, x, y = a["a"], a["x"], a["y"]

    def call(number: int) -> None:
        rows = part_rows(problem, number)
        if problem.batch == 1:
            torch.mv(matrix[rows], x[0], out=y[0, rows])
        else:
            torch.mm(x, matrix[rows].t(), out=y[:, rows])

    return looped(call)


def softmax(problem: Any, a: Arrays) -> Passes:
    """softmax into the output; with a mask, fully masked rows are set to zero as ours are."""
    import torch

    x, mask = a["x"], a["mask"] if problem.mask else None

    def call(number: int) -> None:
        rows = part_rows(problem, number)
        s = x[rows]
        if problem.scale != 1.0 or mask is not None:
            s = s * problem.scale if mask is None else torch.add(mask, s, alpha=problem.scale)
        out = a["out"][rows]
        if s.dtype == out.dtype:
            torch.softmax(s, 1, out=out)
        else:
            out.copy_(torch.softmax(s, 1))
        if mask is not None:
            torch.nan_to_num_(out, nan=0.0)

    return looped(call)


BACKEND = TorchBackend()
