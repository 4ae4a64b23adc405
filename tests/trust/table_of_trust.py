"""Prints the table of trust: how often the statistics of pykernels are right, on simulated machines of known truth.

    python tests/trust/table_of_trust.py [--repeats 2000] [--only coverage,flags,...] [-o FILE.md]

A verdict holds a share against its goal with the exact binomial distribution: `below` and `above` are said only where
the true share is outside the goal with 99.9% confidence; a share outside by less is `about`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import scores
import whole_runs
from regimes import KINDS, PLAIN, REGIMES

from pykernels.backends.simulated.noise import Cheat

Row = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One table: its title, columns, and what makes its rows from the number of repeats."""

    title: str
    columns: Row
    rows: Callable[[int], Iterator[Row]]


def verdict(count: int, total: int, low: float = 0.0, high: float = 1.0) -> str:
    """`held`, `about` (outside the goal, but not surely) or `below` / `above` the goal."""
    from scipy.stats import binom

    if not total:
        return "nothing to judge"
    if low <= count / total <= high:
        return "held"
    if count / total < low:
        return "below" if binom.cdf(count, total, low) < 0.001 else "about"
    return "above" if binom.sf(count - 1, total, high) < 0.001 else "about"


def percent(count: int, total: int) -> str:
    """A share in per cent, with the decimals that its repeats give."""
    return f"{100 * count / total:.1f}%" if total else "-"


def coverage_rows(repeats: int) -> Iterator[Row]:
    """Every ceiling kind in every regime that has one true value."""
    for regime in REGIMES:
        found = [scores.coverage(kind, regime, repeats, seed) for seed, kind in enumerate(KINDS, 1)]
        verdicts = {verdict(one.held, one.repeats, 0.93, 0.97) for one in found}
        worst = next(word for word in ("below", "above", "about", "held") if word in verdicts)
        yield (
            regime,
            *(f"{100 * one.share:.1f}" for one in found),
            f"{max(one.over_oracle for one in found):.2f}",
            worst,
        )


def launches_rows(repeats: int) -> Iterator[Row]:
    for launches in (2, 3, 5, 10, 20):
        one = scores.few_launches(launches, repeats)
        word = verdict(one.held, repeats, 0.93, 0.97)
        yield f"{launches} launches", percent(one.held, repeats), f"{one.half:.1%}", f"{one.over_oracle:.2f}", word


def sitting_rows(repeats: int) -> Iterator[Row]:
    for sd in (0.0, 0.01, 0.03, 0.05):
        one, three = scores.sittings(sd, 1, repeats), scores.sittings(sd, 3, repeats)
        word = verdict(three.held, repeats, 0.93, 0.97)
        yield f"{sd:.0%}", percent(one.held, repeats), percent(three.held, repeats), f"{three.half:.1%}", word


def flag_rows(repeats: int) -> Iterator[Row]:
    """Regimes without one true value are judged by their flag."""
    for by in ("launch", "visit", "sample"):
        for slower in (1.3, 2.0):
            flagged, met, _ = scores.two_regimes(by, 0.4, slower, repeats)
            name = f"two regimes, {slower:g}x apart, chosen by {by}: flagged of {met} runs that met both"
            yield name, percent(flagged, met), ">= 95%", verdict(flagged, met, 0.95)
    for kind, count in scores.false_regimes(repeats).items():
        yield f"one regime, {kind}: called two", percent(count, repeats), "<= 5%", verdict(count, repeats, 0, 0.05)
    for hz, lowest, highest in ((30, 0.0, 0.05), (150, 0.0, 0.05), (1500, 0.95, 1.0)):
        count, total = scores.disturbed(hz, repeats)
        goal = ">= 95%" if lowest else "<= 5%"
        name = f"a preemption every {1000 / hz:.3g} ms and thread: no value, disturbed"
        yield name, percent(count, total), goal, verdict(count, total, lowest, highest)
    for name in scores.WARM_UPS:
        right, total = scores.warm_up(name, repeats)
        yield f"warm-up {name}: classified so", percent(right, total), ">= 95%", verdict(right, total, 0.95)


