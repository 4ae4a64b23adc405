"""The examples of README.md, each behind a comment with its file's name."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def readme_example(name: str) -> str:
    """The block of code behind `<!-- example: NAME -->`."""
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, f"README.md has no example {name}"
    return found[1]
