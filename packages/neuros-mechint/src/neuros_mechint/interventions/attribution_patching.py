"""Attribution patching: every patch of a sweep at once, to first order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Inexact
from torch import Tensor, nn

from neuros_mechint.activations import Edit, EditContext, Site, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site
from neuros_mechint.attribution._quadrature import gauss_legendre
from neuros_mechint.interventions._parts import Parts
from neuros_mechint.interventions._tables import metric_table
from neuros_mechint.interventions.metrics import Metric, mean_value, measured

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["attribution_patching"]


def attribution_patching(
    model: nn.Module,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    sites: SiteLike | Iterable[SiteLike],
    *,
    steps: int = 1,
    positions: Iterable[int] | None = None,
    neurons: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    n_heads: int | None = None,
) -> "pd.DataFrame":
    r"""Estimate the effect of every patch from two forwards and one backward.

    $$\hat E = \sum_i (a^{clean}_i - a^{corr}_i) \int_0^1
    \frac{\partial M}{\partial a_i}\big(a^{corr} + t (a^{clean} - a^{corr})\big)\,dt$$

    over the entries `i` of a patch, where one step takes the gradient at the corrupted run (Nanda
    2023). The estimate is exact where the metric is linear in the activation. With more steps the
    gradient is averaged over Gauss-Legendre nodes on the line between the two runs at each site:
    the effects of the parts of a site then add up to the effect of patching all of it, at the cost
    of `steps` forwards and backwards per site. A site that is reached several times, such as the
    cell of a recurrence, takes one more forward and backward of its own.

    Args:
        model: Any module; used in the mode it is in, and left as it was, gradients included.
        clean: Input of the run that the activations come from, as in `ActivationPatcher`.
        corrupted: Input of the run that they would be put into, of the same shape.
        metric: Differentiable function of an output, one value per row or a scalar.
        sites: Sites, each holding floating-point numbers.
        steps: Nodes on the line, at least 1.
        positions: Indices of dimension 1 (time) to report separately. Without positions, neurons
            and heads, every position of a site with three or more dimensions is reported.
        neurons: Indices of the last dimension to report separately.
        heads: Parts of the last dimension to report separately; needs `n_heads`.
        n_heads: Number of equal parts of the last dimension.

    Returns:
        The table of `ActivationPatcher.systematic_patching`: one row per patch with the columns
        layer, those of position, neuron and head, value (the estimate of the metric), effect
        and recovery.

    Raises:
        KeyError: When a path names no module.
        RuntimeError: When a site was not reached.
        TypeError: When the metric returns no tensor.
        ValueError: When there is no site or no step, a site holds integers, the two runs differ in
            shape or in the number of calls, the metric has no gradient, clean and corrupted do not
            differ in the metric, or gradients are off in inference mode.

    Examples:
        >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[1].weight)
        >>> clean, corrupted = torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)
        >>> table = attribution_patching(
        ...     net, clean, corrupted, lambda y: y[:, 0], ["0"], neurons=[0, 1]
        ... )
        >>> table["effect"].tolist()
        [3.0, 1.0]

    References:
        Nanda, N. (2023). Attribution patching: activation patching at industrial scale.
        https://www.neelnanda.io/mechanistic-interpretability/attribution-patching

        Syed, A., Rager, C. & Conmy, A. (2023). Attribution patching outperforms automated circuit
        discovery. arXiv. doi:10.48550/arXiv.2310.10348
    """
    if steps < 1:
        raise ValueError(f"steps needs at least 1 node, got {steps}")
    given = [sites] if isinstance(sites, (str, Site, nn.Module)) else [*sites]
    found = [as_site(model, like) for like in given]
    if not found:
        raise ValueError("at least one site is needed to patch, got none")
    if torch.is_inference_mode_enabled():
        raise ValueError("attribution patching needs gradients; leave torch.inference_mode()")
    parts = Parts(positions, neurons, heads, n_heads)
    runs = _Runs(model, clean, corrupted, metric, [*dict.fromkeys(found)])
    labels: list[dict[str, Any]] = []
    values = {0: runs.low}
    for site in found:
        shares = runs.shares(site, steps)
        for label, part in _divided(parts, site, shares[0]):
            labels.append({"layer": str(site), **label})
            chosen = shares if part is None else [share[part] for share in shares]
            values[len(labels)] = runs.low + sum(float(share.sum()) for share in chosen)
    return metric_table(labels, values, runs.high)


class _Probe:
    """Adds a zero that collects the gradient, and keeps the value that it was added to.

    A zero rather than the activation itself, because a model may overwrite that in place, and
    because nothing before the site needs a gradient.
    """

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.zeros: list[Tensor] = []

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        if not (value.is_floating_point() or value.is_complex()):
            raise ValueError(
                f"site '{context.site}' holds {value.dtype}, which has no gradient; use a site "
                "after the embedding"
            )
        zero = torch.zeros_like(value, requires_grad=True)
        self.values.append(value.detach().clone())
        self.zeros.append(zero)
        return value + zero


class _Fixed:
    """Puts given values in place of the calls of a site, plus zeros that collect the gradient."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.values = values
        self.zeros: list[Tensor] = []

    def __call__(self, _value: Tensor, _context: EditContext) -> Tensor:
        # Calls in the order in which the probe met them: the same model and the same input.
        fixed = self.values[len(self.zeros)]
        zero = torch.zeros_like(fixed, requires_grad=True)
        self.zeros.append(zero)
        return fixed + zero


