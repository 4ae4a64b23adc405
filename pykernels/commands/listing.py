"""`pykernels list` and `pykernels show`: what can be measured, and one case in detail."""

from __future__ import annotations

import sys
from typing import Any

import click

from pykernels import registry
from pykernels.commands.common import output_options, print_json
from pykernels.errors import UsageError, unknown
from pykernels.model import Case, Machine

SUBJECTS = ("kernels", "backends", "sweeps", "levels", "variants")


@click.command(name="list")
@click.argument("subject", default="", metavar="[kernels|backends|sweeps|levels|variants]")
@output_options
def list_(subject: str, as_json: bool, quiet: bool) -> int:
    """Kernels with their sweep keys, backends, shipped sweeps, ISA levels of this machine, native variants."""
    if subject and subject not in SUBJECTS:
        raise unknown("subject", subject, SUBJECTS)
    found = {name: _SUBJECT[name]() for name in ([subject] if subject else SUBJECTS[:4])}
    if as_json:
        print_json(found)
        return 0
    for name, rows in found.items():
        click.echo(f"{name}:")
        for key, text in rows.items():
            click.echo(f"  {key:<16} {text}")
    return 0


def _kernels() -> dict[str, str]:
    rows = {}
    for name, family in registry.families().items():
        keys = ", ".join(
            f"{key}={'|'.join(map(str, spec.choices))}" if spec.choices else key for key, spec in family.keys.items()
        )
        rows[name] = f"{family.help}  [{keys}]"
    return rows


def _backends() -> dict[str, str]:
    return {name: _first_line(backend) for name, backend in registry.backends().items()}


def _first_line(backend: object) -> str:
    """The first sentence of the module that a backend lives in."""
    text = sys.modules[type(backend).__module__].__doc__ or ""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def _sweeps() -> dict[str, str]:
    from pykernels.sweep import load_sweep, shipped_sweeps

    return {name: load_sweep(name).title for name in shipped_sweeps()}


def _levels() -> dict[str, str]:
    machine = _machine()
    levels = registry.backend("native").isas(machine)
    return {isa: "best of this CPU" if isa == levels[-1] else "runs here" for isa in levels}


def _variants() -> dict[str, str]:
    from pykernels.backends.native import table

    entries = table(registry.backend("native").isas(_machine())[-1])
    return {" ".join(filter(None, key)): ", ".join(entry.name for entry in found) for key, found in entries.items()}


def _machine() -> Machine:
    from pykernels.machine.cpu import read_machine

    return read_machine()


_SUBJECT = {
    "kernels": _kernels, "backends": _backends, "sweeps": _sweeps, "levels": _levels, "variants": _variants,
}  # fmt: skip


@click.command()
@click.argument("case", metavar="CASE")
@click.option("--sweep", default="", help="Sweep to look the case up in; default: every shipped sweep.")
@click.option("--asm", is_flag=True, help="Disassemble its hot loop (needs objdump).")
@output_options
def show(case: str, sweep: str, asm: bool, as_json: bool, quiet: bool) -> int:
    """One CASE (an id or the short hash of one, as `run --dry-run` prints them): shapes, bytes, FLOPs, variants."""
    machine = _machine()
    found = find_case(case, sweep, machine)
    facts = describe(found)
    if asm:
        from pykernels.backends.native import disassemble

        facts["asm"] = disassemble(found, machine)
    if as_json:
        print_json(facts)
        return 0
    listing = facts.pop("asm", "")
    for key, value in facts.items():
        click.echo(f"{key:<20} {value}")
    if listing:
        click.echo(listing)
    return 0


def find_case(pattern: str, sweep: str, machine: Machine) -> Case:
    """The one case that the pattern names in the sweep (or in any shipped sweep). Raises UsageError."""
    from pykernels import patterns
    from pykernels.plan import make_plan
    from pykernels.sweep import load_sweep, shipped_sweeps

    cases: dict[str, Case] = {}
    for name in [sweep] if sweep else shipped_sweeps():
        try:
            plan = make_plan(load_sweep(name), machine)
        except UsageError:
            if sweep:
                raise
            continue  # a shipped sweep that this machine is too small for hides no case of the others
        everything = [*plan.cases, *(c for c, _ in plan.skipped), *(c for c, _ in plan.dropped)]
        for case in everything:
            cases.setdefault(case.id, case)
    chosen = patterns.select(pattern, list(cases))
    if not chosen:
        raise UsageError(f'no case matches "{pattern}"', hint="pykernels run SWEEP --dry-run lists ids and hashes")
    if len(chosen) > 1:
        few = ", ".join(chosen[:3]) + (", ..." if len(chosen) > 3 else "")
        raise UsageError(f'"{pattern}" matches {len(chosen)} cases ({few}); name one by its id or hash')
    return cases[chosen[0]]


def describe(case: Case) -> dict[str, Any]:
    """What a case is, in numbers."""
    problem, traffic = case.problem, case.problem.traffic()
    backend = registry.backend(case.implementation.backend)
    intensity = problem.flops() / traffic.compulsory if traffic.compulsory else 0.0
    return {
        "id": case.id,
        "hash": case.hash,
        "operands": ", ".join(f"{o.name}{list(o.shape)} {o.dtype} {o.role}" for o in problem.operands()),
        "working set bytes": problem.working_set(),
        "flops": problem.flops(),
        "bytes requested": traffic.requested,
        "bytes compulsory": traffic.compulsory,
        "bytes write-allocate": f"{traffic.write_allocate:.0f} (derived)",
        "intensity FLOP/byte": round(intensity, 4),
        "figure": f"{problem.figure().unit} of {problem.figure().amount:.6g} per call",
        "variants": ", ".join(backend.variants(case)),
    }
