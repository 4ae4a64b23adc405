"""Prints how far the crossover finder can be trusted: simulated device pairs whose crossovers are known from the closed
form, with launch and visit noise, measured on a coarse grid and refined by log bisection as `run --refine` does.

    python tests/crossover_trust.py [--runs 2000] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from pykernels.analysis.crossover import finder, model
from pykernels.analysis.crossover.workload import Workload

BAND = 0.05
LAUNCHES = 5
GRID = [float(4**k) for k in range(9)]  # batch 1 to 65,536 in steps of 4

Truth = Callable[[float], float]


class Noise(msgspec.Struct, frozen=True):
    """Standard deviations on the log scale: of a side's launch, of one visit to a cell, of what both share."""

    launch: float
    visit: float
    shared: float = 0.0


#: from in-cache (quiet) to DRAM on a shared machine (loud), as measured spreads of launches go
NOISES = {"quiet": Noise(0.004, 0.003, 0.005), "usual": Noise(0.012, 0.005, 0.01), "loud": Noise(0.03, 0.01, 0.02)}


class Pair(msgspec.Struct, kw_only=True):
    """A simulated pair: the true R of an axis value, its grid, and where the GPU's memory ends (None: nowhere)."""

    truth: Truth
    grid: list[float]
    edge: float | None = None
    steps: tuple[finder.Step, ...] = ()


def crossing_pair(dice: random.Random) -> Pair:
    """A CPU and a GPU from the closed form over batch: host ends, random rates, links and floors."""
    load = Workload(
        tables=dice.choice([1, 8, 26]), rows=1_000_000, dim=dice.choice([32, 64, 128]), bags=1,
        pooling=dice.choice([1, 4, 20, 80]),
    )  # fmt: skip
    cpu = model.Device(
        floor_s=dice.uniform(1e-6, 6e-6),
        levels=(model.Level("DRAM", math.inf, dice.uniform(2e8, 3e9), dice.uniform(5e10, 4e11)),),
    )
    link = dice.uniform(1.2e10, 1e11)
    gpu = model.Device(
        floor_s=dice.uniform(1e-5, 6e-4),
        levels=(model.Level("HBM", math.inf, dice.uniform(5e9, 2e10), dice.uniform(8e11, 4e12)),),
        h2d=link,
        d2h=link,
    )

    def truth(batch: float) -> float:
        # a fractional batch is allowed here: the terms are linear in it
        one = model.terms(cpu, load, "C0"), model.terms(gpu, load, "G2")
        scaled = [{k: v if k == "floor" else v * batch for k, v in parts.items()} for parts in one]
        return math.log(model.serial(scaled[0]) / model.serial(scaled[1]))

    return Pair(truth=truth, grid=GRID)


def identical_pair(dice: random.Random) -> Pair:
    """The same device on both sides."""
    del dice
    return Pair(truth=lambda _: 0.0, grid=GRID)


def several_pair(dice: random.Random) -> Pair:
    """R non-monotone in table bytes: a cache step on either side on top of a slope; two changes of winner."""
    first, second = sorted(dice.sample(range(1, len(GRID) - 1), 2))
    height = dice.uniform(0.2, 1.0)
    steps = tuple(finder.Step(f"step {k}", GRID[k] * 2.0) for k in (first, second))
    sign = dice.choice([-1.0, 1.0])
    return Pair(truth=lambda x: sign * (height if steps[0].at < x <= steps[1].at else -height), grid=GRID, steps=steps)


def edge_pair(dice: random.Random) -> Pair:
    """The GPU wins by a factor that changes slowly, until its memory ends."""
    gain, slope = dice.uniform(0.3, 2.0), dice.uniform(-0.02, 0.02)
    return Pair(
        truth=lambda x: gain + slope * math.log(x), grid=GRID, edge=dice.uniform(GRID[-2] * 1.1, GRID[-1] * 0.9)
    )


KINDS = {
    "closed form": crossing_pair,
    "identical": identical_pair,
    "non-monotone": several_pair,
    "capacity edge": edge_pair,
}


def measure(pair: Pair, grid: Sequence[float], noise: Noise, rng: np.random.Generator) -> dict[float, np.ndarray]:
    """One run: R of every launch at each axis value the GPU can hold."""
    launch = rng.normal(0, noise.launch, (2, LAUNCHES))
    found = {}
    for x in grid:
        if pair.edge is not None and x > pair.edge:
            continue
        visits = rng.normal(0, noise.visit, (2, LAUNCHES))
        found[x] = pair.truth(x) + launch[0] + visits[0] - launch[1] - visits[1]
    return found


def curve_of(pair: Pair, runs: Sequence[dict[float, np.ndarray]]) -> finder.Curve:
    """All runs' launches over all their cells."""
    x = sorted({value for run in runs for value in run})
    rows = [[float(run[v][k]) if v in run else math.nan for v in x] for run in runs for k in range(LAUNCHES)]
    bracket = (x[-1], min((v for v in pair.grid if pair.edge is not None and v > pair.edge), default=x[-1]))
    return finder.Curve(x=x, ratios=rows, steps=pair.steps, edge=pair.edge, edge_bracket=bracket if pair.edge else None)


