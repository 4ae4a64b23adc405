"""A user's price file: TOML, one table a device or slug, each with a price, a currency and the date it was true."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path

from pykernels.errors import UsageError


def load_prices(path: Path) -> dict[str, tuple[float, str, str]]:
    """device or slug -> (price, date, currency), for example

        [cpu]
        price = 1.92          # of the whole device, per hour or to buy: the same for all
        currency = "EUR"
        date = 2026-11-01

    Raises UsageError naming file, device and key for a missing date or price, or mixed currencies."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    found = {}
    for device, entry in data.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{path}: {device} = {entry!r}: write a table [{device}] with price, currency and date")
        price, date = entry.get("price"), entry.get("date")
        if not isinstance(price, int | float) or isinstance(price, bool) or price <= 0:
            raise UsageError(f"{path}: [{device}] price = {price!r}: a number above 0 is needed")
        if not isinstance(date, datetime.date) and not _is_date(date):
            raise UsageError(
                f"{path}: [{device}] has no date: a price without its date proves nothing; add date = 2026-11-01"
            )
        found[device] = (float(price), str(date), str(entry.get("currency", "")))
    if len({currency for _, _, currency in found.values()}) > 1:
        raise UsageError(f"{path}: prices in different currencies; give all in one")
    if not found:
        raise UsageError(f"{path}: no prices; write a table a device, such as [cpu], with price, currency and date")
    return found


def _is_date(value: object) -> bool:
    try:
        datetime.date.fromisoformat(str(value))
    except ValueError:
        return False
    return True
