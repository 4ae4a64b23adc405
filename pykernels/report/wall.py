"""The memory wall in text: one function per page of `analysis.wall.pages`. Every figure stands with its interval and
its label (`published`, `computed`, `derived`, `fit`, `modelled`, `measured`)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from pykernels.analysis.wall import memory, precision, trends
from pykernels.analysis.wall.format_pages import Precision, Sparsity
from pykernels.analysis.wall.pages import Memory, Model, Page, Trends
from pykernels.analysis.wall.predict import Comparison, Prediction, Unpredicted, goal_cells, shape_holds
from pykernels.analysis.wall.roofs import Estimate

Row = Sequence[object]


def columns(title: str, head: Sequence[str], rows: Iterable[Row]) -> str:
    """A titled table: columns of figures right-aligned, the others left; numbers to three digits."""
    body = [[_cell(value) for value in row] for row in rows]
    cells = [list(head), *body]
    wide = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [bool(body) and all(_FIGURE.match(row[i]) for row in body) for i in range(len(head))]
    lines = []
    for row in cells:
        parts = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, wide, right, strict=True)]
        lines.append("  " + "  ".join(parts).rstrip())
    return "\n".join([title, *lines])


_FIGURE = re.compile(r"[-+]?[\d.]*(x|%|\*| Psi)?$|\[.*\]$|[\d.]+e[-+]?\d+x?$")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{_number(low)}, {_number(high)}]"


def _time(seconds: float | None) -> str:
    """Seconds with a unit a person reads."""
    if seconds is None:
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    return "-"


def _span(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{_time(estimate.value)} [{_time(estimate.low)}, {_time(estimate.high)}]"


def _tail(command: str, what: str) -> list[str]:
    return [f"not measured: {what}\n  measure it with: {command}"] if command else []


# -------------------------------------------------------------------------------------------------------------- trends


def trends_text(page: Trends) -> str:
    """Fits, what they hang on, families, ridges, and the measured device."""
    head = ("series", "n", "per 2 yr", "+-2 se", "95% (t)", "R2")
    parts = [
        _fits("Growth, log-linear least squares (published points; fit)", page.fits, head, published=True),
        "\n".join(f"  {fit.series}: {fit.caveat}" for fit in page.fits),
        _fits("What the published figures hang on (fit)", page.sensitivity, head),
        _fits("Precision families apart, dense peaks by whole years (fit)", page.families, head),
        columns(
            "Ridge of the two fitted lines, mixed precision (fit), FLOP/byte",
            ("year", "ridge", ""),
            [(int(r.year), r.flop_per_byte, r.name) for r in page.fitted_ridges],
        ),
        columns(
            "Ridge by device, FLOP/byte (published peaks; CPU peaks are derived at base clock)",
            ("device", "year", *_FAMILIES, "basis"),
            _ridge_rows(page.published_ridges),
        ),
    ]
    if page.placed:
        parts.append(
            columns(
                "This device on the lines (measured; beyond 2022 the lines are extrapolated)",
                ("device", "what", "value", "95%", "unit", "line now", "ratio", "line was there in"),
                [(p.device, p.what, p.value, _interval(p.low, p.high), p.unit, p.line, p.ratio, f"{p.line_year:.1f}")
                 for p in page.placed],
            )
            + "\n  the lines are whole chips and boards; cpu*N is N threads of this machine"
        )  # fmt: skip
    if page.measured_ridges:
        parts.append(_ridges(page.measured_ridges))
    parts += _tail(page.measure_with, "where this machine stands on the lines")
    return "\n\n".join(parts)


_FAMILIES = ("fp64", "fp32 vector", "16-bit matrix")


def _fits(title: str, fits: Sequence[trends.Growth], head: Sequence[str], *, published: bool = False) -> str:
    rows: list[list[object]] = [
        [f.series, f.n, f"{f.per_2_years:.4g}x", _interval(*f.two_se), _interval(*f.t95), f"{f.r2:.3f}"] for f in fits
    ]
    if not published:
        return columns(title, head, rows)
    for row, growth in zip(rows, fits, strict=True):
        row += [f"{growth.per_20_years:.3g}x", growth.published]
    return columns(title, (*head, "per 20 yr", "published"), rows)


def _ridge_rows(ridges: Sequence[trends.Ridge]) -> list[Row]:
    names = dict.fromkeys((r.year, r.name, r.basis) for r in ridges)
    found = {(r.name, r.family): r.flop_per_byte for r in ridges}
    return [
        (name, int(year), *(found.get((name, family)) for family in _FAMILIES), basis)
        for year, name, basis in sorted(names)
    ]


def _ridges(ridges: Sequence[trends.Ridge]) -> str:
    return columns(
        "Machine balance: ridge of this device against DRAM, FLOP/byte (measured)",
        ("device", "dtype", "ridge", "95%"),
        [(r.name, r.family, r.flop_per_byte, _interval(r.low, r.high)) for r in ridges],
    )


# --------------------------------------------------------------------------------------------------------------- model


def model_text(page: Model) -> str:
    """Both countings, and prediction beside measurement."""
    c = page.config
    cache = f", KV cache of {page.seq} tokens {page.kv_cache_bytes / 1e6:.1f} MB" if c.kind == "decoder" else ""
    what = "one pass" if c.kind == "encoder" else f"{page.seq} tokens one by one from an empty prompt"
    parts = [
        f"{c.name}: {c.kind}, {c.layers} layers, hidden {c.hidden}, {c.heads} heads, ffn {c.ffn}; "
        f"{c.parameters() / 1e6:.1f} M parameters, embeddings included\nseq {page.seq}, batch {page.batch}: {what}",
        columns(
            "Counting `survey` (arXiv:2302.14017: 1 byte per element, unfused, batch 1, no embedding, no head)",
            ("operator", "GFLOP", "GB", "FLOP/byte"),
            [(n, f"{k.flops / 1e9:.2f}", f"{k.bytes / 1e9:.3f}", f"{k.intensity:.2f}") for n, k in page.survey.items()],
        ),
        "  `other` is fitted to the printed digits: no claim of exactness rests on it",
        columns(
            f"Counting `ours` ({page.dtype}, biases in, fused attention, KV cache counted, no embedding, no head)",
            ("operator", "GFLOP", "GB", "weights GB", "activations GB", "KV GB", "FLOP/byte"),
            [
                (o.name, f"{o.flops / 1e9:.2f}", f"{o.bytes / 1e9:.3f}", f"{o.weight_bytes / 1e9:.3f}",
                 f"{o.activation_bytes / 1e9:.3f}", f"{o.kv_bytes / 1e9:.3f}", f"{o.intensity:.2f}")
                for o in page.ours
            ],
        ),
        f"  unfused attention would move {page.unfused_bytes / 1e9:.3f} GB; weights of all layers "
        f"{page.weight_bytes / 1e6:.1f} MB" + cache,
    ]  # fmt: skip
    if page.misprints:
        rows = [(m.seq, m.operator, m.quantity, m.printed, f"{m.computed:.5g}", m.reason) for m in page.misprints]
        parts.append(
            columns("Published values that differ", ("seq", "operator", "what", "printed", "computed", "why"), rows)
        )
    parts += [_prediction(p) for p in page.predictions]
    if page.latencies:
        parts.append(_latencies(page))
    if page.comparisons:
        parts.append(_comparisons(page.comparisons, page.goal))
    parts.append(_ratios(page))
    parts += _tail(page.measure_with, "latency by operator")
    return "\n\n".join(parts)


def _prediction(found: Prediction | Unpredicted) -> str:
    where = f"{found.device}*{found.threads}"
    if isinstance(found, Unpredicted):
        return f"No prediction on {where} at {found.dtype}: not measured: {', '.join(found.missing)}"
    rows: list[Row] = [
        (t.name, _span(t.seconds), _time(t.compute_s), _time(t.memory_s), _time(t.launch_s), t.bound)
        for t in found.operators
    ]
    rows.append(("total", _span(found.total), "", "", "", ""))
    title = f"Predicted on {where}, {found.dtype}, seq {found.seq} (modelled from measured roofs, time view)"
    table = columns(title, ("operator", "time", "compute", "memory", "launch", "bound by"), rows)
    return "\n".join([table, *(f"  note: {note}" for note in found.notes)])


def _latencies(page: Model) -> str:
    rows = [
        (x.seq, f"{x.device}*{x.threads}", x.backend or "-",
         "no roof: " + ", ".join(x.missing) if x.missing else _span(x.predicted),
         _span(x.measured) if x.measured else "predicted only")
        for x in page.latencies
    ]  # fmt: skip
    title = f"Latency by sequence length, {page.dtype}, batch {page.batch}"
    return columns(title, ("seq", "where", "backend", "predicted (modelled)", "measured"), rows)


def _comparisons(found: Sequence[Comparison], goal: tuple[int, int]) -> str:
    rows = [
        (c.operator, c.seq, c.backend, f"{c.dtype}*{c.threads}", _time(c.predicted_s), _time(c.measured_s),
         f"{c.relative:+.0%}", "" if c.within else "outside", c.cause)
        for c in found
    ]  # fmt: skip
    head = ("operator", "seq", "backend", "dtype*threads", "predicted", "measured", "off", "", "cause")
    by_setting: dict[str, list[Comparison]] = {}
    for c in found:
        by_setting.setdefault(f"{c.backend} {c.dtype}*{c.threads}", []).append(c)
    counts = [f"{name} {' of '.join(map(str, goal_cells(some)))}" for name, some in by_setting.items()]
    return (
        columns("Predicted against measured (operators alone within 30%, totals within 20%)", head, rows)
        + f"\n  totals within 20%: {goal[0]} of {goal[1]}"
        + (f" ({', '.join(counts)})" if len(counts) > 1 else "")
    )


def _ratios(page: Model) -> str:
    rows = [(r.seq, r.predicted, r.measured, r.published) for r in page.ratios]
    where = f" on {page.ratio_place}, {page.dtype}" if page.ratio_place else ""
    table = columns(f"GPT-2 over BERT-Base latency{where}", ("seq", "predicted", "measured", "published"), rows)
    holds = {True: "yes", False: "no", None: "not measured"}[shape_holds(page.ratios)]
    source = "published: one Xeon Gold 6242; batch, threads and precision unstated"
    return f"{table}\n  shape (over 10x and falling): {holds}; {source}"


# -------------------------------------------------------------------------------------------------------------- memory


def memory_text(page: Memory) -> str:
    """Stages, optimizers, activations, published rows, and this machine's advice."""
    c = page.config
    parts = [
        f"{c.name}: {page.parameters / 1e6:.1f} M parameters; training at {page.precision} precision with "
        f"{page.optimizer}, seq {page.seq}, batch {page.batch} per device, rematerialization {page.policy}"
        f"{', fused attention' if page.fused else ''}",
        columns(
            f"Bytes per device by ZeRO stage, {page.devices} device(s), GB (computed; sent: 2, 2, 2, 3 Psi x (N-1)/N)",
            ("stage", "parameters", "gradients", "optimizer", "activations", "total", "elements sent", "GB sent"),
            [
                (s.stage, s.parameters / 1e9, s.gradients / 1e9, s.optimizer_state / 1e9, s.activations / 1e9,
                 s.total / 1e9, f"{s.traffic_elements / page.parameters:.2f} Psi", s.traffic_bytes / 1e9)
                for s in page.stages
            ],
        ),
        columns(
            "Optimizer state without the master copy (computed)",
            ("optimizer", "GB", "B/parameter", "what"),
            [(n, b / 1e9, b / page.parameters, memory.OPTIMIZERS[n].note) for n, b in page.optimizers.items()],
        ),
        columns(
            "Activations by rematerialization (computed), GB",
            ("policy", "attention", "kept", "while recomputing", "peak", "extra FLOP of a step"),
            [
                (a.policy, "fused" if a.fused else "unfused", a.stored / 1e9, a.working / 1e9, a.peak / 1e9,
                 f"{a.extra_flops_share:.0%}")
                for a in page.activations
            ],
        )
        + f"\n  lowest peak: a checkpoint every {page.best_segment} layer(s)",
        columns(
            "Published ZeRO example: 7.5e9 parameters, Adam, 64 devices (computed)",
            ("stage", "GB per device", "elements sent"),
            [(s.stage, s.total / 1e9, f"{s.traffic_elements / 7.5e9:.2f} Psi") for s in page.zero_example],
        ),
        columns(
            "Published training memory, GB",
            ("model", "what", "published", "computed", "off", "note"),
            [
                (p.model, p.what, p.published_gb, p.computed_gb, "-" if p.relative is None else f"{p.relative:+.1%}",
                 p.note)
                for p in page.published
            ],
        ),
    ]  # fmt: skip
    if page.recompute:
        rows = [
            (
                f"{r.device}*{r.threads}",
                r.what,
                f"{r.bytes / 1e6:.3g} MB",
                _span(r.recompute),
                _span(r.read_back),
                r.advice,
            )
            for r in page.recompute
        ]
        head = ("where", "what", "bytes", "recompute", "write and read back", "advice")
        parts.append(columns("Rematerialize or not, per layer (modelled from measured roofs)", head, rows))
    if page.links:
        times: list[Row] = [(f"stage {k.stage}", k.link, _span(k.seconds)) for k in page.links]
        parts.append(columns("Link time of a step (modelled from the measured link)", ("", "link", "time"), times))
    parts += page.fits
    parts += ["\n".join(page.unpredicted)] if page.unpredicted else []
    parts += _tail(page.measure_with, "recompute or read back, and link times, at this machine's roofs")
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------------- precision, sparsity


