"""Whatever stands in a sweep, every key of every kernel answers with a plan or with one sentence."""

from __future__ import annotations

import pytest

from pykernels import registry
from pykernels.errors import PykernelsError
from pykernels.machine.cpu import read_machine
from pykernels.plan import make_plan
from pykernels.sweep import PLACE_KEYS, parse_sweep

VALUES = (
    '"zzz"', '""', "-1", "0", "1.5", "nan", "inf", "true", "[]", "[[1]]", "{ a = 1 }", "{ from = 1, to = 1e30 }",
    "1979-05-27", "99999999999999999999",
)  # fmt: skip
MACHINE = read_machine()
TOP = ("pykernels", "title", "budget", "launches", "rounds", "seed", "sample", "visit", "dram_factor", "timeout",
       "study", "require")  # fmt: skip


def answers(text: str) -> None:
    try:
        make_plan(parse_sweep(text), MACHINE)
    except PykernelsError as error:
        assert "\n" not in error.message  # noqa: PT017 (most values are good)


@pytest.mark.parametrize("key", TOP)
def test_top_keys(key: str) -> None:
    study = "" if key == "study" else '[[study]]\nkernel = "stream"\nop = "load"\nlevel = "L1"\n'
    for value in VALUES:
        answers(("" if key == "pykernels" else "pykernels = 1\n") + f"{key} = {value}\n{study}")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # sums of absurd sizes
@pytest.mark.parametrize("kernel", registry.families())
def test_keys_of_studies(kernel: str) -> None:
    for key in [*PLACE_KEYS, *registry.family(kernel).keys]:
        if key != "kernel":
            for value in VALUES:
                answers(f'pykernels = 1\n[[study]]\nkernel = "{kernel}"\n{key} = {value}\n')
