"""Whole simulated runs through plan, engine, sampling and `roofline`: coverage of every roof, and false accusations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import instruments
import msgspec

from pykernels import registry
from pykernels.analysis import roofline
from pykernels.backends.simulated.noise import Cheat
from pykernels.units import value_of

#: one ceiling of every kind and level; families that the package does not have yet are left out
STUDIES = {
    "stream": '[[study]]\nkernel = "stream"\nop = "load"\nlevel = ["L1", "L2", "L3", "DRAM"]\nthreads = 1\n'
    '[[study]]\nkernel = "stream"\nop = "copy"\nlevel = ["L1", "DRAM"]\nthreads = "all"\n',
    "fma": '[[study]]\nkernel = "fma"\ndtype = ["fp32", "fp64"]\nthreads = 1\n',
    "chase": '[[study]]\nkernel = "chase"\nthreads = 1\n',
    "gather": '[[study]]\nkernel = "gather"\nthreads = 1\n',
    "exp": '[[study]]\nkernel = "exp"\nthreads = 1\n',
}


@dataclass
class Score:
    """Over runs: intervals that held the truth, by ceiling; runs with each kind of flag or note; runs with any."""

    runs: int = 0
    held: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    flagged_runs: int = 0


def studies() -> str:
    """The studies whose families exist."""
    return "".join(text for name, text in STUDIES.items() if name in registry.families())


def score(noise_name: str, repeats: int, first_seed: int = 1000, cheat: Cheat | None = None) -> Score:
    """Simulate `repeats` runs and hold every roof's interval against the truth that its records carry."""
    plan = instruments.sweep(studies())
    noise = instruments.noise(noise_name)
    result = Score()
    for seed in range(first_seed, first_seed + repeats):
        played = msgspec.structs.replace(
            noise, seed=seed, cheat=[cheat] if cheat else [], visits_played=0, seconds_played=0.0
        )
        run = instruments.run(played, plan)
        truth = {
            record.case_id: value_of(record.figure.unit, record.figure.amount, record.conditions.facts["true_s"])
            for record in run.records
            if "true_s" in record.conditions.facts
        }
        answer = roofline.analyse([run])
        result.runs += 1
        found = _flags(answer)
        result.flags.update(set(found))
        result.flagged_runs += bool(found)
        for roof, detail in zip(answer.roofs, answer.detail.roofs, strict=True):
            name = f"{roof.kind} {roof.level} {roof.op} {roof.dtype} x{roof.threads}"
            result.drawn[name] += 1
            result.held[name] += roof.low <= truth[detail.case_id] <= roof.high
    return result


def _flags(answer: roofline.Roofline) -> list[str]:
    """Accusations in words without figures; `mixture` is a fact of the working set, not an accusation."""
    texts = [flag for roof in answer.roofs for flag in roof.flags if flag != "mixture"]
    texts += [flag for point in answer.detail.points for flag in point.flags]
    texts += ["step in the run" for note in answer.detail.notes if "visits after it are kept" in note]
    return [text.partition(" by ")[0] for text in texts]