def precision_text(page: Precision) -> str:
    """Gains from bytes, under roofs, and measured."""
    batches = precision.BATCHES
    parts = [
        f"({page.rows} x {page.cols}) times batch columns, gain over {page.base} from ALL bytes (weights, scales, "
        "activations): the most that memory can give",
        columns(
            "Gain by batch (computed)",
            ("format", "B/weight", *map(str, batches)),
            [
                (name, f"{each:.4g}", *(f"{g.byte_ratio:.2f}" for g in page.gains if g.format == name))
                for name, each in page.bytes_per_weight.items()
            ],
        ),
        columns(
            "Batch that makes bf16 decoding compute-bound (ridge x bytes / 2)",
            ("device", "ridge FLOP/B", "batch", "basis"),
            [(b.device, b.ridge, b.batch, b.basis) for b in page.balances],
        ),
    ]
    for where, gains in page.predicted.items():
        rows = [(n, *(f"{g.gain:.2f}{'*' * (g.bound == 'compute')}" for g in gains if g.format == n))
                for n in dict.fromkeys(g.format for g in gains)]  # fmt: skip
        title = f"Gain over {page.base} under the roofs of {where} (modelled; * compute-bound)"
        parts.append(columns(title, ("format", *map(str, batches)), rows))
    if page.measured:
        points: list[Row] = [
            (g.kernel, g.shape, g.dtype, g.batch, f"{g.backend}*{g.threads}", g.byte_ratio, g.predicted,
             g.measured.value, _interval(g.measured.low, g.measured.high), g.verdict)
            for g in page.measured
        ]  # fmt: skip
        head = ("kernel", "shape", "dtype", "batch", "where", "by bytes", "by roofs", "measured", "95%", "verdict")
        parts.append(columns("Gain over fp32 (measured)", head, points))
        gone = [f"{d}: {b if b is not None else 'at no measured batch'}" for d, b in page.vanishing.items()]
        parts.append("batch at which the gain is gone: " + "; ".join(gone))
    parts += _tail(page.measure_with, "GEMV and GEMM at fp32, bf16, int8, int4 over batch 1 to 64")
    return "\n\n".join(parts)


