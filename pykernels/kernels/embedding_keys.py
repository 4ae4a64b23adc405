"""Sweep keys of the embedding kernels: from named workloads, sizes and levels to problems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from pykernels.errors import UsageError
from pykernels.kernels import indices as rows_looked_up
from pykernels.kernels.embedding import (
    INDEX_BYTES,
    ROTATE_LLC,
    EmbeddingBag,
    EmbeddingGather,
    Lookup,
    expected_rows,
    row_bytes,
)  # fmt: skip
from pykernels.model import Family, Key, Space
from pykernels.units import MIB, format_size

DTYPES = ("fp32", "fp16", "bf16", "int8", "int4")
LEVELS = ("L1", "L2", "L3", "DRAM")
#: bounds of the rotation: sets, and bytes of all their indices
MAX_SETS, MAX_INDEX_BYTES = 4096, 16 * MIB
#: default batch, and the share of a cache level that indices and output may take of a table that is to lie in it
BATCH, SIDE_SHARE = 1024, 0.2
#: share of the memory that a named workload is cut to
WORKLOAD_SHARE = "25% memory"


class Shape(NamedTuple):
    """A named workload: rows of each table, elements of a row, lookups of a bag of each table."""

    rows: tuple[int, ...]
    dim: int
    pooling: tuple[int, ...]


#: RM1, RM2, RM3 and WnD: the recommendation models of DeepRecSys (Gupta et al., ISCA 2020; MIT). DLRM: the tables and
#: multi-hot sizes of MLPerf's DLRM-DCNv2 on Criteo 1TB.
WORKLOADS = {
    "RM1": Shape((4_000_000,) * 8, 32, (80,) * 8),
    "RM2": Shape((500_000,) * 32, 64, (120,) * 32),
    "RM3": Shape((2_000_000,) * 10, 32, (20,) * 10),
    "WnD": Shape((1_000_000,) * 27, 32, (1,) * 27),
    "DLRM": Shape(
        (40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209, 11938, 155, 4,
         976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36),
        128,
        (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1),
    ),
}  # fmt: skip


def build_bag(values: Mapping[str, Any], space: Space) -> EmbeddingBag:
    """An embedding_bag from sweep keys. Raises UsageError."""
    if values.get("trace"):
        return _build_trace(values, space)
    name = values.get("workload", "")
    shape = WORKLOADS[name] if name else None
    tables = values.get("tables", len(shape.rows) if shape else 1)
    _positive("tables", tables)
    pooling = _pooling(values.get("pooling", ""), shape, tables)
    mode, weighted = values.get("mode", "sum"), bool(values.get("weighted", False))
    if weighted and mode == "mean":
        raise UsageError('embedding_bag: weighted = true: weights are for mode = "sum"')
    common = _common(values, space, shape, tables, sum(low + high for low, high in pooling) / 2 / tables)
    draft = EmbeddingBag(**common, pooling=pooling, mode=mode, weighted=weighted)
    return msgspec.structs.replace(draft, sets=_sets(draft))


def build_gather(values: Mapping[str, Any], space: Space) -> EmbeddingGather:
    """An embedding_gather from sweep keys. Raises UsageError."""
    name = values.get("workload", "")
    shape = WORKLOADS[name] if name else None
    tables = values.get("tables", len(shape.rows) if shape else 1)
    _positive("tables", tables)
    draft = EmbeddingGather(**_common(values, space, shape, tables, 1.0))
    return msgspec.structs.replace(draft, sets=_sets(draft))


def _common(
    values: Mapping[str, Any], space: Space, shape: Shape | None, tables: int, pooling: float
) -> dict[str, Any]:
    """Fields that both kernels have: sizes first, then how they are looked up."""
    dtype = values.get("dtype", "fp32")
    dim = values.get("dim", shape.dim if shape else 64)
    _positive("dim", dim)
    size = row_bytes(dim, dtype)
    level, batch = values.get("level", ""), values.get("batch", 0)
    if "batch" in values:
        _positive("batch", batch)
    index = values.get("index", "int32")
    given = [key for key in ("level", "table", "rows") if values.get(key)]
    if len(given) > 1:
        raise UsageError(f"embedding: {given[0]} and {given[1]} are both given: write one of them")
    scale, symbols = 1.0, {}
    if level:
        batch, rows = _rows_in_level(space, level, tables, size, dim, pooling, batch, INDEX_BYTES[index])
    elif values.get("table"):
        symbols = {"table": str(values["table"])}
        rows = _even(space.size(symbols["table"]) // size, tables, shape)
    elif values.get("rows"):
        rows = _even(int(values["rows"]) * tables, tables, None)
        _fits(space, rows, size)
    elif shape:
        rows, scale = _scaled(shape, tables, size, space)
    else:
        rows = _even(space.level_bytes("DRAM") // size, tables, None)
        level = "DRAM"
    if sum(rows) >= 2**31 and index == "int32":
        raise UsageError(f'embedding: {sum(rows)} rows do not fit int32 indices: write index = "int64"')
    batch = batch or BATCH
    return {
        "rows": rows, "dim": dim, "batch": batch, "index": index, "dtype": dtype, "level": level, "symbols": symbols,
        "draw": rows_looked_up.parse(values.get("indices", {})), "llc_bytes": int(getattr(space, "llc_bytes", 0)),
        "workload": values.get("workload", ""), "scale": scale,
    }  # fmt: skip


def _positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"embedding: {name} = {value!r}: write a whole number of at least 1")


def _pooling(text: Any, shape: Shape | None, tables: int) -> tuple[tuple[int, int], ...]:
    """(least, most) lookups of a bag of each table, from 20, "1..200", or the workload's."""
    if text == "" and shape:
        return tuple((n, n) for n in _spread(shape.pooling, tables))
    parts = str(20 if text == "" else text).split("..")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f'embedding_bag: pooling = {text!r}: write lookups of a bag, 20 or "1..200"')
    low, high = int(parts[0]), int(parts[-1])
    if low > high:
        raise UsageError(f"embedding_bag: pooling = {text!r}: the least is above the most")
    return ((low, high),) * tables


