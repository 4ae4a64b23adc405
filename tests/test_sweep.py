from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from pykernels.errors import UsageError
from pykernels.machine.cpu import read_machine
from pykernels.plan import make_plan
from pykernels.sweep import Requirement, load_sweep, parse_sweep, shipped_sweeps

GOOD = """
pykernels = 1
title = "t"
budget = "2 min"
launches = 3

[[study]]
kernel = "stream"
op = "load"
level = ["L1", "L2"]
threads = [1, "all"]

[[require]]
case = "stream[*] *@cpu*"
GBps = [">= 180", "<= 105% of datasheet"]
"""


def test_a_sweep_is_read_with_every_value_a_list() -> None:
    sweep = parse_sweep(GOOD)
    assert (sweep.budget_s, sweep.launches) == (120, 3)
    assert sweep.study == [
        {"kernel": "stream", "op": ["load"], "level": ["L1", "L2"], "threads": [1, "all"]},
    ]
    assert sweep.require == [
        Requirement("stream[*] *@cpu*", "GBps", ">= 180"),
        Requirement("stream[*] *@cpu*", "GBps", "<= 105% of datasheet"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("pykernels = 1", "pykernels = 2", r"where: pykernels = 2: the first key must be `pykernels = 1`"),
        ("pykernels = 1", "", r"pykernels = None"),
        ("title", "titel", r'unknown key "titel" \(did you mean "title"\?\)'),
        ('kernel = "stream"', 'kernel = "strem"', r'study 1: unknown kernel "strem" \(did you mean "stream"\?\)'),
        ("op = ", "opp = ", r'study 1: unknown key "opp" \(did you mean "op"\?\)'),
        ('op = "load"', 'op = "laod"', r'unknown op of stream "laod" \(did you mean "load"\?\)'),
        ('["L1", "L2"]', '"L9"', r'unknown level of stream "L9"'),
        ('["L1", "L2"]', "[]", r"study 1: level: an empty list selects nothing"),
        ('[1, "all"]', "[0]", r"threads = 0: write a whole number of at least 1"),
        ('[1, "all"]', "[true]", r"threads = True"),
        ('"2 min"', '"2 parsecs"', r'budget: "2 parsecs" is not a duration'),
        ('"2 min"', '"0 s"', r"budget = '0 s': expected a duration above zero"),
        ("launches = 3", "launches = 0", r"launches = 0: expected a whole number of at least 1"),
        ("launches = 3", 'launches = "3"', r"launches = '3': expected int"),
        ("GBps", "GBs", r'require 1: unknown metric "GBs" \(did you mean "GBps"\?\)'),
        ("title = ", "title ", r"not valid TOML"),
    ],
)
def test_bad_input_is_named_with_what_would_be_right(old: str, new: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_sweep(GOOD.replace(old, new, 1), where="where")
    assert caught.value.message.startswith("where: ")


def test_no_study_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no \[\[study\]\]"):
        parse_sweep("pykernels = 1")


def test_ranges_are_spaced_in_the_log() -> None:
    text = 'pykernels = 1\n[[study]]\nkernel = "stream"\nthreads = { from = 1, to = 8, per_octave = 1 }'
    assert parse_sweep(text).study[0]["threads"] == [1, 2, 4, 8]
    with pytest.raises(UsageError, match="needs 0 < from <= to"):
        parse_sweep(text.replace("to = 8", "to = 0"))
    with pytest.raises(UsageError, match=r'unknown key "step"'):
        parse_sweep(text.replace("per_octave", "step"))


def test_unknown_sweep_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r'unknown sweep "quik" \(did you mean "quick"\?\)'):
        load_sweep("quik")


def test_unreadable_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read \(No such file"):
        load_sweep(str(tmp_path / "none.toml"))
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="not a text file"):
        load_sweep(str(binary))


def test_a_value_found_wrong_when_planning_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('pykernels = 1\n[[study]]\nkernel = "embedding_bag"\nlevel = "L2"\ndim = 0\n')
    with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}: study 1: .*dim = 0: write a whole number"):
        make_plan(load_sweep(str(path)), read_machine())


@pytest.mark.parametrize("name", sorted(shipped_sweeps()))
def test_every_shipped_sweep_is_valid_and_has_a_title(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.title
    assert sweep.study


@pytest.mark.parametrize("name", sorted(shipped_sweeps()))
def test_every_shipped_sweep_plans_on_this_machine(name: str) -> None:
    """A sweep that names a size no machine has fails here, not on the user's machine."""
    machine = msgspec.structs.replace(read_machine(), memory_available=64 * 2**30, memory_bytes=64 * 2**30)
    plan = make_plan(load_sweep(name), machine)
    assert plan.cases or plan.skipped


def test_what_does_not_fit_into_memory_is_skipped_before_it_runs() -> None:
    """A cache of keys and values."""
    text = 'pykernels = 1\ntitle = "t"\nlaunches = 1\n\n[[study]]\nkernel = "attention"\nlq = 1\nlk = 1048576\n'
    small = msgspec.structs.replace(read_machine(), memory_available=256 * 2**20)
    plan = make_plan(parse_sweep(text), small)
    assert plan.cases == []
    assert "more than 60% of the available memory (154 MiB)" in plan.skipped[0][1].reason
