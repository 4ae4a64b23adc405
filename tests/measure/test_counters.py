"""Hardware counters: counted where the kernel has them, and a reason in words where it does not."""

from __future__ import annotations

import errno
import platform

import pytest

from pykernels.measure import counters
from pykernels.measure.counters import Counter, Counts, available, counting, why_none


def test_counts_or_a_reason() -> None:
    with counting() as result:
        sum(range(100_000))
    (counts,) = result
    if counts.reason:
        assert counts.events == {}
        assert counts.reason.startswith("hardware counters: ")
        assert counts.facts() == {"counters": counts.reason}
    else:
        assert counts.events.get("instructions", 1e9) > 100_000
    assert available() == counts.reason


def test_an_error_in_the_block_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), counting() as result:
        _ = 1 / 0
    assert len(result) == 1


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "not permitted"), (errno.EPERM, "not permitted"), (errno.ENOENT, "has none"),
                          (errno.EINVAL, "hardware counters: Invalid")],
)  # fmt: skip
def test_reasons(number: int, words: str) -> None:
    assert words in why_none(OSError(number, "Invalid argument"))


def test_unknown_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    with pytest.raises(OSError, match="sparc64"):
        Counter("cycles")
    assert "has none" in available()


def test_counting_with_a_kernel_that_has_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine with counters gives: the sum of what each event says, misses as bytes."""

    class Fake:
        def __init__(self, name: str) -> None:
            self.name, self.reads = name, 0.0

        def enable(self) -> None: ...
        def disable(self) -> None: ...
        def close(self) -> None: ...
        def read(self) -> float:
            self.reads += 1
            return self.reads * {"llc_misses": 10.0}.get(self.name, 1000.0)

    monkeypatch.setattr(counters, "Counter", Fake)
    with counting() as result:
        pass
    assert result[0] == Counts(
        events={"cycles": 1000.0, "instructions": 1000.0, "llc_references": 1000.0, "llc_misses": 10.0}
    )
    assert result[0].facts(10)["counters"] == {
        "cycles": 100.0, "instructions": 100.0, "llc_references": 100.0, "llc_misses": 1.0, "llc_miss_bytes": 64.0
    }  # fmt: skip
    assert result[0].facts(0) == {"counters": "hardware counters: nothing was timed"}


def test_only_the_timed_part_of_a_native_sample_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task clock is an event that kernels have without a PMU: it runs while samples do, on every thread."""
    from pykernels.backends.native import BACKEND
    from pykernels.kernels.fma import Fma
    from pykernels.machine import cpu
    from pykernels.model import Implementation, Placement

    monkeypatch.setattr(counters, "EVENTS", {"task_clock": (1, 1)})
    machine = cpu.read_machine()
    if available() or machine.arch != "x86_64":
        pytest.skip(available() or "written for x86-64")
    for threads in range(1, min(2, len(machine.affinity)) + 1):
        session = BACKEND.open(Placement(threads=threads), machine)
        problem = Fma(dtype="fp32", units=threads)
        runner = session.prepare(problem, Implementation("native", "x86_64_v2", "chain8"))
        timed = runner.sample(10, 5)
        counted = runner.facts()["counters"]["task_clock"] * 1e-9 * 50
        wall = [10 * seconds for seconds in timed.samples_s]
        least = threads * sum(seconds * ratio for seconds, ratio in zip(wall, timed.cpu_over_wall, strict=True))
        assert 0.8 * least <= counted <= 1.2 * threads * sum(wall)
        runner.close()
