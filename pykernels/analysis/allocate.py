"""What ordinary stores read before they write, estimated from what streaming stores save.

In memory a copy moves two arrays, and the written one's lines once more if its stores read them first. Where memory
binds both kinds of store, time is in proportion to bytes, so the lines read for each line written are
arrays x (rate with streaming stores / rate with ordinary stores - 1). It is derived, not counted: a machine that is
slower with one kind of store for another reason shows that here too.
"""

from __future__ import annotations

from collections.abc import Sequence

from pykernels.analysis.common import Campaign, CaseSummary, domain

#: op -> arrays that it reads and writes
ARRAYS = {"store": 1, "copy": 2, "triad": 3}


def notes(study: Campaign, ceilings: Sequence[CaseSummary]) -> list[str]:
    """A sentence with one estimate for each op and team whose roof in DRAM was measured with both kinds of store."""
    found: dict[tuple[str, ...], CaseSummary] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind == "bandwidth" and record.figure.level == "DRAM":
            team = f"{domain(record)}*{record.threads} {record.dtype}"
            found.setdefault((team, record.isa, record.pages, record.backend, record.figure.op), case)
    said = []
    for key, plain in sorted(found.items()):
        streaming = found.get((*key[:-1], f"nt-{key[-1]}"))
        if streaming is not None and key[-1] in ARRAYS:
            value, low, high = (ARRAYS[key[-1]] * (ratio - 1) for ratio in study.ratio(streaming, plain))
            said.append(f"{key[-1]} {key[0]} {value:.2f} [{low:.2f}, {high:.2f}]")
    if not said:
        return []
    return [f"lines read for each line stored in DRAM, derived from streaming stores: {'; '.join(said)}"]
