"""A circuit as a layered drawing: nodes in columns from left to right, edges as wide as scores."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from neuros_mechint.reporting._escape import escape_text

__all__ = ["Edge", "draw_circuit"]

Edge = tuple[str, str]

_NODE_HEIGHT = 26.0
_ROW = 40.0
_BEND_ROW = 14.0
_GAP = 76.0
# Room for the outline of a node and for half the width of an edge.
_SIDE, _ENDS = 1.0, 8.0
_LONGEST_LABEL = 22
_CHARACTER = 7.3
_WIDEST = 7.0
_SWEEPS = 4


class _Box(NamedTuple):
    """Where a node stands, or where a long edge bends on its way past a column."""

    x: float
    y: float


def draw_circuit(scores: Mapping[Edge, float], nodes: Iterable[str]) -> str:
    """Draw edges with their scores as SVG of its natural size, in the colours of the page.

    Args:
        scores: Score of every edge, NaN where there is none.
        nodes: Nodes; those of the edges need not be named.

    Returns:
        SVG source.

    Raises:
        ValueError: When the edges form a cycle.

    Examples:
        >>> svg = draw_circuit({("a", "b"): 2.0}, [])
        >>> svg.count("<path"), svg.count("<rect")
        (1, 2)
    """
    names = sorted({*nodes, *(name for edge in scores for name in edge)})
    layers = _layers(names, list(scores))
    chains = {edge: _chain(edge, layers) for edge in scores}
    columns = _ordered(_columns(layers, chains.values()), list(chains.values()))
    width = _CHARACTER * max(len(_shortened(name)) for name in names) + 18
    places = _places(columns, width)
    largest = max((abs(s) for s in scores.values() if math.isfinite(s)), default=0.0)
    # The strongest edges are drawn last and lie on top.
    ranked = sorted(scores.items(), key=lambda item: _size(item[1], 1.0))
    parts = [
        _edge(edge, s, _size(s, largest), [places[station] for station in chains[edge]], width)
        for edge, s in ranked
    ]
    parts += [_node(name, places[name], width) for name in names]
    total_width = width * len(columns) + _GAP * (len(columns) - 1) + 2 * _SIDE
    total_height = max(_height(column) for column in columns) + 2 * _ENDS
    size = f"{total_width:.0f}", f"{total_height:.0f}"
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">'
        f"{''.join(parts)}</svg>"
    )


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Column of every node: the length of the longest path that leads to it."""
    sources: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        sources[target].append(source)
    layers: dict[str, int] = {}
    waiting = list(names)
    while waiting:
        ready = [name for name in waiting if all(s in layers for s in sources[name])]
        if not ready:
            raise ValueError(f"the edges form a cycle among {waiting}; a circuit has none")
        for name in ready:
            layers[name] = 1 + max((layers[s] for s in sources[name]), default=-1)
        waiting = [name for name in waiting if name not in layers]
    return layers


def _chain(edge: Edge, layers: Mapping[str, int]) -> list[Hashable]:
    """Stations of an edge: its ends, and a bend in every column that it passes."""
    source, target = edge
    bends = [(source, target, k) for k in range(layers[source] + 1, layers[target])]
    return [source, *bends, target]


def _columns(
    layers: Mapping[str, int], chains: Iterable[Sequence[Hashable]]
) -> list[list[Hashable]]:
    columns: list[list[Hashable]] = [[] for _ in range(max(layers.values()) + 1)]
    for name, layer in layers.items():
        columns[layer].append(name)
    for chain in chains:
        for bend in chain[1:-1]:
            columns[_layer_of(bend)].append(bend)
    return columns


def _layer_of(bend: Hashable) -> int:
    return int(bend[2]) if isinstance(bend, tuple) else 0


def _ordered(
    columns: list[list[Hashable]], chains: Sequence[Sequence[Hashable]]
) -> list[list[Hashable]]:
    """Sort every column by the mean place of its neighbours, back and forth (Sugiyama 1981)."""
    before: dict[Hashable, list[Hashable]] = {}
    after: dict[Hashable, list[Hashable]] = {}
    for chain in chains:
        for left, right in pairwise(chain):
            before.setdefault(right, []).append(left)
            after.setdefault(left, []).append(right)
    rank = {place: k / len(column) for column in columns for k, place in enumerate(column)}

    def settle(column: list[Hashable], neighbours: Mapping[Hashable, list[Hashable]]) -> None:
        def barycentre(place: Hashable) -> float:
            near = neighbours.get(place, [place])
            return sum(rank[other] for other in near) / len(near)

        column.sort(key=barycentre)
        rank.update({place: k / len(column) for k, place in enumerate(column)})

    for _ in range(_SWEEPS):
        for column in columns[1:]:
            settle(column, before)
        for column in columns[-2::-1]:
            settle(column, after)
    return columns


def _row_height(place: Hashable) -> float:
    return _ROW if isinstance(place, str) else _BEND_ROW


def _height(column: Sequence[Hashable]) -> float:
    return sum(map(_row_height, column))


def _places(columns: Sequence[Sequence[Hashable]], width: float) -> dict[Hashable, _Box]:
    """Left edge and middle of every station; columns are centred on each other."""
    tallest = max(map(_height, columns))
    places: dict[Hashable, _Box] = {}
    for k, column in enumerate(columns):
        y = _ENDS + (tallest - _height(column)) / 2
        for place in column:
            height = _row_height(place)
            places[place] = _Box(_SIDE + k * (width + _GAP), y + height / 2)
            y += height
    return places


def _size(score: float, largest: float) -> float:
    """Absolute score as a share of the largest; 0 where there is none."""
    return abs(score) / largest if largest and math.isfinite(score) else 0.0


def _edge(edge: Edge, score: float, share: float, boxes: Sequence[_Box], width: float) -> str:
    path = f"M{boxes[0].x + width:.1f} {boxes[0].y:.1f}"
    for left, right in pairwise(boxes):
        start, end = left.x + width, right.x
        path += (
            f"C{start + _GAP / 2:.1f} {left.y:.1f} {end - _GAP / 2:.1f} {right.y:.1f} "
            f"{end:.1f} {right.y:.1f}"
        )
        # A bend is passed on a straight line as long as a node is wide.
        path += "" if right is boxes[-1] else f"h{width:.1f}"
    # Dashes tell the sign to those who do not see the colours.
    dashes = ";stroke-dasharray:7 4" if score < 0 else ""
    colour = "var(--neg)" if score < 0 else "var(--pos)"
    style = f"stroke:{colour};stroke-width:{1 + (_WIDEST - 1) * share:.2f}{dashes}"
    label = escape_text(f"{edge[0]} to {edge[1]}: {score:.4g}")
    return (
        f'<path d="{path}" fill="none" opacity="{0.55 + 0.4 * share:.2f}" style="{style}">'
        f"<title>{label}</title></path>"
    )


def _node(name: str, box: _Box, width: float) -> str:
    top = box.y - _NODE_HEIGHT / 2
    return (
        f"<g><title>{escape_text(name)}</title>"
        f'<rect x="{box.x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_NODE_HEIGHT}" '
        f'rx="5" style="fill:var(--band);stroke:var(--faint)"></rect>'
        f'<text x="{box.x + width / 2:.1f}" y="{box.y + 4:.1f}" text-anchor="middle" '
        f'style="fill:var(--ink)">{escape_text(_shortened(name))}</text></g>'
    )


def _shortened(name: str) -> str:
    """Keep both ends of a long name: the block and the part tell it from its neighbours."""
    if len(name) <= _LONGEST_LABEL:
        return name
    half = (_LONGEST_LABEL - 1) // 2
    return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
