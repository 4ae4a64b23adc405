"""What the vendor says a machine can do: the datasheet row of a CPU or GPU, and peaks to compare measurements with.

A name is matched whole or not at all: a wrong datasheet is worse than none. A CPU's memory bandwidth is the
datasheet's, and only where the machine has whole sockets of it. A CPU's arithmetic peak is always `derived`: cores x
measured clock x FLOP per cycle of its design (`microarchitectures.py`).
"""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from pykernels.machine.microarchitectures import identify
from pykernels.model import Machine

_COLUMNS = {
    "fp64": "fp64_tflops", "fp32": "fp32_tflops", "fp16": "fp16_tflops", "bf16": "bf16_tflops", "int8": "int8_tops",
}  # fmt: skip

#: GPU rows -> the names their drivers use, normalised; the form factor decides the figures, so it is part of the name.
_GPU_NAMES = {
    "p100-pcie-16gb": r"p100 pcie 16gb",
    "v100-sxm2": r"v100 sxm2 (16|32)gb",
    "a100-sxm4-40gb": r"a100 sxm4 40gb",
    "a100-sxm4-80gb": r"a100 sxm4 80gb",
    "h100-sxm5-80gb": r"h100 (sxm5? )?80gb( hbm3)?",
    "h200-sxm-141gb": r"h200( sxm5?)?( 141gb)?( hbm3e)?",
    "b200-sxm-1000w": r"b200( sxm)?",
    "mi250x": r"mi250x",
    "mi300x": r"mi300x",
    "mi325x": r"mi325x",
    "mi355x": r"mi355x",
    "rtx-3090": r"rtx 3090",
    "rtx-4090": r"rtx 4090",
    "rtx-5090": r"rtx 5090",
}


class Datasheet(msgspec.Struct, frozen=True):
    """One row of hardware.csv: dense peaks in GFLOP/s (GOP/s) by dtype, memory in GB/s. `basis` says where peaks come
    from; those of CPUs are derived at base clock."""

    slug: str
    name: str
    kind: str
    cores: int
    memory_gbs: float
    peaks: dict[str, float]
    basis: str
    source: str


class Peak(msgspec.Struct, frozen=True):
    """A figure to compare a measurement with, or why there is none (then `value` is 0 and `reason` says it).

    `label` is `datasheet` or `derived` and is printed with the value; `basis` is a sentence on how it comes about."""

    value: float
    unit: str
    label: Literal["datasheet", "derived"]
    basis: str = ""
    reason: str = ""


@cache
def datasheets() -> dict[str, Datasheet]:
    """All rows by slug."""
    found = {}
    text = files("pykernels").joinpath("data", "hardware.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        found[row["slug"]] = Datasheet(
            slug=row["slug"],
            name=row["device"],
            kind=row["kind"],
            cores=int(row["cores"] or 0),
            memory_gbs=float(row["mem_gbs"] or 0),
            peaks={dtype: 1e3 * float(row[column]) for dtype, column in _COLUMNS.items() if row[column]},
            basis=row["peak_basis"],
            source=row["source"],
        )
    return found


def find_cpu(model_name: str) -> Datasheet | None:
    """The datasheet of a CPU by the model name that it states of itself, or None."""
    name = _plain(model_name)
    return next((row for row in datasheets().values() if row.kind == "cpu" and _plain(row.name) == name), None)


def find_gpu(name: str) -> Datasheet | None:
    """The datasheet of a GPU by its driver's name for it, or None; a slice of one (MIG) has none."""
    plain = _plain(name)
    return next((datasheets()[slug] for slug, form in _GPU_NAMES.items() if re.fullmatch(form, plain)), None)


def memory_peak(machine: Machine, device: str = "cpu") -> Peak:
    """Datasheet memory bandwidth of a device in GB/s: of all its sockets, or of its GPU."""
    if device.startswith("gpu"):
        row, reason = _gpu_row(machine, device)
    else:
        row, reason = _cpu_row(machine, device)
    if row is None or not row.memory_gbs:
        return Peak(0.0, "GB/s", "datasheet", reason=reason or f"no memory bandwidth on record for {device}")
    sockets = 1 if device != "cpu" else len({core.socket for core in machine.cores})
    times = f"{sockets} sockets of " if sockets > 1 else ""
    return Peak(sockets * row.memory_gbs, "GB/s", "datasheet", basis=f"{times}{row.name}, {row.memory_gbs:g} GB/s each")


