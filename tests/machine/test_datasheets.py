"""Names to datasheets, and peaks with their labels."""

from __future__ import annotations

import msgspec
import pytest

from pykernels.machine.datasheets import compute_peak, datasheets, find_cpu, find_gpu, memory_peak
from pykernels.machine.microarchitectures import identify
from pykernels.model import Gpu, Machine

replace = msgspec.structs.replace


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Intel(R) Xeon(R) Gold 6242 CPU @ 2.80GHz", "xeon-gold-6242"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-8480-plus"),
        ("INTEL(R) XEON(R) PLATINUM 8480+", "xeon-8480-plus"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
        ("AMD EPYC 9684X 96-Core Processor", "epyc-9684x"),
    ],
)
def test_cpu_names(name: str, slug: str) -> None:
    found = find_cpu(name)
    assert found is not None
    assert found.slug == slug


@pytest.mark.parametrize(
    "name",
    [
        "",
        "AMD EPYC",
        "AMD EPYC Processor",
        "Intel(R) Xeon(R) Gold 6242R CPU @ 3.10GHz",
        "Intel(R) Xeon(R) Platinum 8480CL",
        "Intel(R) Xeon(R) Processor @ 2.20GHz",
        "AMD EPYC 7763P 64-Core Processor",
        "AMD EPYC 9654P 96-Core Processor",
        "Neoverse N1",
        "Apple M1",
    ],
)
def test_cpu_names_without_a_datasheet(name: str) -> None:
    assert find_cpu(name) is None


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2"),
        ("Tesla P100-PCIE-16GB", "p100-pcie-16gb"),
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA B200", "b200-sxm-1000w"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("", None),
    ],
)
def test_gpu_names(name: str, slug: str | None) -> None:
    found = find_gpu(name)
    assert (found.slug if found else None) == slug


def test_memory_bandwidth_of_whole_sockets_only(machines: dict[str, Machine]) -> None:
    xeon, epyc = machines["xeon_snc"], machines["epyc_nps4"]
    assert memory_peak(xeon).value == pytest.approx(2 * 140.8)
    assert memory_peak(xeon).label == "datasheet"
    assert memory_peak(epyc, "cpu:socket.1").value == 204.8
    for device in ("cpu:0", "cpu:l3.0", "cpu:core.1"):
        assert memory_peak(epyc, device).value == 0
        assert "part of a socket" in memory_peak(epyc, device).reason
    slice_of_one = replace(epyc, cores=epyc.cores[:4], hypervisor="KVM")
    assert memory_peak(slice_of_one).reason == "this machine has 4 of the 64 cores of an entire EPYC 7763 (KVM guest)"
    assert 'no datasheet on record for "Neoverse N1"' in memory_peak(machines["graviton2"]).reason


def test_a_node_that_is_a_socket_has_its_bandwidth(machines: dict[str, Machine]) -> None:
    xeon = machines["xeon_snc"]
    plain = replace(xeon, cores=tuple(replace(core, node=core.socket) for core in xeon.cores))
    assert memory_peak(plain, "cpu:1").value == 140.8


def test_cpu_peaks_are_derived_from_the_measured_clock(machines: dict[str, Machine]) -> None:
    xeon, epyc = machines["xeon_snc"], machines["epyc_nps4"]
    peak = compute_peak(xeon, "cpu", "fp32", clock_ghz=2.5, cores=32, isa="x86_64_v4")
    assert (peak.value, peak.unit, peak.label) == (32 * 2.5 * 64, "GFLOP/s", "derived")
    assert "2.50 GHz measured" in peak.basis
    assert compute_peak(xeon, "cpu", "fp64", clock_ghz=3.0, isa="x86_64_v3").value == 3.0 * 16
    assert compute_peak(epyc, "cpu", "fp64", clock_ghz=3.0).value == 3.0 * 16
    assert compute_peak(machines["graviton3"], "cpu", "fp32", clock_ghz=2.0).value == 2.0 * 32


def test_no_peak_without_its_facts(machines: dict[str, Machine]) -> None:
    xeon = machines["xeon_snc"]
    for peak, words in (
        (compute_peak(xeon, "cpu", "fp32"), "clock was not measured"),
        (compute_peak(xeon, "cpu", "bf16", clock_ghz=2.0), "bf16"),
        (compute_peak(xeon, "cpu", "fp32", clock_ghz=2.0, isa="x86_64_v2"), "no FMA"),
        (compute_peak(machines["laptop"], "cpu", "fp32", clock_ghz=4.0), "Alder Lake"),
        (compute_peak(xeon, "gpu:0", "fp32"), "no gpu:0"),
        (memory_peak(xeon, "gpu:0"), "no gpu:0"),
    ):
        assert peak.value == 0
        assert words in peak.reason


def test_gpu_peaks_are_the_datasheets(machines: dict[str, Machine]) -> None:
    gpu = Gpu(index=0, name="NVIDIA H100 80GB HBM3", memory_bytes=80 << 30)
    machine = replace(machines["graviton2"], gpus=(gpu,))
    assert memory_peak(machine, "gpu:0").value == 3350
    peak = compute_peak(machine, "gpu:0", "bf16")
    assert (peak.value, peak.label) == (989400, "datasheet")
    sliced = replace(machine, gpus=(replace(gpu, mig="1g.10gb"),))
    assert "slice" in memory_peak(sliced, "gpu:0").reason


@pytest.mark.parametrize(
    ("vendor", "family", "model", "name", "fp64"),
    [
        ("AuthenticAMD", 0x17, 0x31, "Zen 2", 16),
        ("AuthenticAMD", 0x19, 0x01, "Zen 3", 16),
        ("AuthenticAMD", 0x19, 0x11, "Zen 4", 16),
        ("AuthenticAMD", 0x19, 0xA0, "Zen 4", 16),
        ("AuthenticAMD", 0x1A, 0x02, "Zen 5", 32),
        ("AuthenticAMD", 0x1A, 0x24, "Zen 5 mobile", 16),
        ("GenuineIntel", 6, 0x4F, "Broadwell", 16),
        ("GenuineIntel", 6, 0x55, "Skylake-SP", 32),
        ("GenuineIntel", 6, 0x8F, "Sapphire Rapids", 32),
    ],
)
def test_flop_per_cycle(vendor: str, family: int, model: int, name: str, fp64: int) -> None:
    design = identify("x86_64", vendor, family, model)
    assert design is not None
    assert (design.name, design.flop_per_cycle("fp64"), design.flop_per_cycle("fp32")) == (name, fp64, 2 * fp64)
    assert design.flop_per_cycle("int8") == 0


def test_every_gpu_pattern_names_a_row() -> None:
    from pykernels.machine import datasheets as module

    assert set(module._GPU_NAMES) <= set(datasheets())
    assert all(row.memory_gbs > 0 for row in datasheets().values())
