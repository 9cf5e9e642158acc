"""A circuit diagram as SVG text."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["EXCITATORY", "INHIBITORY", "EdgeRow", "svg_text"]

# Blue and vermilion of Okabe and Ito: told apart with any colour vision.
EXCITATORY, INHIBITORY = "#0072B2", "#D55E00"
_SIZE, _MARGIN, _RADIUS = 480, 60, 15


class EdgeRow(NamedTuple):
    """One edge: from, to, weight."""

    source: int
    target: int
    weight: float


def svg_text(
    names: Sequence[str],
    kinds: Sequence[str],
    places: Sequence[tuple[float, float]],
    edges: Sequence[EdgeRow],
) -> str:
    """Excitatory nodes are circles with arrows, inhibitory ones squares with bars."""
    side = _SIZE - 2 * _MARGIN
    spots = [(_MARGIN + side * x, _MARGIN + side * y) for x, y in places]
    largest = max((abs(edge.weight) for edge in edges), default=1.0)
    pairs = {(edge.source, edge.target) for edge in edges}
    n_excitatory = sum(kind == "E" for kind in kinds)
    title = f"Circuit of {len(names)} nodes, {n_excitatory} excitatory, {len(edges)} edges"
    size = f'viewBox="0 0 {_SIZE} {_SIZE}" width="{_SIZE}" height="{_SIZE}"'
    unit = 'markerUnits="userSpaceOnUse" orient="auto"'
    arrow = f'viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" {unit}'
    bar = f'viewBox="0 0 4 12" refX="3" refY="6" markerWidth="4" markerHeight="12" {unit}'
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" font-family="sans-serif"',
        f'  font-size="12" {size}>',
        f"<title>{title}</title>",
        f'<rect width="{_SIZE}" height="{_SIZE}" fill="white"/>',
        "<defs>",
        f'<marker id="arrow" {arrow}>',
        f'<path d="M0 0L8 4L0 8z" fill="{EXCITATORY}"/></marker>',
        f'<marker id="bar" {bar}>',
        f'<rect x="1" width="2.5" height="12" fill="{INHIBITORY}"/></marker>',
        "</defs>",
    ]
    for edge in edges:
        colour, marker = (EXCITATORY, "arrow") if edge.weight > 0 else (INHIBITORY, "bar")
        bent = (edge.target, edge.source) in pairs
        path = (
            _loop(spots[edge.source])
            if edge.source == edge.target
            else _curve(spots[edge.source], spots[edge.target], 24.0 if bent else 0.0)
        )
        width = 0.8 + 2.2 * abs(edge.weight) / largest
        label = f"{names[edge.source]} to {names[edge.target]}: {edge.weight:.4g}"
        lines.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:.2f}" '
            f'marker-end="url(#{marker})"><title>{escape(label)}</title></path>'
        )
    for name, kind, (x, y) in zip(names, kinds, spots, strict=True):
        lines += _node(escape(name), kind, x, y)
    return "\n".join([*lines, "</svg>", ""])


def _node(name: str, kind: str, x: float, y: float) -> list[str]:
    colour = EXCITATORY if kind == "E" else INHIBITORY
    look = f'fill="white" stroke="{colour}" stroke-width="2"'
    if kind == "I":
        corner = f'x="{x - _RADIUS:.1f}" y="{y - _RADIUS:.1f}"'
        shape = f'<rect {corner} width="{2 * _RADIUS}" height="{2 * _RADIUS}" {look}/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}" {look}/>'
    # A name that does not fit inside stands below.
    low = y + 4 if len(name) <= 3 else y + _RADIUS + 14
    # The halo keeps the name readable where an edge crosses it.
    halo = 'fill="#222222" stroke="white" stroke-width="3" paint-order="stroke"'
    text = f'<text x="{x:.1f}" y="{low:.1f}" text-anchor="middle" {halo}>{name}</text>'
    return [shape, text]


def _curve(start: tuple[float, float], end: tuple[float, float], bend: float) -> str:
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    # Both edges of a mutual pair bend to their left, so that they lie beside each other.
    normal = ((y1 - y0) / length, (x0 - x1) / length)
    cx, cy = (x0 + x1) / 2 + bend * normal[0], (y0 + y1) / 2 + bend * normal[1]
    x0, y0 = _towards((x0, y0), (cx, cy), _RADIUS + 1.0)
    x1, y1 = _towards((x1, y1), (cx, cy), _RADIUS + 4.0)
    return f"M{x0:.1f} {y0:.1f}Q{cx:.1f} {cy:.1f} {x1:.1f} {y1:.1f}"


def _towards(
    start: tuple[float, float], end: tuple[float, float], step: float
) -> tuple[float, float]:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    return start[0] + step * dx / length, start[1] + step * dy / length


def _loop(spot: tuple[float, float]) -> str:
    x, y = spot
    top = y - _RADIUS - 3
    handles = f"{x - 24:.1f} {y - 54:.1f} {x + 24:.1f} {y - 54:.1f}"
    return f"M{x - 7:.1f} {top + 3:.1f}C{handles} {x + 7:.1f} {top:.1f}"
