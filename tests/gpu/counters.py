"""Compares the DRAM bytes that ncu counted with the bytes that the problem's traffic() says: `counters.py FILE`.

FILE is what `ncu --csv --print-units base` wrote around `one_kernel.py copy`, which prints its bytes as JSON.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

METRICS = ("dram__bytes_read.sum", "dram__bytes_write.sum")
SHARE = 0.05


def verdict(text: str) -> tuple[bool, str]:
    """(whether the bytes agree, a sentence). Closed counters and absent figures are sentences too, and no agreement."""
    if "ERR_NVGPUCTRPERM" in text:
        return False, "counters: no permission (ERR_NVGPUCTRPERM): the administrator must allow profiling"
    lines = text.splitlines()
    said = [json.loads(line) for line in lines if line.startswith('{"bytes"')]
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if not said or start is None:
        return False, "counters: ncu wrote no table, or the program did not say its bytes"
    rows = csv.DictReader(line for line in lines[start:] if line.startswith('"'))
    counted = {row["Metric Name"]: float(row["Metric Value"].replace(",", "")) for row in rows}
    absent = [metric for metric in METRICS if metric not in counted]
    if absent:
        return False, f"counters: no {' and no '.join(absent)} in ncu's table"
    found, stated = sum(counted[metric] for metric in METRICS), float(said[0]["bytes"])
    ratio = found / stated
    return abs(
        ratio - 1
    ) <= SHARE, f"counters: {found:.4g} bytes of DRAM, traffic() says {stated:.4g}, ratio {ratio:.4f}"


if __name__ == "__main__":
    agrees, sentence = verdict(Path(sys.argv[1]).read_text(errors="replace"))
    print(sentence)
    sys.exit(0 if agrees else 1)
