"""An uncertainty budget as text."""

from __future__ import annotations

import math

from pykernels.measure.stats import Budget
from pykernels.report.table import paragraph, table, value_and_interval


def text(answer: Budget, width: int = 100) -> str:
    """The measurand, its terms, and the expanded uncertainty with its coverage factor."""
    rows = [
        [term.name, term.kind, f"{term.uncertainty:.3%}", "-" if math.isinf(term.degrees) else f"{term.degrees:g}",
         term.source]
        for term in answer.terms
    ]  # fmt: skip
    value, interval = value_and_interval(answer.value, *answer.bounds)
    degrees = "many" if math.isinf(answer.degrees) else f"{answer.degrees:.1f}"
    end = (
        f"combined {answer.combined:.3%}, {degrees} effective degrees of freedom (Welch-Satterthwaite), coverage "
        f"factor {answer.coverage:.2f} for 95%: {value} {answer.unit} {interval}"
    )
    body = table(["term", "type", "uncertainty", "degrees", "from"], rows, width, right=(2, 3))
    return f"{paragraph(answer.measurand, width)}\n{body}\n{paragraph(end, width)}"
