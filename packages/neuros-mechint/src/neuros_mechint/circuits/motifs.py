"""Motifs: kinds of three or four nodes that are more frequent in a graph than chance makes them."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from neuros_mechint._arrays import Array, as_real, one_of
from neuros_mechint.circuits._motif_census import (
    NAMES,
    canonical_codes,
    sampled_census,
    signed_census,
    triad_census,
)
from neuros_mechint.circuits._motif_nulls import erdos_nulls, swapped_nulls

__all__ = ["MotifFinder", "MotifResult"]

Null = Literal["degree", "degree_reciprocal", "erdos"]
# Cells of null graphs that are held at a time: 64 MiB of 16-bit numbers.
_CELLS = 2**25
_UNCONNECTED = 3


@dataclass(frozen=True, eq=False)
class MotifResult:
    """Counts of every kind beside those of the null graphs.

    Attributes:
        counts: Occurrences, (..., kinds); signed, (..., 3, kinds) for triads whose edges all come
            from excitatory sources, all from inhibitory ones, and the others. A triad without an
            edge counts among the others. With `size=4` they are estimates from the sample.
        names: Name of every kind: MAN labels for three nodes, for four the smallest number whose
            twelve bits are the off-diagonal entries of the subgraph under some order of its nodes.
        null_mean: Mean over the null graphs, shaped as counts.
        null_std: Standard deviation over the null graphs.
        z: Distance of the count from the mean in standard deviations; 0 where nulls and graph all
            agree, infinite where only the nulls do.
        p: Two-sided share of graphs at least as far from the mean, (1 + #) / (1 + n_null).
        q: p adjusted for the false discovery rate over the kinds (Benjamini and Hochberg 1995).
        significance_profile: z of the kinds that connect their nodes, scaled to length 1; 0 for the
            others.
    """

    counts: Tensor
    names: tuple[str, ...]
    null_mean: Tensor
    null_std: Tensor
    z: Tensor
    p: Tensor
    q: Tensor
    significance_profile: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and strings.

        Returns:
            Field name -> value.

        Examples:
            >>> cycle = torch.eye(4).roll(1, 0)
            >>> MotifFinder(n_null=9).find(cycle).to_dict()["names"][:3]
            ['003', '012', '102']
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v.tolist() for k, v in values.items()}


class MotifFinder:
    r"""Count the kinds of three nodes of a directed graph and compare them with random graphs.

    Every three nodes are one of sixteen kinds, named by their mutual, asymmetric and null dyads.
    Null graphs keep the in- and out-degree of every node: pairs of edges $a \to b$, $c \to d$
    become $a \to d$, $c \to b$ where that makes neither a loop nor a second edge. The swaps of all
    edges of all null graphs are proposed at once. As with every chain of such swaps, graphs that
    differ only by the direction of isolated three-cycles are not reached from each other.

    Args:
        size: 3 counts every triad; 4 counts a sample of four nodes each.
        null: What null graphs keep: `"degree"` both degrees of every node, `"degree_reciprocal"`
            also how many mutual edges it has, `"erdos"` only the number of edges.
        n_null: Number of null graphs.
        n_swaps: Times that an edge is swapped on average.
        signed: Whether triads are split by the sign of their edges; three nodes only.
        n_samples: Sets of four nodes, drawn with replacement among sets; `size=4` only.
        generator: Source of the null graphs and the sample; None takes the one of torch.

    Raises:
        ValueError: When a setting is out of range.

    Examples:
        >>> cycle = torch.eye(3).roll(1, 0)
        >>> result = MotifFinder(n_null=9).find(cycle)
        >>> result.names[int(result.counts.argmax())]
        '030C'

    References:
        Holland, P. W. & Leinhardt, S. (1976). Local structure in social networks. Sociological
        Methodology 7, 1-45. doi:10.2307/270703

        Maslov, S. & Sneppen, K. (2002). Specificity and stability in topology of protein networks.
        Science 296, 910-913. doi:10.1126/science.1065103

        Milo, R. et al. (2004). Superfamilies of evolved and designed networks. Science 303,
        1538-1542. doi:10.1126/science.1089167
    """

    def __init__(
        self,
        *,
        size: int = 3,
        null: Null = "degree",
        n_null: int = 1000,
        n_swaps: int = 10,
        signed: bool = False,
        n_samples: int = 10_000,
        generator: torch.Generator | None = None,
    ) -> None:
        if size not in {3, 4}:
            raise ValueError(f"size must be 3 or 4, got {size}")
        one_of("null", null, get_args(Null))
        for name, value in (("n_null", n_null), ("n_swaps", n_swaps), ("n_samples", n_samples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if signed and size == 4:
            raise ValueError("signed=True needs size=3; motifs of four nodes are not split by sign")
        self.size = size
        self.null: Null = null
        self.n_null = n_null
        self.n_swaps = n_swaps
        self.signed = signed
        self.n_samples = n_samples
        self.generator = generator

    def __repr__(self) -> str:
        return (
            f"MotifFinder(size={self.size}, null={self.null!r}, n_null={self.n_null}, "
            f"n_swaps={self.n_swaps}, signed={self.signed}, n_samples={self.n_samples})"
        )

    def find(self, adjacency: Array) -> MotifResult:
        """Count motifs and judge them by null graphs.

        Args:
            adjacency: Graphs (..., nodes, nodes); entry (i, j) other than zero is an edge from i to
                j, inhibitory where it is negative. The diagonal is ignored.

        Returns:
            Counts, null statistics and p values, (..., kinds), in float64.

        Raises:
            TypeError: When the adjacency is not a real tensor or array.
            ValueError: When it is not square, has fewer nodes than a motif, or holds NaN or inf.
        """
        weights = as_real(
            "adjacency", adjacency, axes=("nodes", "nodes"), at_least=(self.size, self.size)
        )
        if weights.shape[-1] != weights.shape[-2]:
            raise ValueError(f"adjacency must be square, got shape {tuple(weights.shape)}")
        n = weights.shape[-1]
        graphs = weights.reshape(-1, n, n)
        loops = torch.eye(n, dtype=torch.bool, device=graphs.device)
        edges, negative = (graphs != 0) & ~loops, (graphs < 0) & ~loops
        subsets = None if self.size == 3 else self._subsets(n, graphs.device)
        counts = self._count(edges, negative, subsets)
        step = max(1, _CELLS // (n * n * max(1, len(graphs))))
        parts = [
            self._null_counts(edges, negative, subsets, min(step, self.n_null - start))
            for start in range(0, self.n_null, step)
        ]
        nulls = torch.cat(parts)
        lead = weights.shape[:-2]
        stats = [x.reshape(*lead, *counts.shape[1:]) for x in _statistics(counts, nulls)]
        mean, std, z, p, q = stats
        names = NAMES if self.size == 3 else tuple(str(c) for c in canonical_codes()[1])
        connected = torch.tensor(
            [k >= _UNCONNECTED for k in range(16)] if self.size == 3 else _four_connected(),
            device=z.device,
        )
        profile = _profile(z, connected)
        return MotifResult(counts.reshape_as(mean), names, mean, std, z, p, q, profile)

    def _subsets(self, n: int, device: torch.device) -> Tensor:
        drawn = torch.rand(self.n_samples, n, generator=self.generator, device=device)
        return drawn.topk(4, dim=1).indices

    def _count(
        self,
        edges: Bool[Tensor, "graph node node"],
        negative: Bool[Tensor, "graph node node"],
        subsets: Tensor | None,
    ) -> Float64[Tensor, "graph ..."]:
        if subsets is not None:
            scale = math.comb(edges.shape[-1], 4) / len(subsets)
            return sampled_census(edges, subsets) * scale
        return signed_census(edges, negative) if self.signed else triad_census(edges)

    def _null_counts(
        self,
        edges: Bool[Tensor, "graph node node"],
        negative: Bool[Tensor, "graph node node"],
        subsets: Tensor | None,
        n_null: int,
    ) -> Float64[Tensor, "null graph ..."]:
        many, signs = (x.repeat(n_null, 1, 1) for x in (edges, negative))
        if self.null == "erdos":
            drawn = erdos_nulls(many, signs, self.generator)
        else:
            reciprocal = self.null == "degree_reciprocal"
            drawn = swapped_nulls(many, signs, self.n_swaps, self.generator, reciprocal=reciprocal)
        counts = self._count(*drawn, subsets)
        return counts.reshape(n_null, len(edges), *counts.shape[1:])


def _statistics(
    counts: Float64[Tensor, "graph ..."], nulls: Float64[Tensor, "null graph ..."]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n_null = len(nulls)
    mean, std = nulls.mean(0), nulls.std(0, correction=min(1, n_null - 1))
    far = counts - mean
    z = torch.where(far == 0, torch.zeros_like(far), far / std)
    # The centre includes the graph itself, so that under the null all graphs are exchangeable.
    centre = (nulls.sum(0) + counts) / (n_null + 1)
    # Counts are whole numbers; equal distances differ by the rounding of the centre only.
    slack = 1e-9 * (1 + centre.abs())
    beyond = (nulls - centre).abs() >= (counts - centre).abs() - slack
    p = (1 + beyond.sum(0)).double() / (1 + n_null)
    return mean, std, z, p, _false_discovery(p)


def _false_discovery(p: Float64[Tensor, "... kind"]) -> Float64[Tensor, "... kind"]:
    n = p.shape[-1]
    ordered, order = p.sort(dim=-1)
    raised = ordered * n / torch.arange(1, n + 1, dtype=p.dtype, device=p.device)
    lowest = raised.flip(-1).cummin(dim=-1).values.flip(-1).clamp(max=1)
    return torch.empty_like(p).scatter(-1, order, lowest)


def _profile(
    z: Float64[Tensor, "... kind"], connected: Bool[Tensor, " kind"]
) -> Float64[Tensor, "... kind"]:
    kept = torch.where(connected, z, torch.zeros_like(z))
    infinite = kept.isinf()
    # Beside an infinite z every finite one is 0 of the length.
    kept = torch.where(infinite.any(-1, keepdim=True), kept.sign() * infinite, kept)
    length = torch.linalg.vector_norm(kept, dim=-1, keepdim=True)
    return torch.where(length > 0, kept / length, torch.zeros_like(kept))


def _four_connected() -> list[bool]:
    linked = []
    for name in canonical_codes()[1]:
        graph = torch.eye(4)
        cells = [(i, j) for i in range(4) for j in range(4) if i != j]
        for k, (i, j) in enumerate(cells):
            graph[i, j] += name >> k & 1
            graph[j, i] += name >> k & 1
        linked.append(bool((torch.linalg.matrix_power(graph, 3) > 0).all()))
    return linked
