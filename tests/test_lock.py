from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pykernels.errors import UsageError
from pykernels.lock import machine_lock

HOLD = """
import sys
from pathlib import Path
from pykernels.lock import machine_lock
with machine_lock("first run", wait=True, say=print, path=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_run_says_who_holds_the_machine_and_leaves_or_waits(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdin is not None
    try:
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(UsageError, match=r"being measured by first run \(pid \d+"),
            machine_lock("second run", wait=False, say=print, path=path),
        ):
            pass
        said: list[str] = []

        def release(text: str) -> None:
            said.append(text)
            assert first.stdin is not None
            first.stdin.write("\n")
            first.stdin.flush()

        with machine_lock("second run", wait=True, say=release, path=path):
            assert "second run" in path.read_text()
        assert "first run" in said[0]
    finally:
        first.kill()
        first.wait()
        first.stdin.close()
        first.stdout.close()


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="no-such-folder"),
        machine_lock("run", wait=False, say=print, path=tmp_path / "no-such-folder" / "lock"),
    ):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """The lock lies where everybody may write: a link there must not make us truncate what it points to."""
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    (tmp_path / "lock").symlink_to(precious)
    with (
        pytest.raises(UsageError, match="lock cannot be opened"),
        machine_lock("run", wait=False, say=print, path=tmp_path / "lock"),
    ):
        pass
    assert precious.read_text() == "keep me"