class _Runs:
    """The clean and the corrupted run of one model.

    Attributes:
        high: Metric of the clean run.
        low: Metric of the corrupted run.
    """

    def __init__(
        self, model: nn.Module, clean: Any, corrupted: Any, metric: Metric, sites: Sequence[Site]
    ) -> None:
        self.model, self.metric = model, metric
        self.arguments = call_arguments(model, corrupted)
        args, kwargs = call_arguments(model, clean)
        with torch.no_grad(), preserved(model), intervene(model, capture=sites, clone=True) as kept:
            self.high = mean_value(measured(metric, model(*args, **kwargs)))
        self.probes = {site: _Probe() for site in sites}
        value, self.gradients = self._backward(self.probes)
        self.low = mean_value(value)
        self.deltas = {site: self._delta(site, kept.calls(site)) for site in sites}

    def shares(self, site: Site, steps: int) -> list[Tensor]:
        """Contribution of every entry of every call of a site."""
        corrupted, delta = self.probes[site].values, self.deltas[site]
        if steps == 1 and len(delta) == 1:
            return [*map(_contribution, self.gradients[site], delta)]
        # A patch of several calls overwrites what an earlier one would do to a later one, so they
        # need a run of their own in which the values of all calls are fixed.
        if steps == 1:
            line = [(0.0, 1.0)]
        else:
            nodes, weights = gauss_legendre(steps)
            line = [*zip(nodes.tolist(), weights.tolist(), strict=True)]
        shares = [torch.zeros((), dtype=torch.float64)] * len(delta)
        for node, weight in line:
            fixed = _Fixed([a + node * d for a, d in zip(corrupted, delta, strict=True)])
            _, gradients = self._backward({site: fixed})
            parts = map(_contribution, gradients[site], delta)
            shares = [share + weight * part for share, part in zip(shares, parts, strict=True)]
        return shares

    def _backward(
        self, edits: Mapping[Site, _Probe | _Fixed]
    ) -> tuple[Tensor, dict[Site, list[Tensor]]]:
        """Metric of the corrupted run with edits, and the gradient of its mean at every call."""
        args, kwargs = self.arguments
        installed: dict[SiteLike, Edit] = dict(edits.items())
        with torch.enable_grad(), preserved(self.model), intervene(self.model, installed):
            value = measured(self.metric, self.model(*args, **kwargs))
            mean = value.mean()
        if not value.requires_grad:
            raise ValueError(
                "the metric has no gradient at any of the sites: it detaches, is piecewise "
                "constant, or does not depend on them"
            )
        zeros = [zero for edit in edits.values() for zero in edit.zeros]
        found = iter(torch.autograd.grad(mean, zeros, materialize_grads=True))
        return value, {site: [next(found) for _ in edit.zeros] for site, edit in edits.items()}

    def _delta(self, site: Site, clean: Sequence[Tensor]) -> list[Tensor]:
        corrupted = self.probes[site].values
        shapes = [[tuple(x.shape) for x in calls] for calls in (clean, corrupted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"site '{site}' has shapes {shapes[0]} in the clean and {shapes[1]} in the "
                "corrupted run; a patch needs equal ones"
            )
        return [a - b for a, b in zip(clean, corrupted, strict=True)]


def _divided(parts: Parts, site: Site, value: Tensor) -> Iterator[tuple[dict[str, int], Any]]:
    """Parts of a site; every position where nothing else was asked for."""
    if parts.axes or site.index is not None or value.ndim < 3:
        return parts.of(site, value)
    return Parts(range(value.shape[1]), None, None, None).of(site, value)


def _contribution(
    gradient: Inexact[Tensor, "*shape"], delta: Inexact[Tensor, "*shape"]
) -> Float64[Tensor, "*shape"]:
    # For complex values autograd returns the gradient whose conjugate gives the differential.
    return (gradient.conj() * delta).real.double()
