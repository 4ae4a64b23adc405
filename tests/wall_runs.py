"""A run for the memory wall's tests: typical roofs, the operator chains of two models, low-precision and sparse
products, all of known truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from synthetic import KIB, MIB, Noise, Spec, compute, kernel, run, typical

from pykernels.analysis.wall import transformer
from pykernels.model import Figure
from pykernels.store import Run

#: true slowdown of each operator against the simple roofline below
SLOWER = {"attention": 1.8, "norm": 1.1}
PEAK, DRAM = 270e9, 40e9


def layers(name: str, seq: int, dtype: str = "fp32", threads: int = 1) -> list[Spec]:
    """Records of kernel `layer`: every operator, one pass (encoder) or one token step (decoder) a call."""
    config = transformer.PRESETS[name]
    specs = []
    for op in transformer.ours(config, seq, dtype=dtype):
        calls = seq if config.kind == "decoder" else 1
        seconds = max(op.flops / PEAK, op.bytes / DRAM) * SLOWER.get(op.name, 1.05) / calls
        specs.append(_layer(name, op.name, seq, seconds, dtype, threads, op.flops / calls, op.bytes / calls))
    whole = sum(spec.truth for spec in specs) * 1e-6
    return [*specs, _layer(name, "chain", seq, whole, dtype, threads, 1.0, 1.0)]


def _layer(name: str, op: str, seq: int, seconds: float, dtype: str, threads: int, flops: float, size: float) -> Spec:
    params = {"model": name, "op": op, "seq": str(seq)}
    figure = Figure("latency", "us", 1.0)
    return Spec("layer", params, figure, seconds * 1e6, dtype=dtype, threads=threads, flops=flops, bytes=size)


def product(dtype: str, batch: int, seconds: float, size: float, name: str = "gemm", threads: int = 1) -> Spec:
    """A 4096 x 4096 product of `batch` columns."""
    flops = 2.0 * 4096 * 4096 * batch
    params = {"m": "4096", "k": "4096", "n": str(batch)}
    figure = Figure("compute", "GFLOP/s", flops)
    return Spec(
        name, params, figure, flops / seconds / 1e9, dtype=dtype, threads=threads, flops=flops, bytes=size,
        working_set=int(size),
    )  # fmt: skip


def sparse(density: float, seconds: float, rows: int = 4096) -> Spec:
    """A CSR product of rows x rows at a density, fp32."""
    params = {"rows": str(rows), "cols": str(rows), "density": f"{density:g}"}
    size = density * rows * rows * 8
    return Spec("spmv", params, Figure("bandwidth", "GB/s", size), size / seconds / 1e9, bytes=size, flops=size / 4)


def dense(seconds: float, rows: int = 4096) -> Spec:
    """The dense product it is compared with."""
    size = rows * rows * 4.0
    params = {"rows": str(rows), "cols": str(rows)}
    return Spec("gemv", params, Figure("bandwidth", "GB/s", size), size / seconds / 1e9, bytes=size, flops=size / 2)


def wall_run(seqs: Sequence[int] = (128, 512), noise: float = 0.01) -> Run:
    """Everything the memory wall reads, on one thread and, roofs alone, on two."""
    specs = [*typical(), compute(540.0, "bf16"), compute(1080.0, "int8")]
    specs += [
        Spec("chase", {"level": level}, Figure("latency", "ns", 1e4, ceiling=True, level=level, op="chase"), truth,
             working_set=16 * KIB, clock_ghz=3.7)
        for level, truth in (("L1", 1.1), ("DRAM", 110.0))
    ]  # fmt: skip
    for name in ("bert-base", "gpt2"):
        for seq in seqs:
            specs += layers(name, seq)
    weights = 4096.0 * 4096
    for batch in (1, 8, 64):
        slow = max(weights * 4 / DRAM, 2 * weights * batch / PEAK)
        for dtype, each, rate in (("fp32", 4, 1), ("bf16", 2, 2), ("int8", 1.002, 1)):
            seconds = max(weights * each / DRAM, 2 * weights * batch / PEAK / rate)
            specs.append(product(dtype, batch, min(seconds, slow), weights * each + batch * 8192 * min(each * 4, 4)))
    base = weights * 4 / DRAM
    specs += [dense(base), *(sparse(density, base * density / 0.4) for density in (0.05, 0.2, 0.6, 0.9))]
    specs.append(kernel("softmax", 8.0, 0.6))
    specs.append(kernel("gemm-square", 200.0, 80.0, working_set=48 * MIB))
    return run(specs, noise=Noise(launch=noise, sample=noise))


def write(path: str, found: Run) -> str:
    """The run as a file."""
    header = {"kind": "header", "schema": found.header.schema} | msgspec.to_builtins(found.header)
    lines = [msgspec.json.encode(line) for line in (header, *found.records)]
    Path(path).write_bytes(b"\n".join(lines) + b"\n")
    return path
