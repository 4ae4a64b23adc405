"""The seed claim, "CPUs outperform GPUs on bandwidth-bound recommendation lookups, thanks to their caches and
capacity", as four narrower claims that measured cells can answer. A projection answers none of them: it was not
measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pykernels.analysis.crossover.answers import CellAnswer, Claim
from pykernels.analysis.crossover.finder import SURE

COMMAND = "pykernels run recsys on a machine with a GPU, then pykernels crossover RUN --claims"

Chosen = Callable[[CellAnswer], bool]


def claims(cells: Sequence[CellAnswer]) -> list[Claim]:
    """Four claims and the seed claim, each `yes`, `no` or `not measured`, with counts of cells and extreme ratios."""
    four = [
        _claim("pooling near 1 with host ends: the CPU wins", cells, _pooling_one),
        _claim("batches under the GPU's launch floor: the CPU wins", cells, _under_floor),
        _claim("tables beyond GPU memory at a hit share of at most 0.5: the CPU wins", cells, _beyond_memory),
        _claim("per watt or per dollar where capacity decides: the CPU wins", cells, _per_cost),
    ]
    verdicts = {claim.verdict for claim in four}
    seed = "no" if "no" in verdicts else "yes" if verdicts == {"yes"} else "not measured"
    return [
        Claim(
            claim="CPUs outperform GPUs on bandwidth-bound recommendation lookups, thanks to caches and capacity",
            verdict=seed,
            numbers=[f"{claim.verdict}: {claim.claim}" for claim in four],
            measure=COMMAND if seed == "not measured" else "",
        ),
        *four,
    ]


def _pooling_one(cell: CellAnswer) -> bool:
    return cell.axes["pooling"] <= 2 and cell.ends == "C0-G2" and cell.metric == "saturated"


def _under_floor(cell: CellAnswer) -> bool:
    """The GPU's fixed start costs more than all its work on the batch."""
    terms = cell.gpu_terms
    work = sum(seconds for name, seconds in terms.items() if name != "floor")
    return bool(terms) and terms["floor"] > work and cell.metric in ("saturated", "p50")


def _beyond_memory(cell: CellAnswer) -> bool:
    low_hit = cell.ends.endswith("G3") or cell.axes.get("hit", 1.0) <= 0.5
    return cell.ends.endswith(("G3", "G5")) and low_hit and cell.metric == "saturated"


def _per_cost(cell: CellAnswer) -> bool:
    priced = cell.metric == "energy" or cell.metric.endswith("per dollar")
    return priced and cell.ends.endswith(("G3", "G5"))


def _claim(text: str, cells: Sequence[CellAnswer], chosen: Chosen) -> Claim:
    relevant = [cell for cell in cells if cell.ratio is not None and chosen(cell)]
    measured = [cell for cell in relevant if cell.source in ("paired", "cross-machine")]
    guessed = [cell for cell in relevant if cell not in measured]
    numbers = [_count("measured", measured)] if measured else []
    numbers += [
        _count(source, [c for c in guessed if c.source == source]) for source in sorted({c.source for c in guessed})
    ]
    if not measured:
        return Claim(claim=text, verdict="not measured", numbers=numbers, measure=COMMAND)
    verdict = "yes" if all(cell.winner == "CPU" for cell in measured) else "no"
    return Claim(claim=text, verdict=verdict, numbers=numbers)


def _count(label: str, cells: Sequence[CellAnswer]) -> str:
    counts = [(winner, sum(cell.winner == winner for cell in cells)) for winner in ("CPU", "tie", "GPU", "unclear")]
    wins = ", ".join(f"{winner} {count}" for winner, count in counts if count or winner in SURE)
    ratios = [cell.ratio for cell in cells if cell.ratio is not None]
    return f"{label}: {wins} of {len(cells)} cells; t_cpu/t_gpu {min(ratios):.3g} to {max(ratios):.3g}"