def sparsity_text(page: Sparsity) -> str:
    """Traffic by format and density, break-evens, measured points."""
    formats = list(page.break_evens)
    densities = list(dict.fromkeys(s.density for s in page.savings))
    gains = {(s.format, s.density): s.gain for s in page.savings}
    parts = [
        columns(
            f"Dense traffic over sparse, {page.dtype} values, int32 indices, long rows (derived; below 1: more)",
            ("density", *formats),
            [(f"{d:.3g}", *(gains.get((form, d)) for form in formats)) for d in densities],
        ),
        columns(
            "Break-even density: below it the format is smaller than dense (derived)",
            ("format", "density"),
            [(name, value) for name, value in page.break_evens.items() if name != "2:4"],
        ),
    ]
    if page.points:
        rows = [
            (p.shape, p.dtype, f"{p.backend}*{p.threads}", p.density, p.byte_ratio, p.gain.value,
             _interval(p.gain.low, p.gain.high))
            for p in page.points
        ]  # fmt: skip
        head = ("shape", "dtype", "where", "density", "by bytes", "measured", "95%")
        parts.append(columns("CSR product over dense, gain (measured)", head, rows))
    for b in page.measured:
        value = b.note if b.measured is None else f"{b.measured:.3g} {_interval(b.low, b.high)}"
        derived = "-" if b.derived is None else f"{b.derived:.3g}"
        parts.append(f"break-even {b.shape} {b.dtype} {b.backend}*{b.threads}: measured {value}, from bytes {derived}")
    parts += _tail(page.measure_with, "a CSR product over density against the dense one")
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------------------------ one page


