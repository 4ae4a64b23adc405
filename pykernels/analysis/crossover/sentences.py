"""Answers in one sentence each."""

from __future__ import annotations

from pykernels.analysis.crossover.answers import REFUSED, Answer
from pykernels.analysis.crossover.axes import AXES

#: what is compared, in words
METRIC_WORDS = {
    "saturated": "saturated lookups/s",
    "p50": "p50 latency, one in flight",
    "p99": "p99 latency, one in flight",
    "energy": "joules per lookup",
}
ENDS_WORDS = {"C0": "host ends", "C1": "device ends"}


def metric_words(metric: str) -> str:
    """A metric in words; served@10ms is lookups/s at a p99 of 10 ms under Poisson arrivals."""
    if metric.startswith("served@"):
        return f"lookups/s at p99 <= {metric[7:-2]} ms under Poisson arrivals"
    return METRIC_WORDS[metric]


def sentence(answer: Answer) -> str:
    """One sentence: workload, ends, metric, and who wins where."""
    where = f"{answer.workload}, {ENDS_WORDS[answer.ends[:2]]} ({answer.ends}), {metric_words(answer.metric)}"
    per = "" if answer.per == "device" else f", per {answer.per}"
    tail = f" [{answer.source}{per}]"
    return f"{where}: {_finding(answer)}{tail}."


def _finding(answer: Answer) -> str:
    axis = AXES[answer.axis]
    name = answer.axis.replace("_", " ")
    if answer.kind == REFUSED:
        return f"no conclusion over {name}: " + "; ".join(answer.notes)
    if answer.kind.startswith("none"):
        winner = "CPU" if "CPU" in answer.kind else "GPU"
        why = f" ({'; '.join(answer.notes)})" if answer.notes else ""
        return f"no crossover here, the {winner} wins at every {name} in range{why}"
    if answer.kind == "tie band":
        first, last = answer.tie or (None, None)
        text = f"a tie from {name} {axis.format(first)} to {axis.format(last)}"
        if answer.notes:
            text += f" ({'; '.join(answer.notes)})"
        return text
    if answer.kind == "several":
        places = [f"{event.to} from {axis.format(event.value)}{_at(event.at)}" for event in answer.events]
        return f"several changes of winner over {name}: " + ", then ".join(places)
    event = answer.events[0]
    if answer.kind == "capacity edge":
        held, refused = (axis.format(place) for place in event.bracket)
        return (
            f"the GPU wins until its memory ends at {axis.format(answer.value)} ({held} fits, {refused} does not); "
            "beyond it only the CPU runs"
        )
    other = "CPU" if event.to == "GPU" else "GPU"
    low, high = (axis.format(bound) for bound in (answer.low, answer.high))
    cells = "measured cells" if answer.source in ("paired", "cross-machine") else "cells"
    bracket = f"{cells} {axis.format(event.bracket[0])} and {axis.format(event.bracket[1])}"
    value = axis.format(answer.value) + (f" [{low}, {high}]" if answer.interval else "") + _at(event.at)
    notes = f" ({'; '.join(answer.notes)})" if answer.notes else ""
    return f"the {event.to} wins from {name} {value}, the {other} below ({bracket}){notes}"


def _at(at: str) -> str:
    if at == "capacity":
        return " (its memory ends)"
    return f" (at the {at[5:]} step, not interpolated)" if at.startswith("step ") else ""
