"""Names CPUs and says how wide their arithmetic is: FLOP per core and cycle of the FMA units, by microarchitecture.

Public facts from vendors' own guides. AMD optimization guides for families 17h, 19h, 1Ah: Zen 1 two 128-bit FMA units,
Zen 2 and 3 two 256-bit, Zen 4 two 256-bit that take a 512-bit operation in two passes, server Zen 5 two 512-bit. Intel
optimization manual: Haswell and client parts two 256-bit, Skylake-SP and later servers two 512-bit (ports 0+1 and 5).
Arm software optimization guides: Neoverse N1, N2, N3 two 128-bit, V1 four 128-bit or two 256-bit SVE, V2 and V3 four
128-bit. Fujitsu A64FX manual: two 512-bit SVE. Parts with one 512-bit unit (some Xeon Bronze and Silver) reach half of
what stands here; hybrid parts, whose cores differ, and parts without such a guide have no figure.
"""

from __future__ import annotations

import msgspec


class Microarchitecture(msgspec.Struct, frozen=True):
    """A CPU design: its name and the bits of FMA that a core starts in one cycle (units x width)."""

    name: str
    fma_bits: int = 0  # 0: not known here

    def flop_per_cycle(self, dtype: str) -> int:
        """FLOP per core and cycle (an FMA is 2) for fp64 or fp32; 0 where it is not known."""
        return 2 * self.fma_bits // {"fp64": 64, "fp32": 32}[dtype] if dtype in ("fp64", "fp32") else 0


#: (vendor, family) -> (first model, last model, design); the first match counts. x86 CPUID numbers.
_X86: dict[tuple[str, int], tuple[tuple[int, int, Microarchitecture], ...]] = {
    ("AuthenticAMD", 0x17): (
        (0x00, 0x2F, Microarchitecture("Zen", 2 * 128)),
        (0x30, 0xFF, Microarchitecture("Zen 2", 2 * 256)),
    ),
    ("AuthenticAMD", 0x19): (
        (0x00, 0x0F, Microarchitecture("Zen 3", 2 * 256)),
        (0x10, 0x1F, Microarchitecture("Zen 4", 2 * 256)),
        (0x20, 0x5F, Microarchitecture("Zen 3", 2 * 256)),
        (0x60, 0xAF, Microarchitecture("Zen 4", 2 * 256)),
    ),
    ("AuthenticAMD", 0x1A): (
        (0x00, 0x1F, Microarchitecture("Zen 5", 2 * 512)),
        (0x20, 0x3F, Microarchitecture("Zen 5 mobile", 2 * 256)),
        (0x40, 0x4F, Microarchitecture("Zen 5", 2 * 512)),
        (0x60, 0x6F, Microarchitecture("Zen 5 mobile", 2 * 256)),
        (0x70, 0x7F, Microarchitecture("Zen 5", 2 * 512)),
    ),
    ("GenuineIntel", 6): tuple(
        (model, model, design)
        for models, design in (
            ((0x3C, 0x3F, 0x45, 0x46), Microarchitecture("Haswell", 2 * 256)),
            ((0x3D, 0x47, 0x4F, 0x56), Microarchitecture("Broadwell", 2 * 256)),
            ((0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6), Microarchitecture("Skylake", 2 * 256)),
            ((0x55,), Microarchitecture("Skylake-SP", 2 * 512)),
            ((0x6A, 0x6C), Microarchitecture("Ice Lake-SP", 2 * 512)),
            ((0x7D, 0x7E, 0x8C, 0x8D, 0xA7), Microarchitecture("Ice Lake client", 2 * 256)),
            ((0x8F,), Microarchitecture("Sapphire Rapids", 2 * 512)),
            ((0xCF,), Microarchitecture("Emerald Rapids", 2 * 512)),
            ((0xAD, 0xAE), Microarchitecture("Granite Rapids", 2 * 512)),
            ((0xAF,), Microarchitecture("Sierra Forest")),
            ((0x97, 0x9A), Microarchitecture("Alder Lake")),
            ((0xB7, 0xBA, 0xBF), Microarchitecture("Raptor Lake")),
            ((0xAA, 0xAC), Microarchitecture("Meteor Lake")),
            ((0xC5, 0xC6, 0xB5), Microarchitecture("Arrow Lake")),
            ((0xBD,), Microarchitecture("Lunar Lake")),
        )
        for model in models
    ),
}

#: (implementer, part) of Arm's MIDR -> design.
_ARM: dict[tuple[int, int], Microarchitecture] = {
    (0x41, 0xD03): Microarchitecture("Cortex-A53"),
    (0x41, 0xD08): Microarchitecture("Cortex-A72", 2 * 64),
    (0x41, 0xD0C): Microarchitecture("Neoverse N1", 2 * 128),
    (0x41, 0xD40): Microarchitecture("Neoverse V1", 4 * 128),
    (0x41, 0xD49): Microarchitecture("Neoverse N2", 2 * 128),
    (0x41, 0xD4F): Microarchitecture("Neoverse V2", 4 * 128),
    (0x41, 0xD84): Microarchitecture("Neoverse V3", 4 * 128),
    (0x41, 0xD8E): Microarchitecture("Neoverse N3", 2 * 128),
    (0x46, 0x001): Microarchitecture("A64FX", 2 * 512),
    (0x48, 0xD01): Microarchitecture("Kunpeng 920"),
    (0xC0, 0xAC3): Microarchitecture("Ampere-1", 2 * 128),
    (0xC0, 0xAC4): Microarchitecture("Ampere-1A", 2 * 128),
}

_ARM_VENDORS = {
    0x41: "ARM", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip


def identify(arch: str, vendor: str, family: int, model: int) -> Microarchitecture | None:
    """Design of a CPU, by CPUID's family and model, or on Arm by implementer (in `family`) and part (in `model`)."""
    if arch == "aarch64":
        return _ARM.get((family, model))
    for first, last, design in _X86.get((vendor, family), ()):
        if first <= model <= last:
            return design
    return None


def arm_vendor(implementer: int) -> str:
    """Name of a MIDR implementer, its code where it is not known."""
    return _ARM_VENDORS.get(implementer, f"0x{implementer:02x}")


def archspec_label(root_is_live: bool) -> str:
    """What archspec calls the running CPU; "" for a recorded tree or where archspec cannot tell."""
    if not root_is_live:
        return ""
    try:
        import archspec.cpu

        return str(archspec.cpu.host().name)
    except Exception:  # a label is never worth a failure, and archspec raises many kinds
        return ""