def page_text(page: Page, width: int = 100) -> str:
    """The share left of the ridge, machine balance, and the claims."""
    parts = []
    if page.left:
        rows = [
            (f"{x.device}*{x.threads}", f"{x.share.value:.0%}", f"[{x.share.low:.0%}, {x.share.high:.0%}]",
             f"{x.left} of {x.kernels}", x.undecided)
            for x in page.left
        ]  # fmt: skip
        head = ("where", "share", "95%", "kernels", "undecided")
        title = "Memory now matters more than compute: share of measured kernel time left of the ridge (measured)"
        parts.append(columns(title, head, rows))
    if page.balance:
        parts.append(_ridges(page.balance))
    lines = ["Claims of the memory wall"]
    for c in page.claims:
        lines.append(f" {c.number:>2}  {c.verdict:<13} {c.claim}")
        for label, text in (("published", c.published), (c.source, c.here), ("", c.why)):
            if text not in ("-", ""):
                body = f"{label}: {text}" if label else text
                lines += textwrap.wrap(body, max(60, width - 19), initial_indent=" " * 19, subsequent_indent=" " * 21)
    yes, no = (sum(c.verdict == verdict for c in page.claims) for verdict in ("yes", "no"))
    lines.append(f" {yes} yes, {no} no, {len(page.claims) - yes - no} not measured")
    parts.append("\n".join(lines))
    parts += _tail(page.measure_with, "the claims marked so")
    return "\n\n".join(parts)
