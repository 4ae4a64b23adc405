"""Capacities from sweeps over the working set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
from synthetic import KIB, MIB, Noise

from pykernels.analysis.hierarchy import Level, plateaus
from pykernels.analysis.roofline import Roofline, analyse

TIMES = (1 / 500, 1 / 240, 1 / 110, 1 / 40)  # seconds a byte, from L1 outwards
LATENCIES = (1.0, 3.5, 12.0, 110.0)


def mixed(size: int, capacities: tuple[int, ...], cost: tuple[float, ...], sharp: float = 1.0) -> float:
    """Cost of a byte where a level holds the share (capacity / size)^sharp of a working set that does not fit."""
    inside = [min(1.0, (capacity / size) ** sharp) for capacity in capacities]
    shares = np.diff([0.0, *inside, 1.0])
    return float(shares @ np.array(cost))


def sweep(capacities: tuple[int, ...], per_octave: int = 2, sharp: float = 1.0) -> list[synthetic.Spec]:
    specs = []
    for power in np.arange(12, 28.01, 1 / per_octave):
        size = int(2**power) // KIB * KIB
        specs.append(synthetic.sized("stream", size, 1 / mixed(size, capacities, TIMES, sharp)))
        specs.append(synthetic.sized("chase", size, mixed(size, capacities, LATENCIES, sharp)))
    return specs


def levels(specs: list[synthetic.Spec], noise: Noise | None = None) -> dict[str, Level]:
    answer: Roofline = analyse([synthetic.run(specs, noise=noise or Noise(launch=0.01, sample=0.01))])
    assert answer.roofs == []  # points of a sweep are no roofs
    assert answer.not_drawn == []
    return {level.level: level for level in answer.levels}


@pytest.mark.parametrize("per_octave", [1, 2, 4])
@pytest.mark.parametrize("sharp", [1.0, 3.0])
def test_capacities_are_found_and_agree(per_octave: int, sharp: float) -> None:
    found = levels(sweep((32 * KIB, MIB, 32 * MIB), per_octave, sharp))
    assert list(found) == ["L1", "L2", "L3"]
    for level, size in (("L1", 32 * KIB), ("L2", MIB), ("L3", 32 * MIB)):
        assert found[level].os_bytes == size
        assert found[level].low <= size <= found[level].high
        assert found[level].bandwidth_bytes == pytest.approx(size, rel=0.5)
        assert found[level].chase_bytes == pytest.approx(size, rel=0.5)
        assert found[level].agrees is True


def test_a_shared_cache_that_shows_less_is_said_aloud() -> None:
    found = levels(sweep((32 * KIB, MIB, 8 * MIB)))
    assert found["L2"].agrees is True
    assert found["L3"].agrees is False
    assert found["L3"].bandwidth_bytes == pytest.approx(8 * MIB, rel=0.5)


def test_a_latency_plateau_may_slope() -> None:
    """The walk over a shared L3 of a guest: 12, 15 and 17 ns, then memory."""
    curve = {16: 1.1, 24: 1.1, 48: 3.9, 96: 3.9, 192: 3.9, 384: 4.4, 768: 6.7, 1536: 12.4, 3072: 14.7, 6144: 17.4,
             12288: 130.0, 24576: 145.0, 49152: 156.0, 98304: 159.0}  # fmt: skip
    found = levels([synthetic.sized("chase", KIB * size, value) for size, value in curve.items()])
    assert found["L3"].chase_bytes == pytest.approx(8.5 * MIB, rel=0.01)
    assert [found[level].agrees for level in ("L1", "L2", "L3")] == [True, True, False]


def test_an_os_that_states_a_wrong_l2() -> None:
    found = levels(sweep((32 * KIB, 256 * KIB, 32 * MIB)))
    assert (found["L1"].agrees, found["L2"].agrees, found["L3"].agrees) == (True, False, True)


def test_a_sweep_that_ends_early_says_nothing_of_the_rest() -> None:
    specs = [spec for spec in sweep((32 * KIB, MIB, 32 * MIB)) if spec.working_set <= 4 * MIB]
    found = levels(specs)
    assert found["L1"].agrees is True
    assert (found["L3"].agrees, found["L3"].bandwidth_bytes, found["L3"].low) == (None, 0, 0)


def test_bandwidth_alone_is_enough() -> None:
    specs = [spec for spec in sweep((32 * KIB, MIB, 32 * MIB)) if spec.kernel == "stream"]
    found = levels(specs)
    assert found["L2"].chase_bytes == 0
    assert found["L2"].agrees is True


def test_noise_makes_no_levels() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        assert len(plateaus(rng.normal(5, 0.02, 40))) == 1


def test_noisy_sweeps_still_show_their_levels() -> None:
    right = 0
    for seed in range(20):
        found = levels(sweep((32 * KIB, MIB, 32 * MIB), 3), Noise(launch=0.03, sample=0.03, seed=seed))
        right += all(level.agrees for level in found.values())
    assert right >= 16


def test_without_a_sweep_there_are_no_levels() -> None:
    assert analyse([synthetic.run(synthetic.typical((1,)))]).levels == []


def test_loading_imports_neither_scipy_nor_matplotlib(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, pykernels.report.roofline; print(*(name in sys.modules for name in ('scipy', 'matplotlib')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.split() == ["False", "False"]
