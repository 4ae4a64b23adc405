"""Clocks, in plain numbers: how long a sample must be."""

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


def too_coarse(visit_s: float, step_s: float | None = None) -> str:
    """Why a clock of that step cannot time visits of `visit_s` seconds, or "": a sample alone would last longer."""
    step_s = resolution_s() if step_s is None else step_s
    shortest = shortest_sample_s(step_s)
    if shortest <= visit_s:
        return ""
    return f"a clock of step {step_s:g} s needs samples of {shortest:g} s; a visit is {visit_s:g} s"
