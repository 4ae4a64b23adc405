"""The uncertainty budget of a headline roof."""

from __future__ import annotations

import math

import pytest
import synthetic
from synthetic import Noise, typical

from pykernels.analysis.uncertainty import uncertainty
from pykernels.errors import UsageError
from pykernels.report.uncertainty import text

NOISE = Noise(launch=0.01, sample=0.01, seed=2)


def test_the_headline_is_loads_from_dram_with_all_threads() -> None:
    run = synthetic.run(typical((1, 2)), noise=NOISE)
    for record in run.records:
        record.conditions.huge_page_share = 1.0
    answer = uncertainty([run])
    assert answer.measurand == "DRAM load, fp32, 2 threads on cpu: the rate of this sitting"
    terms = {term.name: term for term in answer.terms}
    assert list(terms) == ["launches", "clock", "byte model", "page backing", "selection"]
    assert terms["launches"].degrees == 4
    assert terms["page backing"].uncertainty == 0.0
    assert answer.combined == pytest.approx(terms["launches"].uncertainty, rel=0.01)
    assert answer.bounds[0] < answer.value < answer.bounds[1]
    page = text(answer, 80)
    assert "coverage factor" in page
    assert all(len(line) <= 80 for line in page.splitlines())


def test_pages_that_were_not_huge_widen_it() -> None:
    run = synthetic.run(typical((1,)), noise=NOISE)
    for record in run.records:
        record.conditions.huge_page_share = 0.0
    terms = {term.name: term for term in uncertainty([run]).terms}
    assert terms["page backing"].uncertainty == pytest.approx(0.15 / math.sqrt(3))


def test_three_sittings_are_the_machine() -> None:
    runs = [
        synthetic.run(typical((1,)), noise=NOISE, started=1e9 + 1e4 * k, path=f"{k}", offset=0.02 * k) for k in range(3)
    ]
    answer = uncertainty(runs)
    assert answer.measurand.endswith("the rate of this machine")
    assert (answer.terms[0].name, answer.terms[0].degrees) == ("sittings", 2)


def test_one_roof_by_name_and_what_has_none() -> None:
    run = synthetic.run(typical((1,)), noise=NOISE)
    case_id = run.records[0].case_id
    assert uncertainty([run], case_id).unit in ("GB/s", "GFLOP/s")
    with pytest.raises(UsageError, match="no roof nothing"):
        uncertainty([run], "nothing")
    with pytest.raises(UsageError, match="one launch does not tell"):
        uncertainty([synthetic.run(typical((1,)), launches=1)])
