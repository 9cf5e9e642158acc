"""The report of a benchmark: one HTML file with figures as SVG and no request to a network."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from neuros_core import RunManifest

_WIDTH, _ROW, _LEFT, _RIGHT = 760, 24, 170, 30
_COLORS = ("#222222", "#0072b2", "#d55e00", "#009e73")
_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:left;"
    "border-bottom:1px solid #ddd}svg{max-width:100%;height:auto}pre{overflow:auto;"
    "background:#f6f6f6;padding:1em}text{font:13px sans-serif}"
)
_HEAD = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Benchmark</title>"
    f"<style>{_STYLE}</style></head><body><h1>Benchmark</h1>"
    "<p>Scores on test blocks with 95 % block-bootstrap intervals. Baselines were fitted on the "
    "training blocks and tuned on the validation blocks of the same sessions. Lead: the model's "
    "score less that of the row, with its paired interval.</p>"
)


class Curve(NamedTuple):
    """First seconds of one target on the test blocks.

    Attributes:
        task: Name of the task.
        session: Name of the session.
        rate: Samples per second.
        lines: Name -> values; the truth comes first.
    """

    task: str
    session: str
    rate: float
    lines: dict[str, list[float]]


def write_report(
    scores: Sequence[Mapping[str, Any]],
    curves: Sequence[Curve],
    notes: Sequence[str],
    manifest: RunManifest,
) -> str:
    """Write the page."""
    parts = [_HEAD, *(f"<p>{escape(note)}</p>" for note in notes)]
    for curve in curves:
        rows = [s for s in scores if (s["task"], s["session"]) == (curve.task, curve.session)]
        parts += [
            f"<h2>{escape(curve.task)} {escape(curve.session)}</h2>",
            _table(rows),
            _intervals(rows),
            f"<p>First target, unit or class, the first {_seconds(curve):g} s of test data:</p>",
            _lines(curve),
        ]
    provenance = json.dumps(manifest.to_dict(), indent=2)
    parts.append(f"<h2>Provenance</h2><pre>{escape(provenance)}</pre></body></html>")
    return "\n".join(parts)


def _seconds(curve: Curve) -> float:
    return len(next(iter(curve.lines.values()))) / curve.rate


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["<tr><th>decoder</th><th>reads</th><th>metric</th><th>score</th><th>lead</th></tr>"]
    for row in rows:
        score = f"{row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lead = f"{row['lead']:.3f} [{row['lead_low']:.3f}, {row['lead_high']:.3f}]"
        cells = [
            str(row["decoder"]),
            str(row["reads"]),
            str(row["metric"]),
            score,
            "" if row["decoder"] == "model" else lead,
        ]
        lines.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _intervals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw one point with its interval per decoder; the axis leaves out what lies below -0.5."""
    floor = -0.5
    lowest = min(float(row["low"]) for row in rows)
    low = min(0.0, max(floor, lowest))
    high = max(0.1, *(float(row["high"]) for row in rows))
    height = _ROW * (len(rows) + 2)

    def at(value: float) -> float:
        share = (max(value, low) - low) / (high - low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    base = _ROW * len(rows) + 8
    marks = [
        f"<line x1='{at(t):.1f}' x2='{at(t):.1f}' y1='4' y2='{base}' stroke='#ddd'/>"
        f"<text x='{at(t):.1f}' y='{base + 18}' text-anchor='middle'>{t:g}</text>"
        for t in _ticks(low, high)
    ]
    for k, row in enumerate(rows):
        y = _ROW * k + 18
        color = _COLORS[1] if row["decoder"] == "model" else _COLORS[0]
        marks.append(
            f"<text x='{_LEFT - 10}' y='{y + 4}' text-anchor='end'>{escape(row['decoder'])}</text>"
            f"<line x1='{at(row['low']):.1f}' x2='{at(row['high']):.1f}' y1='{y}' y2='{y}' "
            f"stroke='{color}' stroke-width='2'/>"
            f"<circle cx='{at(row['score']):.1f}' cy='{y}' r='4' fill='{color}'/>"
        )
    return _svg(height, marks, f"Scores ({escape(rows[0]['metric'])}) with 95 % intervals")


def _lines(curve: Curve) -> str:
    values = [v for line in curve.lines.values() for v in line]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    height, top = 200, 24
    marks = []
    for k, (name, line) in enumerate(curve.lines.items()):
        color = _COLORS[k % len(_COLORS)]
        step = (_WIDTH - 2 * _RIGHT) / max(len(line) - 1, 1)
        points = " ".join(
            f"{_RIGHT + i * step:.1f},{height - 8 - (v - low) / spread * (height - top - 16):.1f}"
            for i, v in enumerate(line)
        )
        marks.append(
            f"<polyline points='{points}' fill='none' stroke='{color}' stroke-width='1.3'/>"
            f"<text x='{_RIGHT + 120 * k}' y='14' fill='{color}'>{escape(name)}</text>"
        )
    return _svg(height, marks, f"Truth and predictions over {_seconds(curve):g} s")


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 9) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(height: int, marks: Sequence[str], title: str) -> str:
    return (
        f"<svg viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' role='img'>"
        f"<title>{title}</title>{''.join(marks)}</svg>"
    )
