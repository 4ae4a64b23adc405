"""`compare` as text: a ratio never stands without both values."""

from __future__ import annotations

import synthetic
from synthetic import Noise, bandwidth, typical

from pykernels.analysis.compare import compare
from pykernels.report.compare import text


def page(width: int) -> str:
    new = typical((1,))
    new[0].truth *= 0.9
    new[4].truth *= 1.2
    new[6].working_set *= 2
    del new[-1]
    old_run = synthetic.run(typical((1,)), noise=Noise(launch=0.005, sample=0.01, seed=1), path="march.jsonl")
    new_run = synthetic.run(new, noise=Noise(launch=0.005, sample=0.01, seed=2), path="now.jsonl")
    new_run.header.machine.governor = "powersave"
    return text(compare(old_run, new_run), width)


def test_the_page_says_what_it_must() -> None:
    said = page(100)
    assert said.startswith("same 6 · faster 1 · slower 1 · unclear 1 · missing 1\nmarch.jsonl -> now.jsonl")
    for part in (
        "about these two sittings only",
        "unclear (size differs: 256 MiB and 512 MiB)",
        "missing (only in march.jsonl)",
        "machine.governor: - -> powersave",
        "a slowdown of",
        "--history RUN...",
        "could see",
    ):
        assert part in " ".join(said.split()), part


def test_no_change_without_both_values() -> None:
    for line in page(100).splitlines():
        if "% [" in line:
            assert " -> " in line
            assert "GB/s" in line or "GFLOP/s" in line


def test_lines_fit() -> None:
    assert all(len(line) <= 80 or " @cpu" in line for line in page(80).splitlines())


def test_long_lists_are_counted() -> None:
    specs = [bandwidth("L1", 100.0, op=str(k)) for k in range(30)]
    slow = [bandwidth("L1", 50.0, op=str(k)) for k in range(30)]
    noise = Noise(launch=0.005)
    said = text(compare(synthetic.run(specs, noise=noise), synthetic.run(slow, noise=noise)), 100)
    assert "slower: 30" in said
    assert "and 10 more (--json lists them)" in said
