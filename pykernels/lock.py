"""One measurement at a time on a machine: a lock file that says who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pykernels.errors import UsageError

LOCK = Path("/tmp/pykernels.lock")


def _open(path: Path) -> int:
    """Without O_CREAT first: the kernel refuses it on another user's file in a sticky folder."""
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        mask = os.umask(0)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        finally:
            os.umask(mask)


def holder(path: Path = LOCK) -> str:
    """What the holder wrote about itself."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip() or "another run"
    return "another run"


@contextlib.contextmanager
def machine_lock(what: str, *, wait: bool, say: Callable[[str], None], path: Path = LOCK) -> Iterator[None]:
    """Hold the machine while measuring. A second run says who holds it and waits, or, without `wait`, leaves with a
    UsageError."""
    try:
        descriptor = _open(path)
    except OSError as error:
        raise UsageError(f"{path}: the measurement lock cannot be opened ({error.strerror})") from None
    try:
        _acquire(descriptor, wait, say, path)
        _sign(descriptor, f"{what} (pid {os.getpid()}, user {_user()}, since {time.strftime('%H:%M:%S')})")
        yield
        _sign(descriptor, "")
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, wait: bool, say: Callable[[str], None], path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise UsageError(
                f"this machine is being measured by {holder(path)}", hint="leave out --no-wait to wait for it"
            ) from None
        say(f"waiting for {holder(path)} to finish; Ctrl-C to leave")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _sign(descriptor: int, who: str) -> None:
    """Leave a name for others to read; a full disk is no reason not to measure."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, who.encode(), 0)


def _user() -> str:
    with contextlib.suppress(Exception):
        return getpass.getuser()
    return str(os.getuid())