def compute_peak(
    machine: Machine, device: str, dtype: str, *, clock_ghz: float = 0.0, cores: int = 1, isa: str = ""
) -> Peak:
    """Arithmetic peak in GFLOP/s. Of a GPU the datasheet's; of a CPU derived: `cores` physical cores x the measured
    `clock_ghz` x FLOP per cycle (fp64, fp32) that the design's FMA units reach with the vectors of `isa`."""
    if device.startswith("gpu"):
        row, reason = _gpu_row(machine, device)
        value = row.peaks.get(dtype, 0.0) if row else 0.0
        if row is None or not value:
            return Peak(0.0, "GFLOP/s", "datasheet", reason=reason or f"no {dtype} peak on record for {device}")
        return Peak(value, "GFLOP/s", "datasheet", basis=f"{row.name}: {row.basis}")
    rate, reason = _flop_per_cycle(machine, dtype, isa)
    if not rate or clock_ghz <= 0:
        return Peak(0.0, "GFLOP/s", "derived", reason=reason or "the clock was not measured")
    basis = f"{cores} x {clock_ghz:.2f} GHz measured x {rate} FLOP/cycle ({machine.microarchitecture})"
    return Peak(cores * clock_ghz * rate, "GFLOP/s", "derived", basis=basis)


def _flop_per_cycle(machine: Machine, dtype: str, isa: str) -> tuple[int, str]:
    """(FLOP per core and cycle, "") or (0, why it is not known)."""
    design = identify(machine.arch, machine.vendor, machine.family, machine.model)
    if design is None or not design.fma_bits:
        return (
            0,
            f"FLOP per cycle of this CPU ({machine.microarchitecture or machine.cpu_model or 'unnamed'}) not known",
        )
    if isa in ("x86_64_v2", "baseline"):
        return 0, f"{isa} has no FMA to derive a peak from"
    rate = design.flop_per_cycle(dtype)
    # Two 512-bit units take 256-bit vectors two at a time as well; narrower vectors get no more units.
    if isa == "x86_64_v3":
        rate = min(rate, msgspec.structs.replace(design, fma_bits=2 * 256).flop_per_cycle(dtype))
    return rate, "" if rate else f"no FLOP per cycle on record for {dtype}"


def _cpu_row(machine: Machine, device: str) -> tuple[Datasheet | None, str]:
    """(row, "") where the device is whole sockets of a known model; (None, why not) elsewhere."""
    row = find_cpu(machine.cpu_model)
    if row is None:
        return None, f'no datasheet on record for "{machine.cpu_model or "this CPU"}"'
    kind, _, number = device.rpartition(".") if "." in device else device.rpartition(":")
    if device != "cpu" and kind not in ("cpu", "cpu:socket"):
        return None, f"{device} is a part of a socket, whose memory bandwidth a datasheet gives as a whole"
    for socket in sorted({core.socket for core in machine.cores}):
        cores = [core for core in machine.cores if core.socket == socket]
        if kind == "cpu:socket" and number != str(socket):
            continue
        if kind == "cpu":
            in_node = [core for core in cores if str(core.node) == number]
            if in_node and len(in_node) < len(cores):
                return None, f"{device} is a part of a socket, whose memory bandwidth a datasheet gives as a whole"
            if not in_node:
                continue
        if len(cores) < row.cores:
            guest = f" ({machine.hypervisor} guest)" if machine.hypervisor else ""
            return None, f"this machine has {len(cores)} of the {row.cores} cores of an entire {row.name}{guest}"
    return row, ""


def _gpu_row(machine: Machine, device: str) -> tuple[Datasheet | None, str]:
    gpu = next((gpu for gpu in machine.gpus if device == f"gpu:{gpu.index}"), None)
    if gpu is None:
        return None, f"no {device} on this machine"
    if gpu.mig:
        return None, f"{device} is a slice ({gpu.mig}) of a {gpu.name}"
    row = find_gpu(gpu.name)
    return row, "" if row else f'no datasheet on record for "{gpu.name}"'


def _plain(name: str) -> str:
    """A device's name without vendor, trademark signs, core count and clock, in single spaces and lower case."""
    text = re.sub(r"\((r|tm)\)", " ", name.lower())
    text = re.sub(r"\bwith .*|@.*|\b\d+-core\b|\b\d+th gen\b", " ", text)
    text = re.sub(r"[-_/]", " ", text)
    return " ".join(word for word in text.split() if word not in _NOISE)


_NOISE = {"intel", "amd", "nvidia", "cpu", "processor", "tesla", "geforce", "instinct", "graphics"}
