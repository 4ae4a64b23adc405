"""One kernel at a time, for tools that watch: `tiny` (every problem once, small), `copy` (launches of a known
number of bytes), `bench` (the same kernel under cuda-bench, and by our own clock; they must agree within 2%)."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pykernels.backends.cuda import BACKEND, CudaSession
from pykernels.backends.cuda_table import pack_args
from pykernels.kernels.stream import Stream
from pykernels.machine.cpu import read_machine
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Placement

N, VARIANT = 1 << 27, "b16:16"
PROBLEM = Stream(op="copy", n=N, dtype="fp32")


def open_session() -> CudaSession:
    return BACKEND.open(Placement(device="gpu:0"), read_machine())


def tiny() -> int:
    """Every kernel once at its small shape; 1 if one is wrong."""
    from test_on_gpu import PROBLEMS

    session, machine, failed = open_session(), read_machine(), 0
    for problem in PROBLEMS:
        case = Case(problem.small(), Implementation("cuda"), Placement(device="gpu:0"))
        if BACKEND.skip(case, machine) or problem.entry()[1] in ("peer", "persistent"):
            continue
        variant = BACKEND.variants(case)[0]
        runner = session.prepare(problem.small(), Implementation("cuda", "", variant))
        wrong = verify.check_full(problem.small(), runner)
        runner.close()
        failed |= wrong is not None
        print("wrong" if wrong else "ok", *problem.entry(), variant, wrong or "")
    return failed


def copy() -> int:
    """Launch the copy once more after preparing it, and say how many bytes it moves."""
    runner = open_session().prepare(PROBLEM, Implementation("cuda", "", VARIANT))
    runner.run(1)
    print(json.dumps({"bytes": PROBLEM.traffic().requested, "kernel": runner.facts()["symbol"]}))
    return 0


def bench() -> int:
    """Our median against cuda-bench's mean of the same launches."""
    import cuda.bench

    session = open_session()
    runner: Any = session.prepare(PROBLEM, Implementation("cuda", "", VARIANT))
    ours = median(runner.sample(4, 25).samples_s)
    entry, function = session.entry(PROBLEM, VARIANT), session.function(session.entry(PROBLEM, VARIANT))
    args = pack_args(runner.operands.pointers(), [N], [1.0], reps=1, tune=16, scratch=session.scratch.pointer)
    geometry = entry.launch([N], session.device.facts.sms, 16)

    def copy_of(state: cuda.bench.State) -> None:
        def launch(launched: cuda.bench.Launch) -> None:
            own = session.device._streams  # type: ignore[attr-defined]
            saved, own[0] = own[0], launched.get_stream().addressof()
            session.device.launch(function, geometry, args)
            own[0] = saved

        state.exec(launch, batched=False)

    cuda.bench.register(copy_of)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        cuda.bench.run_all_benchmarks([sys.argv[0], "--json", str(file)])
        summaries = json.loads(file.read_text())["benchmarks"][0]["states"][0]["summaries"]
    mean = next(s for s in summaries if s["tag"] == "nv/cold/time/gpu/mean")
    theirs = float(mean["data"][0]["value"])
    print(f"ours {ours * 1e6:.2f} us, cuda-bench {theirs * 1e6:.2f} us, ratio {ours / theirs:.4f}")
    return 0 if abs(ours / theirs - 1) <= 0.02 else 1


if __name__ == "__main__":
    sys.exit({"tiny": tiny, "copy": copy, "bench": bench}[sys.argv[1]]())
