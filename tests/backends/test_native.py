"""The native backend: levels, reasons, variants, buffers, samples, memory limits, disassembly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pykernels.backends import native
from pykernels.backends.native import BACKEND, disassemble, table
from pykernels.backends.native_memory import PAGE, SharedOperands, free_memory, huge_page_share, layout
from pykernels.errors import UsageError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.kernels.embedding_keys import build_bag
from pykernels.kernels.fma import Fma
from pykernels.kernels.random import array
from pykernels.kernels.stream import Stream
from pykernels.machine.cpu import read_machine
from pykernels.machine.placement import space_for
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Placement

_core = pytest.importorskip("pykernels._core", reason="the native module is not built")
MACHINE = read_machine()
BEST = BACKEND.isas(MACHINE)[-1]
LOAD = Stream(op="load", n=1 << 16, dtype="fp64")


def case_of(problem=LOAD, isa=BEST, variant="", **placement) -> Case:  # type: ignore[no-untyped-def]
    return Case(
        problem=problem, implementation=Implementation("native", isa, variant), placement=Placement(**placement)
    )  # fmt: skip


def prepared(problem=LOAD, variant="plain", **placement):  # type: ignore[no-untyped-def]
    return BACKEND.open(Placement(**placement), MACHINE).prepare(problem, Implementation("native", BEST, variant))


def test_levels_are_those_this_machine_runs() -> None:
    assert set(BACKEND.isas(MACHINE)) <= set(_core.built_isas())
    assert BACKEND.isas(MACHINE) == tuple(_core.supported_isas())


def test_tables_can_be_listed_without_the_cpu() -> None:
    for isa in _core.built_isas():
        found = table(isa)
        assert ("stream", "triad", "fp64") in found
        names = [entry.name for entry in found["stream", "load", "fp32"]]
        assert len(set(names)) == len(names)
        assert names[0] == "plain"
        assert {"prefetch:512", "prefetch:2048"} <= set(names)


def test_a_level_beyond_this_machine_is_refused_in_words() -> None:
    beyond = [isa for isa in _core.built_isas() if _core.missing(isa)]
    if not beyond:
        pytest.skip("this machine runs every level of the build")
    lack = _core.missing(beyond[-1])
    with pytest.raises(RuntimeError, match=f"{beyond[-1]} cannot run here: this machine lacks {lack}"):
        _core.Library(beyond[-1])
    skipped = BACKEND.skip(case_of(isa=beyond[-1]), MACHINE)
    assert skipped is not None
    assert lack in skipped.reason


def test_a_level_is_opened_once() -> None:
    """Replacing a library under a running process (a reinstall) must not change what an index means."""
    _core.entries(BEST)
    maps = Path("/proc/self/maps").read_text()
    before = maps.count(f"libpk_{BEST}.so")
    for _ in range(3):
        _core.entries(BEST)
        _core.Library(BEST)
    assert Path("/proc/self/maps").read_text().count(f"libpk_{BEST}.so") == before


def test_unbuilt_level() -> None:
    with pytest.raises(RuntimeError, match='"pdp11" is not part of this build'):
        _core.entries("pdp11")
    skipped = BACKEND.skip(case_of(isa="pdp11"), MACHINE)
    assert skipped is not None
    assert "pdp11 is not part of this build" in skipped.reason


def test_skip_reasons() -> None:
    assert BACKEND.skip(case_of(), MACHINE) is None
    gpu = BACKEND.skip(case_of(device="gpu:0"), MACHINE)
    assert gpu is not None
    assert "not on gpu:0" in gpu.reason
    nothing = BACKEND.skip(case_of(Stream(op="load", n=8, dtype="int8")), MACHINE)
    assert nothing is not None
    assert nothing.reason == "native has no stream load int8"


@pytest.mark.skipif("x86_64_v4_bf16" not in _core.built_isas(), reason="an x86-64 matter")
def test_skip_names_the_level_that_has_it() -> None:
    import msgspec

    small = msgspec.structs.replace(MACHINE, isa=("baseline", "x86_64_v2", "x86_64_v3"))
    skipped = BACKEND.skip(case_of(Fma(dtype="bf16"), isa="x86_64_v3"), small)
    assert skipped is not None
    assert skipped.reason == "fma bf16 needs x86_64_v4_bf16; this CPU has x86_64_v3"


def test_variants_need_an_entry() -> None:
    assert BACKEND.variants(case_of())[0] == "plain"
    assert BACKEND.variants(case_of(Stream(op="load", n=8, dtype="int8"))) == ()
    with pytest.raises(UsageError, match='no variant "fancy"'):
        prepared(variant="fancy")


def test_inputs_are_the_recipe_and_outputs_are_poisoned() -> None:
    problem = Stream(op="triad", n=5001, dtype="fp32")
    runner = prepared(problem)
    for operand in problem.operands()[:2]:
        assert np.array_equal(runner.inputs()[operand.name], array(operand))
    runner.poison()
    assert np.isnan(runner.outputs()["c"]).all()
    assert np.array_equal(runner.inputs()["a"], array(problem.operands()[0])), "poison stays inside the outputs"
    runner.run(1)
    assert np.isfinite(runner.outputs()["c"]).all()


def test_samples_say_what_they_must() -> None:
    runner = prepared()
    samples = runner.sample(10, 4)
    assert samples.reps == 10
    for values in (samples.samples_s, samples.cpu_over_wall, samples.clock_ghz, samples.start_skew_s):
        assert len(values) == 4
    assert all(t > 0 for t in samples.samples_s)
    assert all(0 < ratio < 1.5 for ratio in samples.cpu_over_wall)
    assert all(0.2 < ghz < 10 for ghz in samples.clock_ghz)
    assert all(count >= 0 for count in samples.involuntary_switches)
    assert all(skew == 0 for skew in samples.start_skew_s), "one thread starts with itself"


def test_buffers_are_kept_for_the_same_operands_only() -> None:
    session = BACKEND.open(Placement(), MACHINE)
    first = session.prepare(LOAD, Implementation("native", BEST, "plain"))
    address = first._buffers.arena.address
    other = session.prepare(LOAD, Implementation("native", BEST, "streams2"))
    assert other._buffers.arena.address != address, "two runners at once have their own buffers"
    first.close()
    again = session.prepare(LOAD, Implementation("native", BEST, "streams2"))
    assert again._buffers.arena.address == address
    different = session.prepare(Stream(op="load", n=8, dtype="fp64"), Implementation("native", BEST, "plain"))
    assert different._buffers.key != again._buffers.key


def test_a_view_outlives_its_runner() -> None:
    runner = prepared()
    view = runner.inputs()["a"]
    expected = view.copy()
    del runner
    assert np.array_equal(view, expected)


def test_operands_do_not_overlap_and_are_staggered() -> None:
    operands = Stream(op="triad", n=5000, dtype="fp64").operands()
    offsets, total = layout(operands)
    ends = [offset + 40000 for offset in offsets]
    assert all(end <= start for end, start in zip(ends, offsets[1:], strict=False))
    assert total == ends[-1]
    assert len({offset % PAGE for offset in offsets}) == 3
    assert all(offset % 64 == 0 for offset in offsets)


def test_more_than_the_memory_is_refused() -> None:
    import msgspec

    poor = msgspec.structs.replace(MACHINE, memory_available=1 << 20)
    with pytest.raises(UsageError, match="more than 60% of the available memory"):
        BACKEND.open(Placement(), poor).prepare(
            Stream(op="load", n=1 << 20, dtype="fp64"), Implementation("native", BEST, "plain")
        )


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"threads": 100_000}, "threads = 100000"),
        ({"pages": "giant"}, 'pages = "giant"'),
        ({"memory": "far"}, 'memory = "far"'),
        ({"device": "cpu:99"}, "cpu:99"),
    ],
)
def test_impossible_placements(placement: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BACKEND.open(Placement(**placement), MACHINE)  # type: ignore[arg-type]


def test_memory_on_a_node() -> None:
    runner = prepared(memory="0")
    runner.run(1)
    with pytest.raises(OSError, match="NUMA node 900"):
        prepared(memory="900")


def test_threads_are_pinned_and_the_caller_is_not() -> None:
    before = os.sched_getaffinity(0)
    team = _core.Team([min(before)])
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    pinned = [task for task in threads if os.sched_getaffinity(task) == {min(before)}]
    assert os.sched_getaffinity(0) == before
    assert pinned
    team.close()
    with pytest.raises(RuntimeError, match="team is closed"):
        team.clock_ghz()


def test_a_cpu_that_is_not_there() -> None:
    with pytest.raises(OSError, match="CPU 5000"):
        _core.Team([5000])


def test_huge_pages_are_obtained_or_said_not_to_be() -> None:
    big = Stream(op="load", n=1 << 20, dtype="fp64")
    assert prepared(big, pages="4k").facts()["huge_page_share"] == 0
    share = prepared(big).facts()["huge_page_share"]
    assert 0 <= share <= 1
    if MACHINE.huge_pages in ("always", "madvise"):
        assert share > 0.5


def test_page_share_of_a_recorded_map(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(
        "7f0000000000-7f0000400000 rw-p 00000000 00:00 0\nRss:      4096 kB\nAnonHugePages:      2048 kB\n"
        "7f0000400000-7f0000800000 rw-p 00000000 00:00 0\nRss:      4096 kB\nAnonHugePages:      4096 kB\n"
    )
    assert huge_page_share(0x7F0000000000, 0x400000, smaps) == 0.5
    assert huge_page_share(0x7F0000000000, 0x800000, smaps) == 0.75
    assert huge_page_share(0x1000, 0x1000, smaps) is None
    assert huge_page_share(0, 1, tmp_path / "absent") is None


@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed (apt install binutils)")
def test_disassembly_is_the_hot_function() -> None:
    text = disassemble(case_of(variant="plain"), MACHINE)
    assert "<pk_stream_load_fp64_plain>" in text
    with pytest.raises(UsageError, match="no variant"):
        disassemble(case_of(variant="fancy"), MACHINE)


def test_disassembly_without_objdump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="objdump is not installed"):
        disassemble(case_of(), MACHINE)


def test_module_says_what_built_it() -> None:
    assert _core.COMPILER
    assert set(_core.FLAGS) == set(_core.built_isas())
    assert all("-ffp-contract=fast" in flags for flags in _core.FLAGS.values())


def test_importing_the_backend_imports_no_native_module() -> None:
    code = "import sys, pykernels.backends.native; sys.exit('pykernels._core' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def lookups(batch: int, **more: object) -> EmbeddingBag:
    values = {"rows": 2000, "dim": 32, "pooling": 4, "batch": batch, **more}
    built = build_bag(values, space_for(MACHINE, "cpu", 1))
    assert isinstance(built, EmbeddingBag)
    return built


@pytest.mark.parametrize("threads", [1, MACHINE.affinity and min(2, len(MACHINE.affinity))])
@pytest.mark.parametrize("mode", ["closed", "open"])
def test_requests_are_served_and_their_answers_are_right(mode: str, threads: int) -> None:
    problem = lookups(3)
    session = BACKEND.open(Placement(mode=mode, threads=threads), MACHINE)
    runner = session.prepare(problem, Implementation("native", BEST, BACKEND.variants(case_of(problem))[0]))
    runner.poison()
    samples = runner.sample(20, 3)
    assert len(samples.samples_s) == 3
    facts = runner.facts()
    latency = facts["latency"]
    assert latency["calls"] == sum(count for _, count in latency["histogram"]) == 5000
    assert 0 < latency["p50_us_low"] <= latency["p50_us"] <= latency["p50_us_high"] <= latency["p99_us_high"]
    assert ("served" in facts) == (mode == "open")
    if mode == "open":
        rates = [load["rate"] for load in facts["open_loop"]]
        assert rates == sorted(rates)
        assert all(rate <= rates[-1] * problem.lookups * 1.001 for rate in facts["served"].values())
    out = problem.observed(runner.outputs())["out"]
    expected = problem.reference(runner.inputs())["out"]
    assert np.allclose(out, expected, rtol=problem.tolerance().relative)


def test_calls_too_slow_for_five_thousand_requests_are_left_out() -> None:
    problem = lookups(1 << 17, rows=1 << 20)
    session = BACKEND.open(Placement(mode="closed"), MACHINE)
    runner = session.prepare(problem, Implementation("native", BEST, BACKEND.variants(case_of(problem))[0]))
    with pytest.raises(UsageError, match="budget: 5,000 requests of"):
        runner.sample(1, 1)


def test_a_cpu_has_no_gpu_timing_and_no_gpu_ends() -> None:
    skipped = BACKEND.skip(case_of(mode="cold"), MACHINE)
    assert skipped is not None
    assert "cold" in skipped.reason
    skipped = BACKEND.skip(case_of(ends="G2"), MACHINE)
    assert skipped is not None
    assert "G2 is not theirs" in skipped.reason


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_one_filled_table_serves_every_problem_of_a_worker(dtype: str) -> None:
    """The largest first or last: what a problem reads is what its recipe says."""
    session = BACKEND.open(Placement(), MACHINE)
    arenas = set()
    for rows in (1000, 3000, 1000, 2000):
        problem = lookups(5, rows=rows, dtype=dtype)
        runner = session.prepare(problem, Implementation("native", BEST, BACKEND.variants(case_of(problem))[0]))
        runner.poison()
        runner.run(1)
        table_ = problem.operands()[0]
        assert np.array_equal(runner.inputs()["table"][:100], array(table_)[:100])
        assert not verify.check_full(problem, runner)
        arenas.add(runner.inputs()["table"].ctypes.data)
        runner.close()
    assert len(arenas) == 2  # 1000 rows, then room for 3000


def test_shared_tables_lie_whole_where_there_are_several_nodes() -> None:
    made: list[int] = []
    held = SharedOperands(1 << 20, exact=True, make=lambda operand: made.append(operand.shape[0]) or object())
    tables = {rows: lookups(5, rows=rows).operands()[0] for rows in (1000, 3000)}
    for rows in (3000, 1000, 1000, 3000):
        held.arena(tables[rows])
    assert made == [3000, 1000, 3000]


def test_the_smallest_shared_tables_go_first() -> None:
    held = SharedOperands(400_000, exact=False, make=lambda operand: operand.dtype)
    big, small, other = (
        lookups(5, rows=r, dtype=d).operands()[0] for r, d in ((2000, "fp32"), (2000, "fp16"), (1000, "bf16"))
    )
    held.arena(big)
    held.arena(small)
    held.arena(other)
    assert held.holds(big)
    assert not held.holds(small)


def test_shared_operands_leave_room_for_other_workers() -> None:
    """With no room beside what is held, the small table goes for the new one, and the large one stays."""
    room = [1 << 30]
    held = SharedOperands(1 << 30, exact=False, make=lambda operand: operand.dtype, room=lambda: room[0])
    large, small, new = (
        lookups(5, rows=r, dtype=d).operands()[0] for r, d in ((20_000, "fp32"), (2000, "fp16"), (1000, "bf16"))
    )
    for operand in (large, small):
        held.arena(operand)
    room[0] = 0
    held.arena(new)
    assert held.holds(large)
    assert held.holds(new)
    assert not held.holds(small)


def test_free_memory_is_what_the_os_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   40 kB\n")
    assert free_memory(tmp_path / "meminfo") == 40 * 1024
    assert free_memory(tmp_path / "none") > 1 << 60
    assert 0 < free_memory() < 1 << 60