def throttle_rows(repeats: int) -> Iterator[Row]:
    """By the values, and by the core clock recorded beside them. A goal beyond what a test told everything else could
    reach is not held against the statistics: that power is in brackets."""
    repeats = max(100, repeats // 4)  # a repeat is a whole run
    for name, plan in scores.PLANS.items():
        counts = [scores.throttle(plan, size, repeats)[0] for size in (0.0, 0.01, 0.02)]
        most = [scores.reachable(plan, size) for size in (0.01, 0.02)]
        words = {verdict(counts[0], repeats, 0, 0.05)}
        for n, power in zip(counts[1:], most, strict=True):
            words.add(verdict(n, repeats, 0.95) if power > 0.995 else "out of reach")
        shown = [percent(counts[0], repeats)]
        shown += [f"{percent(n, repeats)} ({power:.0%})" for n, power in zip(counts[1:], most, strict=True)]
        yield name, *shown, _worst(words)
    for name, plan in scores.PLANS.items():
        if "launches differ" not in name:
            counts = [scores.throttle_by_clock(plan, size, repeats)[0] for size in (0.0, 0.01, 0.02)]
            words = {verdict(counts[0], repeats, 0, 0.05), *(verdict(n, repeats, 0.95) for n in counts[1:])}
            yield f"{name}: by the core clock", *(percent(n, repeats) for n in counts), _worst(words)


def _worst(words: set[str]) -> str:
    return next(word for word in ("above", "below", "about", "out of reach", "held") if word in words)


def pair_rows(repeats: int) -> Iterator[Row]:
    for launch_sd in (0.005, 0.02, 0.045):
        for paired in (True, False):
            held, total = scores.ties(launch_sd, 0.01, repeats, paired=paired)
            how = "the same launches" if paired else "two runs"
            yield (
                f"two equal implementations tie, {how}, launches {launch_sd:.1%}",
                percent(held, total),
                ">= 95%",
                (verdict(held, total, 0.95)),
            )
    for off in (0.1, 0.3):
        mean, value = scores.bad_launch(off, repeats)
        name = f"one launch of five slow by {off:.0%}, spread 0.5%: the value is off by"
        yield name, f"{value:.2%} (a mean: {mean:.1%})", "< 0.5%", "held" if abs(value) < 0.005 else "above"
    for sd in (0.005, 0.02):
        law = type(PLAIN)(launch_sd=sd, visit_sd=0.003, sample_sd=0.01, rho=0.3)
        tuned, best, after = scores.selection(10, law, repeats)
        good = "held" if abs(tuned) < 0.001 else "above"
        yield f"cost of choosing among 10 equal variants, launches {sd:.1%}", f"{tuned:+.3%}", "< 0.1%", good
        yield "  the same if the reported launches chose", f"{best:+.3%}", "", ""
        word = verdict(after.held, repeats, 0.93, 0.97)
        yield "  coverage of the chosen variant", percent(after.held, repeats), "93-97%", word


def impossible_rows(repeats: int) -> Iterator[Row]:
    repeats = max(100, repeats // 4)
    for sd in (0.005, 0.01, 0.02, 0.045):
        sound = scores.impossible(0.0, sd, 20, repeats)
        planted = scores.impossible(16 * sd, sd, 20, repeats)
        smallest = scores.smallest_found(sd, 20, repeats)
        words = {verdict(sound.false, repeats, 0, 0.05), verdict(planted.clear_flagged, planted.clear, 1.0)}
        word = next(word for word in ("above", "below", "about", "held") if word in words)
        clear = f"{planted.clear_flagged} of {planted.clear}"
        yield f"launches {sd:.1%}", percent(sound.false, repeats), clear, f"{smallest:.1%}", word


def whole_rows(repeats: int) -> Iterator[Row]:
    repeats = max(20, repeats // 8)
    for noise in ("quiet", "guest"):
        score = whole_runs.score(noise, repeats)
        for name, held in score.held.items():
            word = verdict(held, score.drawn[name], 0.93, 0.97)
            yield f"{noise}: {name} holds its truth", percent(held, score.drawn[name]), "93-97%", word
        flags = ", ".join(f"{flag} {percent(count, repeats)}" for flag, count in score.flags.items()) or "none"
        word = verdict(score.flagged_runs, repeats, 0, 0.05)
        yield f"{noise}: runs with a false flag ({flags})", percent(score.flagged_runs, repeats), "<= 5%", word
    planted = whole_runs.score("guest", repeats, cheat=Cheat(cases="*op=copy,level=DRAM*", of_roof=40.0))
    count = sum(planted.flags[flag] for flag in planted.flags if "slower than DRAM" in flag)
    yield "guest: DRAM faster than L1 planted, flagged", percent(count, repeats), "100%", verdict(count, repeats, 1.0)


PARTS = {
    "coverage": Part(
        "Coverage of the 95% interval, 5 launches, goal 93-97% (last: widest half width over an oracle's, goal <= 1.5)",
        ("regime", *KINDS, "over oracle", ""), coverage_rows,
    ),
    "launches": Part(
        "Coverage by the number of launches (spread 2%)",
        ("launches", "coverage", "half width", "over oracle", ""), launches_rows,
    ),
    "sittings": Part(
        "Coverage of the machine's value when sittings differ (launch spread 1%)",
        ("sitting spread", "one sitting", "three sittings", "half width of three", ""), sitting_rows,
    ),
    "flags": Part("Flags where there is no one value", ("what", "found", "goal", ""), flag_rows),
    "throttle": Part(
        "A step in the last fifth of a run, found (goal: none at most 5%; 1%, 2% at least 95%; in brackets what a test"
        " that knows its place and all variances would find)",
        ("run", "none", "1%", "2%", ""), throttle_rows,
    ),
    "pairs": Part("Comparisons and selection", ("what", "found", "goal", ""), pair_rows),
    "impossible": Part(
        "Impossible results among 20 pairs of kernel and roof (goal: false in at most 5% of runs; all that exceed by"
        " twice the corrected half width)",
        ("noise", "runs with a false flag", "clear excess flagged", "smallest found in 95%", ""), impossible_rows,
    ),
    "whole": Part(
        "Whole runs: plan, engine, sampling with early stop, analysis", ("what", "found", "goal", ""), whole_rows
    ),
}  # fmt: skip


def main() -> None:
    """Print the parts that were asked for, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated runs for each entry (default 2000)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("-o", "--output", type=Path, help="write the Markdown there as well")
    options = parser.parse_args()
    if options.repeats < 20:
        parser.error(f"--repeats {options.repeats}: at least 20")
    chosen = options.only.split(",")
    if lost := [name for name in chosen if name not in PARTS]:
        parser.error(f"--only {lost[0]}: no such part; there are {', '.join(PARTS)}")
    lines = []
    for name in chosen:
        for line in table(PARTS[name], options.repeats):
            print(line, flush=True)
            lines.append(line)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(part: Part, repeats: int) -> Iterator[str]:
    """A part as lines of Markdown."""
    started = time.monotonic()
    yield f"\n**{part.title}**\n"
    yield f"| {' | '.join(part.columns)} |"
    yield "|" + " --- |" * len(part.columns)
    for row in part.rows(repeats):
        yield f"| {' | '.join(row)} |"
    print(f"({time.monotonic() - started:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
