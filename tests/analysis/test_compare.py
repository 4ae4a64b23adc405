"""Two runs held against each other: verdicts of known truth, and false alarms over many cases."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
import synthetic
from scipy.stats import binom
from synthetic import Noise, Spec, bandwidth, typical

from pykernels.analysis.compare import Comparison, compare
from pykernels.errors import UsageError
from pykernels.model import Skipped, Wrong
from pykernels.store import Run


def measure(specs: list[Spec], seed: int, spread: float = 0.005, **more: object) -> Run:
    noise = Noise(launch=spread, sample=0.005, seed=seed)
    return synthetic.run(specs, noise=noise, samples=5, path=f"{seed}.jsonl", **more)  # type: ignore[arg-type]


def scaled(specs: list[Spec], factors: dict[int, float]) -> list[Spec]:
    for index, factor in factors.items():
        specs[index].truth *= factor
    return specs


def verdicts(answer: Comparison) -> dict[str, str]:
    return {case.case_id: case.verdict for case in answer.cases}


def test_faster_slower_same() -> None:
    specs = typical((1,))
    new = scaled(typical((1,)), {0: 0.9, 4: 1.2})
    answer = compare(measure(specs, 1), measure(new, 2))
    found = verdicts(answer)
    assert found[specs[0].case_id] == "slower"
    assert found[specs[4].case_id] == "faster"
    assert answer.counts == {"slower": 1, "faster": 1, "unclear": 0, "same": 8, "missing": 0}
    slow = answer.cases[0]
    assert slow.change == pytest.approx(-0.1, abs=0.01)
    assert slow.low < slow.change < slow.high < 0
    assert slow.value_new / slow.value_old == pytest.approx(1 + slow.change)


def test_latency_up_is_slower() -> None:
    def chase(truth: float) -> list[Spec]:
        return [synthetic.sized("chase", 1 << 20, truth)]

    answer = compare(measure(chase(100.0), 1), measure(chase(110.0), 2))
    assert answer.cases[0].verdict == "slower"
    assert answer.cases[0].change == pytest.approx(1 / 1.1 - 1, abs=0.01)


def test_what_cannot_be_compared() -> None:
    old = [bandwidth("L1", 500.0, op=str(i)) for i in range(6)]
    new = [bandwidth("L1", 500.0, op=str(i)) for i in range(6)]
    new[0].working_set = int(new[0].working_set * 1.02)
    new[1].outcome = Wrong(max_error=2.0, bound=1.0, where="c[0]")
    new[2].outcome = Skipped(reason="no such level")
    del new[3]
    answer = compare(measure(old, 1), measure([*new, bandwidth("L2", 1.0)], 2))
    reasons = {case.case_id: (case.verdict, case.reason) for case in answer.cases}
    assert reasons[old[0].case_id] == ("unclear", "size differs: 16 KiB and 16.3 KiB")
    assert reasons[old[1].case_id][0] == "unclear"
    assert reasons[old[1].case_id][1].startswith("new run: wrong")
    assert reasons[old[2].case_id] == ("missing", "missing in the new run: skipped: no such level")
    assert reasons[old[3].case_id] == ("missing", "only in 1.jsonl")
    assert answer.counts["missing"] == 3
    assert reasons[old[4].case_id][0] == "same"


def test_a_size_within_one_percent_is_compared() -> None:
    old, new = [bandwidth("L1", 500.0)], [bandwidth("L1", 500.0)]
    new[0].working_set = int(new[0].working_set * 1.009)
    assert compare(measure(old, 1), measure(new, 2)).cases[0].verdict == "same"


def test_one_launch_has_no_verdict() -> None:
    answer = compare(measure(typical((1,)), 1, launches=1), measure(typical((1,)), 2))
    assert {case.verdict for case in answer.cases} == {"unclear"}
    assert answer.cases[0].reason == "one launch does not tell how launches differ"


def test_wide_intervals_are_unclear() -> None:
    answer = compare(measure([bandwidth("DRAM", 40.0)], 1, 0.06), measure([bandwidth("DRAM", 40.0)], 2, 0.06))
    case = answer.cases[0]
    assert case.verdict == "unclear"
    assert case.detectable is not None
    assert case.detectable > 0.05


def test_runs_without_a_common_case() -> None:
    with pytest.raises(UsageError, match="share no case"):
        compare(measure([bandwidth("L1", 1.0)], 1), measure([bandwidth("L2", 1.0)], 2))


def history(sitting: float, count: int = 4) -> list[Run]:
    rng = np.random.default_rng(3)
    return [
        measure(typical((1,)), 100 + k, started=1.6e9 + k * 1e5, offset=float(sitting * rng.standard_normal()))
        for k in range(count)
    ]


def test_without_history_it_is_about_two_sittings() -> None:
    answer = compare(measure(typical((1,)), 1), measure(typical((1,)), 2))
    assert answer.scope == "these two sittings"
    assert "about these two sittings only" in answer.notes[0]


def test_two_sittings_of_history_are_not_enough() -> None:
    answer = compare(measure(typical((1,)), 1), measure(typical((1,)), 2), history(0.03, 2))
    assert answer.scope == "these two sittings"
    assert "2 sittings of a machine, 3 are needed" in answer.notes[0]


def test_what_sittings_differ_by_is_unclear() -> None:
    old, new = measure(typical((1,)), 1), measure(typical((1,)), 2, offset=-0.06)
    assert compare(old, new).counts["slower"] == 10
    answer = compare(old, new, history(0.05))
    assert answer.scope == "machine"
    assert answer.counts["slower"] == 0
    assert answer.counts["unclear"] == 10
    spread = {(s.kernel, s.level): s.spread for s in answer.spreads}
    assert set(spread) == {("stream", "L1"), ("stream", "L2"), ("stream", "L3"), ("stream", "DRAM"), ("fma", "")}
    assert 0.02 < spread["stream", "L1"] < 0.12


def test_a_fall_beyond_what_sittings_differ_by_is_slower() -> None:
    new = scaled(typical((1,)), {0: 0.7})
    answer = compare(measure(typical((1,)), 1), measure(new, 2), history(0.01))
    assert answer.cases[0].verdict == "slower"
    assert answer.counts["slower"] == 1


def test_two_equal_runs_of_many_cases_rarely_raise_an_alarm() -> None:
    alarms = 0
    for seed in range(40):
        specs = [bandwidth(level, 100.0, op=str(i)) for level in ("L1", "L2", "L3", "DRAM") for i in range(10)]
        answer = compare(measure(specs, 2 * seed, 0.01), measure(specs, 2 * seed + 1, 0.01))
        alarms += answer.counts["faster"] + answer.counts["slower"] > 0
    assert alarms <= binom.ppf(0.999, 40, 0.05)


def test_five_percent_among_a_hundred_cases_is_found() -> None:
    found = 0
    for seed in range(10):
        old = [bandwidth(level, 100.0, op=str(i)) for level in ("L1", "L2", "L3", "DRAM") for i in range(25)]
        new = [bandwidth(level, 100.0, op=str(i)) for level in ("L1", "L2", "L3", "DRAM") for i in range(25)]
        for spec in new[:5]:
            spec.truth *= 0.95
        slower = {
            c.case_id
            for c in compare(measure(old, seed, 0.005), measure(new, 99 - seed, 0.005)).cases
            if c.verdict == "slower"
        }
        found += len(slower & {spec.case_id for spec in new[:5]})
    assert found >= 45


def test_the_interval_covers_the_change() -> None:
    held = 0
    for seed in range(150):
        specs, slower = [bandwidth("L1", 100.0)], [bandwidth("L1", 96.0)]
        case = compare(measure(specs, 2 * seed, 0.02), measure(slower, 2 * seed + 1, 0.02)).cases[0]
        held += case.low <= -0.04 <= case.high
    assert binom.ppf(0.001, 150, 0.95) <= held


def test_detectable_is_found_in_four_of_five() -> None:
    seen = 0
    least = math.log1p(0.01) * math.sqrt(2 / 5) * (2.306 + 0.889)  # sd 1%, 5 launches a side, t with 8 degrees
    for seed in range(150):
        old, new = [bandwidth("L1", 100.0)], [bandwidth("L1", 100.0 * math.exp(-least))]
        case = compare(measure(old, 2 * seed, 0.01), measure(new, 2 * seed + 1, 0.01), same=0.0).cases[0]
        seen += case.verdict == "slower"
    assert binom.ppf(0.001, 150, 0.8) <= seen <= binom.ppf(0.999, 150, 0.85)


def test_one_flipped_factor_is_named() -> None:
    old, new = measure(typical((1,)), 1), measure(typical((1,)), 2)
    assert compare(old, new).differences == []
    new.header.machine.governor = "powersave"
    new.header.versions["numpy"] = "2.0"
    assert compare(old, new).differences == ["machine.governor: - -> powersave", "versions.numpy: - -> 2.0"]


def test_json_is_plain() -> None:
    data = json.loads(msgspec.json.encode(compare(measure(typical((1,)), 1, launches=2), measure(typical((1,)), 2))))
    assert data["schema"] == 1
    assert data["cases"][0].keys() >= {
        "case_id",
        "verdict",
        "change",
        "low",
        "high",
        "detectable",
        "value_old",
        "value_new",
    }