def answer(pair: Pair, noise: Noise, rng: np.random.Generator, rounds: int = 4) -> finder.Finding:
    """Measure the grid, then refine as `run --refine` does: each round is a run of its own."""
    runs = [measure(pair, pair.grid, noise, rng)]
    finding = finder.find(curve_of(pair, runs), BAND)
    for _ in range(rounds):
        wanted = finder.next_values(curve_of(pair, runs), finding)
        if not wanted:
            break
        runs.append(measure(pair, sorted({x for values in wanted for x in values}), noise, rng))
        finding = finder.find(curve_of(pair, runs), BAND)
    return finding


def true_kind(pair: Pair, band: float) -> str:
    """The kind of the noiseless curve at this band."""
    held = [x for x in pair.grid if pair.edge is None or x <= pair.edge]
    bracket = (held[-1], pair.grid[-1]) if pair.edge else None
    ratios = [[pair.truth(x) for x in held]]
    exact = finder.Curve(x=held, ratios=ratios, steps=pair.steps, edge=pair.edge, edge_bracket=bracket, exact=True)
    return finder.find(exact, band).kind


def clear_kind(pair: Pair) -> str:
    """The true kind where half and twice the band agree on it, else "": no noisy method can tell those apart."""
    kinds = {true_kind(pair, band) for band in (BAND / 2, BAND, 2 * BAND)}
    return kinds.pop() if len(kinds) == 1 else ""


def true_root(pair: Pair) -> float:
    """Where the true R of a monotone pair is zero."""
    from scipy.optimize import brentq

    return math.exp(brentq(lambda u: pair.truth(math.exp(u)), math.log(pair.grid[0]), math.log(pair.grid[-1])))


def crossing_trial(noise: Noise, seed: int, rounds: int) -> tuple[bool, float] | None:
    """Whether one simulated crossing's interval covers the true root, and its half width; None: no crossing claimed."""
    pair = crossing_pair(random.Random(f"closed form/{seed}"))
    finding = answer(pair, noise, np.random.default_rng(seed), rounds)
    if finding.kind != "crossing":
        return None
    assert finding.value_low is not None
    assert finding.value_high is not None
    crosses = (pair.truth(pair.grid[0]) > 0) != (pair.truth(pair.grid[-1]) > 0)
    root = true_root(pair) if crosses else math.nan
    return finding.value_low <= root <= finding.value_high, math.log(finding.value_high / finding.value_low) / 2


def kind_trial(kind: str, noise: Noise, seed: int) -> dict[str, object]:
    """One simulated answer's kind beside the truth, and whether its places are exact where they should be."""
    pair = KINDS[kind](random.Random(f"{kind}/{seed}"))
    finding = answer(pair, noise, np.random.default_rng([seed, len(kind)]))
    row: dict[str, object] = {"clear": clear_kind(pair), "true": true_kind(pair, BAND), "kind": finding.kind}
    if kind == "capacity edge":
        row["exact"] = [event.value for event in finding.events] == [pair.edge]
    if kind == "non-monotone":
        row["exact"] = [event.value for event in finding.events] == [step.at for step in pair.steps]
    return row


def crossing_coverage(noise: Noise, runs: int, rounds: int = 4) -> dict[str, float]:
    """Coverage over the first `runs` simulated answers that say `crossing`, and the median half width in the log."""
    rows: list[tuple[bool, float]] = []
    seed = 0
    while len(rows) < runs:
        row = crossing_trial(noise, seed, rounds)
        seed += 1
        if row is not None:
            rows.append(row)
    covered = sum(hit for hit, _ in rows)
    return {"runs": runs, "coverage": covered / runs, "half_width": float(np.median([width for _, width in rows]))}


def right_kind(kind: str, noise: Noise, runs: int) -> dict[str, float]:
    """Shares of: clear pairs, right kinds among clear pairs and among all, answers that claim a crossing."""
    rows = [kind_trial(kind, noise, seed) for seed in range(runs)]
    clear = [row for row in rows if row["clear"]]
    return {
        "runs": runs,
        "clear": len(clear) / runs,
        "right": sum(row["kind"] == row["clear"] for row in clear) / max(1, len(clear)),
        "right_of_all": sum(row["kind"] == row["true"] for row in rows) / runs,
        "claims_crossing": sum(row["kind"] in ("crossing", "several") for row in rows) / runs,
        "exact": sum(bool(row.get("exact", True)) for row in rows) / runs,
    }


def table(runs: int) -> list[dict[str, object]]:
    """Every figure of the crossover's table of trust."""
    rows: list[dict[str, object]] = []
    for name, noise in NOISES.items():
        rows.append({"what": "interval covers the root", "noise": name, **crossing_coverage(noise, runs)})
        rows.append({"what": "the same, coarse grid only", "noise": name, **crossing_coverage(noise, runs, rounds=0)})
        for kind in KINDS:
            rows.append({"what": f"kind: {kind}", "noise": name, **right_kind(kind, noise, runs)})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = table(chosen.runs)
    if chosen.json:
        print(json.dumps(rows))
        return
    for row in rows:
        figures = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['what']:<28} {row['noise']:<6} {row['runs']} runs  {figures}")


if __name__ == "__main__":
    main()
