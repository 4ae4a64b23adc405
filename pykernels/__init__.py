"""pykernels measures the memory wall on any machine: rooflines with uncertainty, kernels under them, CPU-GPU crossover."""

__version__ = "0.1.0"
