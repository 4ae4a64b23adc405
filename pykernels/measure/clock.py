"""Clocks, in plain numbers: how long a sample must be, and what a core can do per cycle."""

from __future__ import annotations

import time

#: a sample lasts at least so many steps of the clock that times it
MIN_RESOLUTIONS = 1000


def resolution_s() -> float:
    """Step of the monotonic clock in seconds, as the kernel states it (the native loop reads the same clock)."""
    return time.get_clock_info("monotonic").resolution


def shortest_sample_s(step_s: float | None = None) -> float:
    """Seconds below which a sample is too short for a clock of that step (this machine's by default)."""
    return MIN_RESOLUTIONS * (resolution_s() if step_s is None else step_s)


def per_cycle(rate_per_s: float, clock_ghz: float) -> float:
    """FLOP or bytes per core cycle of a rate, for one core; nan where no clock was measured."""
    return rate_per_s / (clock_ghz * 1e9) if clock_ghz > 0 else float("nan")


def peak_flops(clock_ghz: float, fma_per_cycle: float, lanes: int, cores: int = 1) -> float:
    """FLOP/s of a clock times fused multiply-adds (2 FLOP) per cycle times lanes, over the cores."""
    return 2.0 * clock_ghz * 1e9 * fma_per_cycle * lanes * cores
