"""One random cycle through n lines, in closed form: the equal of csrc/cpu/cycle.h.

Position p of the cycle is line `at(p)`. The permutation is made of steps that can be undone, products with odd numbers
and x ^= x >> s with 2 s >= bits; numbers of n and above are walked over (Black and Rogaway: Ciphers with arbitrary
finite domains, CT-RSA 2002). So any line's successor is known without the lines before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pykernels.kernels.dtypes import Array
from pykernels.kernels.random import words

_U = np.uint64


class Cycle:
    """A single cycle through `lines` lines, chosen by `seed`. Positions and lines are uint64 arrays below `lines`."""

    def __init__(self, lines: int, seed: int) -> None:
        if lines < 1:
            raise ValueError(f"a cycle needs at least one line, not {lines}")
        bits = max(1, (lines - 1).bit_length())
        self.lines = lines
        self._mask, self._shift = _U(2**bits - 1), _U((bits + 1) // 2)
        numbers = [int(word) for word in words(seed, np.arange(4))]
        self._factors = [_U(number | 1) for number in numbers[:3]]
        self._inverses = [_U(pow(number | 1, -1, 2**64)) for number in numbers[:3]]
        self._term = _U(numbers[3])

    def constants(self) -> list[int]:
        """Mask, shift, three factors, their inverses and the term, as signed 64-bit numbers."""
        found = [self._mask, self._shift, *self._factors, *self._inverses, self._term]
        return [int(word) for word in np.array(found, _U).view(np.int64)]

    def at(self, positions: Any) -> Array:
        """Lines at these positions."""
        return self._walk(positions, self._mix)

    def position(self, lines: Any) -> Array:
        """Positions of these lines."""
        return self._walk(lines, self._unmix)

    def ahead(self, line: int, steps: int) -> int:
        """The line that `steps` steps from `line` lead to."""
        position = int(self.position(np.array([line]))[0])
        return int(self.at(np.array([(position + steps) % self.lines]))[0])

    def successors(self) -> Array:
        """The next line of every line, uint64 (lines,)."""
        positions = self.position(np.arange(self.lines)) + _U(1)
        return self.at(np.where(positions == _U(self.lines), _U(0), positions))

    def _walk(self, numbers: Any, step: Callable[[Array], Array]) -> Array:
        found = step(np.asarray(numbers).astype(_U))
        while (outside := found >= _U(self.lines)).any():
            found[outside] = step(found[outside])
        return found

    def _mix(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            x = (x * self._factors[0] + self._term) & self._mask
            x = ((x ^ (x >> self._shift)) * self._factors[1]) & self._mask
            mixed: Array = ((x ^ (x >> self._shift)) * self._factors[2]) & self._mask
        return mixed

    def _unmix(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            x = (x * self._inverses[2]) & self._mask
            x = ((x ^ (x >> self._shift)) * self._inverses[1]) & self._mask
            undone: Array = (((x ^ (x >> self._shift)) - self._term) * self._inverses[0]) & self._mask
        return undone
