"""The errors a user sees: one sentence that says what, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PykernelsError(Exception):
    """Base of all errors meant for the user; `hint` names the mend, `exit_code` is what the command line returns."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(PykernelsError):
    """Bad input: an unknown name, a value out of range, a file that cannot be read or written."""


class NothingMeasured(PykernelsError):
    """The plan ran, or could not run, and no case was measured."""

    exit_code = 3


class DeviceLost(Exception):
    """Raised by a backend whose device can no longer be used in this process: the worker answers, then is replaced."""


def unknown(what: str, name: str, known: Iterable[str], *, where: str = "") -> UsageError:
    """An error for a misspelt name, with the nearest known name or the list of known names."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    tail = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(choices)}"
    prefix = f"{where}: " if where else ""
    return UsageError(f'{prefix}unknown {what} "{name}" ({tail})')
