"""`pykernels machine` and `pykernels check`: read the machine, change nothing."""

from __future__ import annotations

import click

from pykernels.commands.common import output_options, print_json, width


@click.command()
@output_options
def machine(as_json: bool, quiet: bool) -> int:
    """What this machine says of itself: cores, caches, L3 domains, NUMA, ISA levels, memory, limits, GPUs."""
    from pykernels.machine.cpu import read_machine
    from pykernels.report.machine import machine_text

    found = read_machine()
    if as_json:
        print_json(found)
    else:
        click.echo(machine_text(found, width()))
    return 0


@click.command()
@output_options
def check(as_json: bool, quiet: bool) -> int:
    """What would spoil a measurement here, each with the command that mends it. Changes nothing."""
    from pykernels.machine.check import run_checks
    from pykernels.machine.cpu import read_machine
    from pykernels.report.machine import checks_text

    found = run_checks(read_machine())
    if as_json:
        print_json(found)
    else:
        click.echo(checks_text(found))
    return 1 if any(finding.level == "fail" for finding in found) else 0
