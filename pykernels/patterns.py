"""Matching case ids: `*` is the only wildcard, brackets are literal, and a short hash matches by itself."""

from __future__ import annotations

import re

from pykernels.model import short_hash


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def _is_hash(pattern: str, case_id: str) -> bool:
    return len(pattern) >= 6 and short_hash(case_id).startswith(pattern.lower())


def matches(pattern: str, case_id: str) -> bool:
    """Whole-id match, as `case =` of a requirement uses it."""
    return pattern == case_id or _is_hash(pattern, case_id) or _regex(pattern).fullmatch(case_id) is not None


def select(pattern: str, case_ids: list[str]) -> list[str]:
    """Ids that `-k PATTERN` selects: the id itself if it is one, else those that contain it or have that hash."""
    if pattern in case_ids:
        return [pattern]
    return [
        case_id for case_id in case_ids if _is_hash(pattern, case_id) or _regex(pattern).search(case_id) is not None
    ]
