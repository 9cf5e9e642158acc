"""Whether a discovered circuit holds on inputs that the discovery did not see."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._bootstrap import as_rng
from neuros_mechint.circuits._contrast import Contrast, only_value
from neuros_mechint.circuits._controls import magnitude_control, random_controls
from neuros_mechint.circuits._hashes import row_hashes
from neuros_mechint.circuits._wiring import Edge
from neuros_mechint.circuits.circuit import Circuit
from neuros_mechint.evidence import hierarchical_bootstrap
from neuros_mechint.interventions.metrics import Metric, measured
from neuros_mechint.interventions.patching import recovery

__all__ = ["CircuitEvidence", "validate_circuit"]

Rediscover = Callable[[Tensor], Circuit]


class CircuitEvidence(NamedTuple):
    """What held-out inputs say about a circuit.

    Attributes:
        faithfulness: Recovery with everything outside the circuit ablated.
        completeness: Share of the metric that is lost when the circuit is ablated.
        interval: 95 % interval of the faithfulness over clusters of rows, (low, high).
        control_scores: Kind of control -> faithfulness of each; `"shuffled"` holds the circuits
            that were found with shuffled labels.
        p_value: Share of controls whose faithfulness is as near to 1, the circuit itself counted
            among them.
        leak: Whether circuits found with shuffled labels still do better than their controls; None
            when that was not tried.
    """

    faithfulness: float
    completeness: float
    interval: tuple[float, float]
    control_scores: dict[str, Float[np.ndarray, "control"]]
    p_value: float
    leak: bool | None


def validate_circuit(
    circuit: Circuit,
    clean: Any,
    corrupted: Any,
    *,
    controls: Sequence[str] = ("random", "magnitude"),
    n_controls: int = 200,
    cluster: Any = None,
    n_bootstrap: int = 2000,
    generator: np.random.Generator | torch.Generator | None = None,
    metric: Metric | None = None,
    labels: Tensor | None = None,
    rediscover: Rediscover | None = None,
    n_shuffles: int = 10,
) -> CircuitEvidence:
    r"""Score a circuit on held-out inputs, beside circuits of the same size.

    Controls have as many edges between each pair of layers as the circuit, so the same number in
    all and the same degree per layer: `"random"` draws them, `"magnitude"` is the one set with the
    largest weights (Frobenius norm of the map of the edge; ties are drawn).

    With `labels` and `rediscover` the discovery is repeated on shuffled labels. What it finds then
    must do no better than random circuits of its size; where it does, the held-out inputs or their
    labels reached the discovery by another way, or the labels never mattered.

    Args:
        circuit: The circuit.
        clean: Held-out inputs of the base run.
        corrupted: Inputs that ablated edges take their values from; may be None with
            `ablation="zero"`.
        controls: Kinds of control.
        n_controls: How many random circuits.
        cluster: Labels of the rows for the interval, as in `hierarchical_bootstrap`.
        n_bootstrap: How many data sets are drawn for the interval.
        generator: Source of all draws; None starts one from seed 0.
        metric: Metric on these inputs, one value per row; None takes that of the discovery.
        labels: Labels of the discovery set, shape (row, ...).
        rediscover: The discovery as a function of its labels.
        n_shuffles: How often labels are shuffled.

    Returns:
        The evidence.

    Raises:
        TypeError: When `rediscover` returns no circuit, or the metric no tensor.
        ValueError: When the discovery saw one of the clean rows, the circuit has no edge, a control
            is unknown, only one of `labels` and `rediscover` is given, a number is out of range,
            the metric gives no value per row, or ablating all edges does not change it.

    Examples:
        >>> from neuros_mechint.circuits import CircuitDiscovery
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[5.0, 0.1, 0.1, 0.1]]))
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> found = CircuitDiscovery(net).discover(
        ...     x[:20], torch.zeros(20, 4), method="exact", n_edges=1
        ... )
        >>> evidence = validate_circuit(found, x[20:] + 1.0, torch.zeros(20, 4))
        >>> 0.8 < evidence.faithfulness < 1.0, evidence.leak
        (True, None)

    References:
        Conmy, A., Mavor-Parker, A., Lynch, A., Heimersheim, S. & Garriga-Alonso, A. (2023). Towards
        automated circuit discovery for mechanistic interpretability. NeurIPS 36.
        doi:10.48550/arXiv.2304.14997
    """
    _check(circuit, controls, n_controls, n_shuffles)
    if (labels is None) != (rediscover is None):
        raise ValueError("the leak check needs both labels and rediscover, got one of them")
    seen = row_hashes(clean) & circuit.discovery_hashes
    if seen:
        raise ValueError(
            f"{len(seen)} of the clean rows were seen by the discovery; a circuit is validated on "
            "rows that were held out"
        )
    rng = as_rng(generator)
    scores = _Scores(circuit, clean, corrupted, metric)
    faithfulness = float(scores.of([circuit.edges])[0])
    found = {}
    if "random" in controls:
        found["random"] = scores.of(random_controls(circuit, n_controls, rng))
    if "magnitude" in controls:
        found["magnitude"] = scores.of([magnitude_control(circuit, rng)])
    p_value = _share_as_good(np.concatenate([*found.values()]), faithfulness, itself=True)
    without = float(scores.of([frozenset(circuit.graph.edges) - circuit.edges])[0])
    leak = None
    if labels is not None and rediscover is not None:
        shuffled = _shuffled(labels, rediscover, n_shuffles, rng)
        found["shuffled"], leak = _leak(scores, shuffled, n_controls, rng)
    return CircuitEvidence(
        faithfulness=faithfulness,
        completeness=1.0 - without,
        interval=scores.interval(circuit.edges, cluster, n_bootstrap, rng),
        control_scores=found,
        p_value=p_value,
        leak=leak,
    )


class _Scores:
    """Faithfulness of edge sets, all against one recorded run."""

    def __init__(self, circuit: Circuit, clean: Any, corrupted: Any, metric: Metric | None) -> None:
        own = circuit.metric if metric is None else metric
        self._metric = only_value if own is None else own
        self._rows = torch.empty(0)
        self._contrast = Contrast(
            *(circuit.graph, clean, corrupted),
            metric=self._note,
            ablation=circuit.ablation,
            batch_size=circuit.batch_size,
        )
        self._every = frozenset(circuit.graph.edges)
        self._top, self._bottom = self._rows, self._kept(frozenset())
        if self._top.ndim != 1:
            raise ValueError(
                f"the metric needs to give one value per row, shape (batch,), for an interval over "
                f"rows; got shape {tuple(self._top.shape)}"
            )

    def of(self, edge_sets: Sequence[frozenset[Edge]]) -> Float[np.ndarray, "set"]:
        """Recovery with each set of edges kept and all others ablated."""
        values = self._contrast.measure([self._every - kept for kept in edge_sets])
        means = torch.tensor(values, dtype=torch.float64)
        return np.array([recovery(self._top, self._bottom, value) for value in means])

    def interval(
        self, kept: frozenset[Edge], cluster: Any, n_bootstrap: int, rng: np.random.Generator
    ) -> tuple[float, float]:
        """Interval of the recovery over clusters of rows."""
        rows = torch.stack([self._top, self._bottom, self._kept(kept)], dim=1)

        def ratio(drawn: Float[np.ndarray, "row run"]) -> float:
            top, bottom, middle = drawn.mean(0)
            return float((middle - bottom) / (top - bottom)) if top != bottom else np.inf

        found = hierarchical_bootstrap(rows, cluster, ratio, n_bootstrap=n_bootstrap, generator=rng)
        return found.low, found.high

    def _kept(self, edges: frozenset[Edge]) -> Tensor:
        """Metric of every row with only some edges kept."""
        self._contrast.measure([self._every - edges])
        return self._rows

    def _note(self, output: Any) -> Tensor:
        value = measured(self._metric, output)
        self._rows = value.detach().to("cpu", torch.float64)
        return value


def _check(circuit: Circuit, controls: Sequence[str], n_controls: int, n_shuffles: int) -> None:
    if not circuit.edges:
        raise ValueError("circuit needs at least one edge, got none")
    unknown = sorted(set(controls) - {"random", "magnitude"})
    if unknown or not controls:
        raise ValueError(f"controls needs 'random', 'magnitude' or both, got {tuple(controls)}")
    if n_controls < 1 or n_shuffles < 1:
        raise ValueError(
            f"n_controls >= 1 and n_shuffles >= 1 are needed, got {n_controls} and {n_shuffles}"
        )


def _share_as_good(controls: Float[np.ndarray, "control"], score: float, *, itself: bool) -> float:
    # A recovery above 1 is as wrong as one below; rounding must not turn a tie into a win.
    as_good = np.abs(1 - controls) <= abs(1 - score) + 1e-9
    return float((as_good.sum() + itself) / (len(controls) + itself))


def _shuffled(
    labels: Tensor, rediscover: Rediscover, n_shuffles: int, rng: np.random.Generator
) -> list[Circuit]:
    found = []
    for _ in range(n_shuffles):
        order = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
        circuit = rediscover(labels[order])
        if not isinstance(circuit, Circuit):
            raise TypeError(f"rediscover needs to return a Circuit, got {type(circuit).__name__}")
        found.append(circuit)
    return found


def _leak(
    scores: _Scores, shuffled: Sequence[Circuit], n_controls: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "shuffle"], bool]:
    """Whether circuits of shuffled labels beat 95 % of random circuits of their own size."""
    values = scores.of([circuit.edges for circuit in shuffled])
    each = -(-n_controls // len(shuffled))
    shares = [
        _share_as_good(scores.of(random_controls(circuit, each, rng)), value, itself=False)
        for circuit, value in zip(shuffled, values, strict=True)
    ]
    return values, float(np.mean(shares)) < 0.05