def _spread(values: tuple[int, ...], tables: int) -> tuple[int, ...]:
    return tuple(values[table % len(values)] for table in range(tables))


def _even(total: int, tables: int, shape: Shape | None) -> tuple[int, ...]:
    """Rows of each table that come to `total`: alike, or in the workload's proportions."""
    weights = _spread(shape.rows, tables) if shape else (1,) * tables
    return tuple(max(1, total * weight // sum(weights)) for weight in weights)


def _scaled(shape: Shape, tables: int, size: int, space: Space) -> tuple[tuple[int, ...], float]:
    """A workload's rows, cut by one factor to a quarter of the memory, and that factor."""
    rows = _spread(shape.rows, tables)
    room = space.size(WORKLOAD_SHARE)
    scale = min(1.0, room / (sum(rows) * size))
    return tuple(max(1, int(n * scale)) for n in rows), float(f"{scale:.3g}")


def _fits(space: Space, rows: tuple[int, ...], size: int) -> None:
    nbytes = sum(rows) * size
    try:
        space.size(f"{nbytes} B")
    except UsageError as error:
        raise UsageError(
            f"embedding: rows = {rows[0]} make a table of {format_size(nbytes)}: {error.message}"
        ) from None


def _rows_in_level(
    space: Space, level: str, tables: int, size: int, dim: int, pooling: float, batch: int, index_bytes: int
) -> tuple[int, tuple[int, ...]]:
    """(batch, rows): a table that lies, with indices and output, well inside a level. Every thread reads all of it, so
    a private level holds it whole."""
    total = space.level_bytes(level) // (space.threads if level in space.private else 1)
    bag = tables * (pooling * index_bytes + index_bytes + 4 * dim)
    batch = batch or max(1, min(BATCH, int(SIDE_SHARE * total / bag)))
    room = total - math.ceil(batch * bag) - index_bytes
    if room < total // 4:
        raise UsageError(
            f'embedding: batch = {batch}: its indices and output fill the level "{level}" ({format_size(total)})'
        )
    return batch, _even(room // size, tables, None)


def _sets(draft: Lookup) -> int:
    """Index sets whose distinct rows come to 4 LLC, within the bounds; 1 for a table that fits a cache anyway."""
    if not draft.llc_bytes or draft.table_bytes < ROTATE_LLC * draft.llc_bytes or not draft.lookups:
        return 1
    most = max(1, min(MAX_SETS, MAX_INDEX_BYTES // (draft.lookups * INDEX_BYTES[draft.index])))
    wanted = ROTATE_LLC * draft.llc_bytes / draft.row_bytes * 1.02

    def unique(sets: int) -> float:
        return expected_rows(draft.rows, tuple(sets * n for n in draft.per_table()), draft.draw)

    sets = max(1, math.ceil(wanted / draft.lookups))
    while sets < most and unique(sets) < wanted:
        sets = math.ceil(sets * 1.25)
    return min(sets, most)


def _build_trace(values: Mapping[str, Any], space: Space) -> EmbeddingBag:
    path = str(values["trace"])
    for key in ("workload", "tables", "pooling", "batch", "indices", "level", "table"):
        if values.get(key):
            raise UsageError(f'embedding_bag: trace = "{path}" and {key} are both given: a trace states its own')
    trace = rows_looked_up.load_trace(path, int(values.get("rows") or 0))
    rows = int(values.get("rows") or (trace.indices.max() + 1 if len(trace.indices) else 1))
    if len(trace.offsets) < 2:
        raise UsageError(f"{path}: holds no bag")
    weighted = bool(values.get("weighted", False))
    if weighted and trace.weights is None:
        raise UsageError(f"{path}: weighted = true, but the trace has no `weights`")
    dim, dtype = values.get("dim", 64), values.get("dtype", "fp32")
    _positive("dim", dim)
    _fits(space, (rows,), row_bytes(dim, dtype))
    return EmbeddingBag(
        dtype=dtype, rows=(rows,), dim=dim, batch=len(trace.offsets) - 1, index=values.get("index", "int32"),
        pooling=((0, 0),), mode=values.get("mode", "sum"), weighted=weighted, trace=path,
        llc_bytes=int(getattr(space, "llc_bytes", 0)),
    )  # fmt: skip


_KEYS = {
    "workload": Key(
        "a named workload: rows, dim and pooling of each table (scaled to 25% of memory)", tuple(WORKLOADS)
    ),
    "tables": Key("tables, each with the same batch"),
    "rows": Key("rows of each table"),
    "table": Key('bytes of all tables instead: "64 MiB", "0.4 L2", "8 L3", "25% memory"'),
    "level": Key("level that tables, indices and output lie inside (default DRAM, unless a size is given)", LEVELS),
    "dim": Key("elements of a row"),
    "batch": Key("bags (gather: lookups) of each table a call"),
    "indices": Key('{ zipf = 1.05, seed = 7 } or { reuse = "meta2021" }'),
    "index": Key("index type", tuple(INDEX_BYTES), ("int32",)),
    "dtype": Key("storage of a row", DTYPES, ("fp32",)),
}

BAG = Family(
    name="embedding_bag",
    help="pooled embedding lookups, by table size, row width, pooling and skew",
    problem=EmbeddingBag,
    keys={
        **_KEYS,
        "pooling": Key('lookups of a bag: 20, or "1..200" drawn evenly'),
        "mode": Key("how a bag is pooled", ("sum", "mean"), ("sum",)),
        "weighted": Key("a weight for each lookup", (True, False), (False,)),
        "trace": Key("an .npz of indices and offsets (or lengths), and perhaps weights"),
    },
    build=build_bag,
)
GATHER = Family(
    name="embedding_gather",
    help="embedding rows copied out one by one",
    problem=EmbeddingGather,
    keys=_KEYS,
    build=build_gather,
)
FAMILIES = [BAG, GATHER]
