"""Diagrams of circuits of excitatory and inhibitory nodes."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, as_real
from neuros_mechint.circuits._ei_layout import place_nodes
from neuros_mechint.circuits._ei_svg import EXCITATORY, INHIBITORY, EdgeRow, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EICircuitDiagram", "EISummary"]


@dataclass(frozen=True)
class EISummary:
    r"""What a wiring looks like in numbers.

    Attributes:
        n_excitatory: Nodes counted as excitatory.
        n_inhibitory: Nodes counted as inhibitory.
        n_edges: Nonzero weights, loops included.
        density: Share of the ordered pairs of different nodes that are joined.
        mean_weights: Mean weight over the edges of `"E->E"`, `"E->I"`, `"I->E"` and `"I->I"`,
            source first; NaN where there is none.
        balance: Excitation over inhibition that every node receives, $\sum E / |\sum I|$; infinite
            without inhibition, NaN without either.
        dale_consistency: Share of nodes whose outgoing weights have one sign, among those that
            have any.
        reciprocity: Share of the edges between different nodes that are answered.
        n_loops: Edges from a node to itself.
    """

    n_excitatory: int
    n_inhibitory: int
    n_edges: int
    density: float
    mean_weights: dict[str, float]
    balance: tuple[float, ...]
    dale_consistency: float
    reciprocity: float
    n_loops: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers.

        Returns:
            Field name -> value.

        Examples:
            >>> EICircuitDiagram(torch.zeros(2, 2)).summary().to_dict()["n_edges"]
            0
        """
        return asdict(self)


