"""Where a CPU beats a GPU for recommendation lookups, and where it does not: records in, answers out.

`workload` says what is looked up, `cells` turns records into measured cells, `roofs` a run's ceilings into a device,
`model` is the closed form, `finder` finds crossovers on one axis, `sources` and `sides` say where each side comes from,
`claims` splits the seed claim, and `analysis.analyse` puts them together.
"""

from pykernels.analysis.crossover.analysis import analyse
from pykernels.analysis.crossover.answers import Answer, Assumptions, Claim, Options, Report
from pykernels.analysis.crossover.refine import Refinement, refine

__all__ = ["Answer", "Assumptions", "Claim", "Options", "Refinement", "Report", "analyse", "refine"]
