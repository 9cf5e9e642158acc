"""Searches over edges that run the model: one by one, greedily, and led by first-order scores."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.activations import Edit, EditContext, SiteLike
from neuros_mechint.activations._inputs import call_arguments, count_rows
from neuros_mechint.circuits._contrast import Contrast
from neuros_mechint.circuits._wiring import Edge, Term

__all__ = ["exact_scores", "greedy_scores", "verified_scores"]


def exact_scores(contrast: Contrast, edges: Iterable[Edge]) -> dict[Edge, float]:
    """Change of the metric when one edge alone is ablated, for each edge.

    An edge that carries the same in both runs, or has no weight, changes nothing and is not run.
    """
    scores = dict.fromkeys(edges, 0.0)
    shifts = _single_shifts(contrast, scores)
    values = contrast.measure_edits([edits for _, edits in shifts])
    for (edge, _), value in zip(shifts, values, strict=True):
        scores[edge] = value - contrast.base_value
    return scores


def greedy_scores(
    contrast: Contrast, threshold: float
) -> tuple[frozenset[Edge], dict[Edge, float]]:
    """Drop edges one after the other, from the output backwards (ACDC, algorithm 1).

    An edge goes when the metric changes by no more than the threshold beyond the edges that went
    before. Edges into a node from which the kept edges no longer reach an output go untested, and
    so do edges that carry the same in both runs.
    """
    graph = contrast.graph
    dropped: dict[int, dict[int, Tensor]] = {}
    current = contrast.base_value
    kept: set[Edge] = set()
    scores = dict.fromkeys(graph.edges, 0.0)
    moving = {edge for edge, _ in _single_shifts(contrast, graph.edges)}
    into: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        into.setdefault(edge[1], []).append(edge)
    leads_to: dict[str, list[str]] = {}
    for v, u in graph.inside:
        leads_to.setdefault(v, []).append(u)
    live = {*graph.outputs}
    for node in sorted(into, key=graph.layer, reverse=True):
        if node not in live and live.isdisjoint(leads_to.get(node, ())):
            continue
        for edge in sorted(into[node], key=lambda e: graph.layer(e[0]), reverse=True):
            trial = _with_edge(dropped, contrast, edge)
            # Drops so far lie behind the writer, which therefore holds its clean value here.
            value = contrast.measure_masks([trial])[0] if edge in moving else current
            scores[edge] = value - current
            if abs(scores[edge]) <= threshold:
                dropped, current = trial, value
            else:
                kept.add(edge)
                live.add(edge[0])
    return frozenset(kept), scores


def verified_scores(
    contrast: Contrast,
    estimates: Mapping[Edge, float],
    *,
    threshold: float | None,
    n_edges: int | None,
) -> dict[Edge, float]:
    """Exact scores of the edges that first-order scores rank first, batch by batch.

    It ends when the next edge in the ranking, raised by the largest ratio of exact to first-order
    score seen so far, stays below the threshold, or below the last of `n_edges`.
    """
    ranking = sorted(estimates, key=lambda edge: abs(estimates[edge]), reverse=True)
    at_once = edges_at_once(contrast)
    exact: dict[Edge, float] = {}
    ratio = 1.0
    while ranking:
        bound = ratio * abs(estimates[ranking[0]])
        if bound <= _cutoff(exact, threshold, n_edges):
            break
        batch, ranking = ranking[:at_once], ranking[at_once:]
        found = exact_scores(contrast, batch)
        exact.update(found)
        ratio = max([ratio, *_ratios(found, estimates)])
    return exact


def edges_at_once(contrast: Contrast) -> int:
    """Edges that one forward can serve."""
    n_rows = count_rows(call_arguments(contrast.graph.model, contrast.clean))
    return max(1, contrast.batch_size // n_rows - 1)


def _cutoff(exact: Mapping[Edge, float], threshold: float | None, n_edges: int | None) -> float:
    if threshold is not None:
        return threshold
    best = sorted(map(abs, exact.values()), reverse=True)
    return best[n_edges - 1] if n_edges is not None and len(best) >= n_edges else -math.inf


def _ratios(exact: Mapping[Edge, float], estimates: Mapping[Edge, float]) -> list[float]:
    return [abs(exact[edge] / estimates[edge]) for edge in exact if estimates[edge] != 0.0]


def _with_edge(
    masks: Mapping[int, Mapping[int, Tensor]], contrast: Contrast, edge: Edge
) -> dict[int, dict[int, Tensor]]:
    r, j, g, i = contrast.graph.place(edge)
    changed = {key: dict(by_writer) for key, by_writer in masks.items()}
    if g in changed.get(r, {}):
        mask = changed[r][g].clone()
    else:
        shape = len(contrast.graph.readers[r].nodes), len(contrast.graph.writers[g].nodes)
        mask = torch.zeros(shape, dtype=torch.bool)
    mask[j, i] = True
    changed.setdefault(r, {})[g] = mask
    return changed


def _single_shifts(
    contrast: Contrast, edges: Iterable[Edge]
) -> list[tuple[Edge, dict[SiteLike, Edit]]]:
    """Edges that change something, each with the edit that ablates it alone."""
    graph = contrast.graph
    # Readers that are reached by the same maps share what they get from a writer.
    changes: dict[Term, tuple[Tensor, list[list[bool]]]] = {}
    found: list[tuple[Edge, dict[SiteLike, Edit]]] = []
    for edge in edges:
        r, j, g, i = graph.place(edge)
        reader = graph.readers[r]
        n_readers, n_writers = len(reader.nodes), len(graph.writers[g].nodes)
        term = g, reader.sources[g], reader.map
        if term not in changes:
            shares = reader.shares(g, n_writers, contrast.change(g))
            shares = shares.reshape(*shares.shape[:-1], n_readers, -1)
            changes[term] = shares, _nonzero(shares)
        shares, nonzero = changes[term]
        if nonzero[i][j]:
            width = shares.shape[-1]
            rows = (..., slice(j * width, (j + 1) * width))
            site = replace(reader.site, index=rows) if n_readers > 1 else reader.site
            found.append((edge, {site: _Moved(shares[i, ..., j, :])}))
    return found


def _nonzero(shares: Float[Tensor, "writers *batch readers n"]) -> list[list[bool]]:
    """Whether an edge changes anything, by writer and reader."""
    n_writers, n_readers = shares.shape[0], shares.shape[-2]
    rows = shares.reshape(n_writers, -1, n_readers, shares.shape[-1])
    found: list[list[bool]] = (rows != 0).any(-1).any(1).tolist()
    return found


class _Moved:
    """Add a change to the value."""

    def __init__(self, change: Tensor) -> None:
        self.change = change

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        return value + self.change