class EICircuitDiagram:
    r"""Draw and summarise a recurrent weight matrix.

    Entry $W_{ij}$ is the weight from node j to node i, so column j is what node j sends. Every
    nonzero entry is drawn once; equal weights give the same text.

    Args:
        w_rec: Weights (nodes, nodes).
        names: One name per node; None counts them.
        ei: `"E"` or `"I"` per node; None takes the sign of the sum of what a node sends, and E
            where that is 0.

    Raises:
        TypeError: When the weights are not a real tensor or array.
        ValueError: When they are not one square matrix, hold NaN or inf, or `names` or `ei` do not
            fit.

    Examples:
        >>> diagram = EICircuitDiagram(torch.tensor([[0.0, -2.0], [1.0, 0.0]]), names=["p", "q"])
        >>> print(diagram.to_mermaid())
        graph LR
            n0(("p"))
            n1["q"]
            n1 -- "-2" --x n0
            n0 -- "1" --> n1
        >>> diagram.summary().balance
        (0.0, inf)
    """

    def __init__(
        self,
        w_rec: Array,
        *,
        names: Sequence[str] | None = None,
        ei: Sequence[str] | None = None,
    ) -> None:
        weights = as_real("w_rec", w_rec, axes=("to", "from"), at_least=(1, 1)).detach()
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(
                f"w_rec must be one square matrix, got shape {tuple(weights.shape)}; draw the "
                "matrices of a batch one by one"
            )
        n = len(weights)
        self.weights = weights
        self.names = [str(k) for k in range(n)] if names is None else [str(x) for x in names]
        if len(self.names) != n or len(set(self.names)) != n:
            raise ValueError(f"names needs {n} different names, got {self.names}")
        signs = weights.double().sum(0) < 0
        self.ei = ["I" if s else "E" for s in signs.tolist()] if ei is None else list(ei)
        if len(self.ei) != n or not set(self.ei) <= {"E", "I"}:
            raise ValueError(f"ei needs {n} letters 'E' or 'I', got {self.ei}")

    def __repr__(self) -> str:
        return f"EICircuitDiagram({len(self.names)} nodes, {len(self._edges())} edges)"

    def layout(self) -> Tensor:
        """Place the nodes so that joined ones are near each other.

        Returns:
            Places (nodes, 2) in the unit square, the same for the same weights.

        Examples:
            >>> EICircuitDiagram(torch.ones(1, 1)).layout()
            tensor([[0.5000, 0.5000]])
        """
        return place_nodes(self.weights != 0).to(self.weights.dtype)

    def to_mermaid(self) -> str:
        """Write the circuit as a Mermaid graph.

        Returns:
            Text: excitatory nodes round with arrows, inhibitory ones square with crossed ends.
        """
        lines = ["graph LR"]
        for k, (name, kind) in enumerate(zip(self.names, self.ei, strict=True)):
            label = name.replace('"', "#quot;")
            lines.append(f'    n{k}["{label}"]' if kind == "I" else f'    n{k}(("{label}"))')
        for edge in self._edges():
            head = "-->" if edge.weight > 0 else "--x"
            lines.append(f'    n{edge.source} -- "{edge.weight:.4g}" {head} n{edge.target}')
        return "\n".join(lines)

    def to_svg(self) -> str:
        """Draw the circuit as SVG text.

        Returns:
            A whole SVG document: excitatory nodes are blue circles whose edges end in arrows,
            inhibitory ones vermilion squares; negative edges end in bars. Widths follow |weight|.

        Examples:
            >>> EICircuitDiagram(torch.zeros(1, 1)).to_svg().startswith("<svg")
            True
        """
        places = [(x, y) for x, y in place_nodes(self.weights != 0).tolist()]
        return svg_text(self.names, self.ei, places, self._edges())

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the circuit with matplotlib.

        Args:
            ax: Where to draw; None makes a figure.

        Returns:
            The axes.

        Raises:
            ImportError: When matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot as plt
        except ImportError as error:
            raise ImportError(
                "plot needs matplotlib: pip install matplotlib; to_svg draws without it"
            ) from error
        axes = plt.subplots(figsize=(5, 5), layout="constrained")[1] if ax is None else ax
        places = self.layout().tolist()
        edges = self._edges()
        largest = max((abs(edge.weight) for edge in edges), default=1.0)
        for edge in edges:
            look = "-|>" if edge.weight > 0 else "|-|,widthA=0,widthB=0.4"
            # A loop leaves and enters above the node, clear of its name.
            x, y = places[edge.source]
            loop = edge.source == edge.target
            axes.annotate(
                "",
                xy=(x + 0.035, y - 0.05) if loop else tuple(places[edge.target]),
                xytext=(x - 0.035, y - 0.05) if loop else (x, y),
                arrowprops={
                    "arrowstyle": look,
                    "color": EXCITATORY if edge.weight > 0 else INHIBITORY,
                    "linewidth": 0.8 + 2.2 * abs(edge.weight) / largest,
                    "connectionstyle": f"arc3,rad={-1.8 if loop else 0.15}",
                    "shrinkA": 0 if loop else 11,
                    "shrinkB": 0 if loop else 13,
                },
            )
        for name, kind, (x, y) in zip(self.names, self.ei, places, strict=True):
            colour, marker = (EXCITATORY, "o") if kind == "E" else (INHIBITORY, "s")
            axes.plot([x], [y], marker, ms=20, mfc="white", mec=colour, mew=2)
            axes.text(x, y, name, ha="center", va="center", fontsize=9)
        axes.set(xlim=(-0.15, 1.15), ylim=(1.15, -0.15), aspect="equal")
        axes.axis("off")
        return axes

    def summary(self) -> EISummary:
        """Count and weigh the wiring.

        Returns:
            Counts, density, mean weights, balance, sign consistency, reciprocity and loops.
        """
        weights = self.weights.double()
        n = len(weights)
        edges = weights != 0
        apart = edges & ~torch.eye(n, dtype=torch.bool, device=edges.device)
        n_apart = int(apart.sum())
        excitation, inhibition = weights.clamp(min=0).sum(1), weights.clamp(max=0).sum(1).abs()
        sends = edges.any(0)
        mixed = (weights > 0).any(0) & (weights < 0).any(0)
        n_senders = int(sends.sum())
        return EISummary(
            n_excitatory=self.ei.count("E"),
            n_inhibitory=self.ei.count("I"),
            n_edges=int(edges.sum()),
            density=n_apart / (n * (n - 1)) if n > 1 else 0.0,
            mean_weights=self._mean_weights(weights),
            balance=tuple((excitation / inhibition).tolist()),
            dale_consistency=1 - int(mixed.sum()) / n_senders if n_senders else math.nan,
            reciprocity=int((apart & apart.mT).sum()) / n_apart if n_apart else math.nan,
            n_loops=int(edges.diagonal().sum()),
        )

    def _mean_weights(self, weights: Tensor) -> dict[str, float]:
        kinds = torch.tensor([kind == "E" for kind in self.ei], device=weights.device)
        means = {}
        for source in "EI":
            for target in "EI":
                rows, columns = kinds == (target == "E"), kinds == (source == "E")
                block = weights[rows][:, columns]
                kept = block[block != 0]
                means[f"{source}->{target}"] = float(kept.mean()) if len(kept) else math.nan
        return means

    def _edges(self) -> list[EdgeRow]:
        rows = self.weights.nonzero().tolist()
        return [EdgeRow(j, i, float(self.weights[i, j])) for i, j in rows]
