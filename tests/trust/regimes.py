"""The noise regimes and ceiling kinds that the table of trust is made over."""

from __future__ import annotations

from dataclasses import dataclass, field

from pykernels.backends.simulated.noise import Law, Timer


@dataclass(frozen=True)
class Kind:
    """A ceiling: its unit, what one call does, its true value, and the noise that was measured on such a ceiling."""

    unit: str
    amount: float
    truth: float
    measured: Law


@dataclass(frozen=True)
class Regime:
    """A noise law (None: the one measured for the kind), visits per launch, the clock, and preemptions a sample."""

    law: Law | None
    visits: int = 3
    timer: Timer = field(default_factory=Timer)
    #: preemptions (or stalls) per sample, whatever a sample of the kind lasts
    preempted: float = 0.0


def _law(launch_sd: float, sample_sd: float, rho: float, visit_sd: float = 0.003) -> Law:
    """Preempted once in three seconds and thread, with harmless switches beside, as on a shared two-core guest."""
    return Law(
        launch_sd=launch_sd, visit_sd=visit_sd, sample_sd=sample_sd, rho=rho, preempt_hz=0.3, switch_share=0.1,
        preempt_seen=0.9,
    )  # fmt: skip


KINDS = {
    "load L1": Kind("GB/s", 16384.0, 450.0, _law(0.009, 0.01, 0.1)),
    "load L2": Kind("GB/s", 393216.0, 240.0, _law(0.018, 0.025, 0.15)),
    "load L3": Kind("GB/s", 4194304.0, 110.0, _law(0.018, 0.02, 0.4, 0.01)),
    "load DRAM": Kind("GB/s", 268435456.0, 38.0, _law(0.045, 0.05, 0.8, 0.02)),
    "fma fp32": Kind("GFLOP/s", 1e6, 270.0, _law(0.009, 0.012, 0.25)),
    "chase DRAM": Kind("ns", 1e4, 130.0, _law(0.03, 0.03, 0.5, 0.01)),
    "gather rows": Kind("Grows/s", 1e5, 0.2, _law(0.02, 0.03, 0.5, 0.01)),
    "exp fp32": Kind("Gexp/s", 1e5, 15.0, _law(0.009, 0.012, 0.25)),
}

#: regimes that have one true value: the rate of the roof, which all disturbance is around or on top of
REGIMES = {
    "as measured, 1 visit a launch": Regime(None, visits=1),
    "as measured, 3 visits": Regime(None),
    "independent samples": Regime(Law(sample_sd=0.01)),
    "samples rho 0.9": Regime(Law(sample_sd=0.01, rho=0.9)),
    "visits 0.5%": Regime(Law(visit_sd=0.005, sample_sd=0.01, rho=0.3)),
    "launches 0.5%, visits 0.3%": Regime(Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01, rho=0.3)),
    "launches 2%": Regime(Law(launch_sd=0.02, visit_sd=0.003, sample_sd=0.01, rho=0.3)),
    "10% slow visits": Regime(Law(launch_sd=0.01, visit_sd=0.003, sample_sd=0.01, rho=0.3, slow_share=0.1)),
    "10% slow visits, 1 visit": Regime(
        Law(launch_sd=0.01, visit_sd=0.003, sample_sd=0.01, rho=0.3, slow_share=0.1), visits=1
    ),
    "a visit in 12 slow by 30%": Regime(
        Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01, rho=0.3, slow_share=0.08, slow_mean=0.3)
    ),
    "a visit in 12 slow by 30%, 1 visit": Regime(
        Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01, rho=0.3, slow_share=0.08, slow_mean=0.3), visits=1
    ),
    "a sample in 5 preempted": Regime(Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01), preempted=0.2),
    "a sample in 20 stalled unseen": Regime(
        Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01, preempt_s=0.0005, preempt_seen=0.0), preempted=0.05
    ),
    "clock step 1 us": Regime(Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01), timer=Timer(step_s=1e-6)),
}

#: the law of regimes and steps where the kind does not matter
PLAIN = Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01, rho=0.3)
