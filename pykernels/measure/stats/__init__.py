"""Statistics of timings: every interval that pykernels prints comes from here. Pure; works on logarithms throughout.

`intervals`: medians, t intervals, ratios, sittings, corrections, uncertainty budget. `series`: what a series of visits
tells: regimes, warm-up, change points, variance split. `cases`: from a case's records to its value.
"""

from pykernels.measure.stats.cases import (
    SITTING_GAP_S,
    Estimate,
    Visit,
    case_estimate,
    case_interval,
    clean_mask,
    estimate,
    visit_of,
)
from pykernels.measure.stats.intervals import (
    Budget,
    Interval,
    Term,
    benjamini_hochberg,
    budget,
    detectable,
    launch_interval,
    log_interval,
    median_factor,
    median_interval,
    merge_sittings,
    p_value,
    ratio_interval,
    t_quantile,
    welch,
    within_process,
)
from pykernels.measure.stats.series import (
    Step,
    VarianceSplit,
    WarmUp,
    change_point,
    regimes,
    variance_split,
    warm_up,
)

__all__ = [
    "SITTING_GAP_S",
    "Budget",
    "Estimate",
    "Interval",
    "Step",
    "Term",
    "VarianceSplit",
    "Visit",
    "WarmUp",
    "benjamini_hochberg",
    "budget",
    "case_estimate",
    "case_interval",
    "change_point",
    "clean_mask",
    "detectable",
    "estimate",
    "launch_interval",
    "log_interval",
    "median_factor",
    "median_interval",
    "merge_sittings",
    "p_value",
    "ratio_interval",
    "regimes",
    "t_quantile",
    "variance_split",
    "visit_of",
    "warm_up",
    "welch",
    "within_process",
]
