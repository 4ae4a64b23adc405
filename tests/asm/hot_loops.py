"""Finds and reads the hot loop of a disassembled function."""

from __future__ import annotations

import functools
import re
import subprocess
from typing import NamedTuple

_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
_STACK = re.compile(r"\(%rsp|\[sp\b")
_FRAME = re.compile(r"\(%rbp")


class Line(NamedTuple):
    address: int
    mnemonic: str
    operands: str


@functools.cache
def functions(library: str) -> dict[str, str]:
    """Symbol -> listing of every function of a library."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True)
    parts = re.split(r"^[0-9a-f]+ <(\S+)>:\n", text.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def lines(text: str) -> list[Line]:
    """Instructions of an objdump listing."""
    found = (_LINE.match(line) for line in text.splitlines())
    return [Line(int(m[1], 16), m[2], m[3]) for m in found if m]


def loops(code: list[Line]) -> list[list[Line]]:
    """Bodies of the innermost loops: from a backward jump's target to the jump, with no other such jump inside."""
    bodies = []
    for i, line in enumerate(code):
        target = re.match(r"([0-9a-f]+) <", line.operands)
        if not target or not re.match(r"j|b\.|b$|cbn?z|tbn?z", line.mnemonic) or int(target[1], 16) > line.address:
            continue
        start = next((k for k, other in enumerate(code) if other.address == int(target[1], 16)), None)
        if start is not None:
            bodies.append((start, i))
    inner = [(a, b) for a, b in bodies if not any(a <= c and d <= b and (c, d) != (a, b) for c, d in bodies)]
    return [code[a : b + 1] for a, b in inner]


def hot_loop(library: str, symbol: str, weight: str) -> list[Line]:
    """The innermost loop with the most instructions that match `weight`."""
    bodies = loops(lines(functions(library)[symbol]))
    assert bodies, f"{symbol} has no loop"
    return max(bodies, key=lambda body: count(body, weight))


def count(body: list[Line], pattern: str) -> int:
    """Instructions of which mnemonic and operands match."""
    return sum(bool(re.search(pattern, f"{line.mnemonic} {line.operands}")) for line in body)


def stack_accesses(library: str, symbol: str, body: list[Line]) -> list[Line]:
    """Instructions of a loop that touch the stack: spilled accumulators, the sign of a false roof. rbp counts if it is
    the frame pointer, else it is a register like others."""
    framed = re.search(r"mov +%rsp,%rbp", functions(library)[symbol])
    return [line for line in body if _STACK.search(line.operands) or (framed and _FRAME.search(line.operands))]
