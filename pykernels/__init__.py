"""pykernels measures the memory wall: rooflines with uncertainty, kernels under them, and the CPU-GPU crossover."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernels.benchmark import bench as bench

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`bench` is imported when it is asked for: the command line starts without it."""
    if name == "bench":
        from pykernels.benchmark import bench

        return bench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
