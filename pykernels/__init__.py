"""pykernels measures the memory wall: rooflines with uncertainty, kernels under them, and the CPU-GPU crossover."""

__version__ = "0.1.0"
