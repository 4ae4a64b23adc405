"""Hypothesis for a busy two-core machine: the same examples every time, no deadline, not too many."""

from hypothesis import settings

settings.register_profile("pykernels", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("pykernels")
