"""Activation patching: one run's activation in another run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations import ActivationCache, Edit, Site, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations._transplant import Transplant
from neuros_mechint.activations.batched import stream_batched
from neuros_mechint.activations.site import as_site
from neuros_mechint.interventions._parts import Parts
from neuros_mechint.interventions._tables import difference_table, metric_table, share
from neuros_mechint.interventions.metrics import Metric, mean_value, measured

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ActivationPatcher", "PatchResult", "recovery"]

Layer = SiteLike | int
"""A site, or the number of one of the patcher's own sites."""


class PatchResult(NamedTuple):
    """Outcome of one patch.

    Attributes:
        output: Output of the patched run.
        clean: Metric of the clean run, None without a metric.
        corrupted: Metric of the corrupted run.
        patched: Metric of the patched run.
        recovery: Share of the metric's difference that the patch restores.
    """

    output: Any
    clean: Tensor | None = None
    corrupted: Tensor | None = None
    patched: Tensor | None = None
    recovery: float | None = None


def recovery(clean: Tensor, corrupted: Tensor, patched: Tensor) -> float:
    r"""Share of a metric's difference that a patch restores, from the means over rows.

    $$R = \frac{M_{patched} - M_{corrupted}}{M_{clean} - M_{corrupted}}$$

    Args:
        clean: Metric of the clean run, scalar or shape (batch,).
        corrupted: Metric of the corrupted run.
        patched: Metric of the patched run.

    Returns:
        0 when the patch did nothing, 1 when it restored the clean value.

    Raises:
        ValueError: When clean and corrupted do not differ in the metric (relative to 1e-8).

    Examples:
        >>> recovery(torch.tensor(4.0), torch.tensor(2.0), torch.tensor(3.0))
        0.5

    References:
        Heimersheim, S. & Nanda, N. (2024). How to use and interpret activation patching.
        arXiv. doi:10.48550/arXiv.2404.15255
    """
    return share(mean_value(clean), mean_value(corrupted), mean_value(patched))


class ActivationPatcher:
    """Put activations of a source run into a target run and see what changes.

    Inputs are given as one value: a tuple of positional arguments, a mapping whose every key names
    a parameter of the forward, or else the one argument (a tensor, a dict of modalities). The model
    is used in the mode it is in and left as it was, buffers included.

    Args:
        model: Any module.
        sites: Sites of the layers, in order. Where a layer is asked for, its number then does, and
            None stands for all.
        n_heads: Number of equal parts of a site's last dimension, for sweeps over heads; use the
            input of the attention's output projection as the site.
        batch_size: Most rows in one forward of a sweep.

    Raises:
        TypeError: When a site is neither a path, a Site nor a module.
        ValueError: When `n_heads` or `batch_size` is not positive.

    Examples:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Identity())
        >>> clean, corrupted = torch.ones(1, 1), torch.zeros(1, 1)
        >>> ActivationPatcher(net).patch(clean, corrupted, ["0"], metric=lambda y: y[:, 0]).recovery
        1.0

    References:
        Meng, K., Bau, D., Andonian, A. & Belinkov, Y. (2022). Locating and editing factual
        associations in GPT. NeurIPS 35. doi:10.48550/arXiv.2202.05262
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Iterable[SiteLike] = (),
        n_heads: int | None = None,
        batch_size: int = 64,
    ) -> None:
        if n_heads is not None and n_heads < 1:
            raise ValueError(f"n_heads needs at least 1, got {n_heads}")
        if batch_size < 1:
            raise ValueError(f"batch_size needs at least 1 row, got {batch_size}")
        self.model = model
        self.sites: tuple[Site, ...] = tuple(as_site(model, like) for like in sites)
        self.n_heads = n_heads
        self.batch_size = batch_size

    def __repr__(self) -> str:
        own, name = type(self).__name__, type(self.model).__name__
        layers = f", sites={[str(site) for site in self.sites]}" if self.sites else ""
        return f"{own}({name}{layers}, n_heads={self.n_heads}, batch_size={self.batch_size})"

    def patch(
        self,
        clean_input: Any,
        corrupted_input: Any,
        patches: Layer | Iterable[Layer] | Mapping[Layer, Any] | None,
        metric: Metric | None = None,
    ) -> PatchResult:
        """Run the corrupted input with activations of the clean run at all given sites.

        Args:
            clean_input: Where the activations come from.
            corrupted_input: What is run with them.
            patches: A layer, several layers, or layer -> tensor index (None for the whole value):
                sites, or numbers into the patcher's own sites. None patches all of these together.
            metric: Function of an output, one value per row or a scalar.

        Returns:
            The patched output; with a metric also its three values and the recovery.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site was not reached.
            ValueError: When there is no such layer, the shapes of the two runs differ at a site, or
                clean and corrupted do not differ in the metric.

        Examples:
            >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
            >>> _ = nn.init.ones_(net[1].weight)
            >>> clean, corrupted = torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)
            >>> patcher = ActivationPatcher(net)
            >>> patcher.patch(clean, corrupted, {"0": (..., 0)}, lambda y: y[:, 0]).recovery
            0.75
        """
        found = self._sites(patches)
        clean, cache = self._run(clean_input, capture=found)
        edits: dict[SiteLike, Edit] = {s: _transplant(s, cache.calls(s)) for s in found}
        output, _ = self._run(corrupted_input, edits=edits)
        if metric is None:
            return PatchResult(output)
        corrupted, _ = self._run(corrupted_input)
        high, low, middle = (measured(metric, out) for out in (clean, corrupted, output))
        return PatchResult(output, high, low, middle, recovery(high, low, middle))

    def patch_layer(
        self, layer_name: Layer, source_input: Any, target_input: Any, index: Any = None
    ) -> Any:
        """Run the target input with one activation of the source run.

        Args:
            layer_name: The site, or the number of one of the patcher's own sites.
            source_input: Where the activation comes from.
            target_input: What is run with it.
            index: Tensor index over the site's value; None patches all of it.

        Returns:
            Output of the patched run.

        Raises:
            KeyError: When the path names no module.
            RuntimeError: When the site was not reached.
            ValueError: When there is no such layer or the two runs differ in shape there.

        Examples:
            >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
            >>> source, target = torch.ones(1, 2), torch.zeros(1, 2)
            >>> ActivationPatcher(net).patch_layer("0", source, target, index=(..., 1))
            tensor([[0., 1.]])
        """
        (site,) = self._sites([layer_name])
        chosen = site if index is None else replace(site, index=index)
        return self.patch(source_input, target_input, [chosen]).output

    def systematic_patching(  # noqa: PLR0917 - the order is part of the documented interface
        self,
        layers: Layer | Iterable[Layer] | None,
        source_inputs: Any,
        target_inputs: Any,
        metric: Metric | None = None,
        positions: Iterable[int] | None = None,
        neurons: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
    ) -> "pd.DataFrame":
        """Patch every layer, or every position, neuron or head of every layer, one at a time.

        All patches run as rows of few forwards (`run_batched`), without gradient.

        Args:
            layers: Sites, or numbers into the patcher's own sites; None takes all of these.
            source_inputs: Where the activations come from (the clean run).
            target_inputs: What is run with them (the corrupted run).
            metric: Function of an output, one value per row or a scalar.
            positions: Indices of dimension 1 (time) to patch separately.
            neurons: Indices of the last dimension to patch separately.
            heads: Parts of the last dimension to patch separately; needs `n_heads`.

        Returns:
            With a metric: one row per patch with the columns layer, those of position, neuron and
            head that were asked for, value (the metric), effect (value minus the metric of the
            target run) and recovery. Without: rows are the patches, columns the dimensions of
            the output, values the patched minus the target output, averaged over the batch.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site was not reached.
            ValueError: When there is no layer, the shapes of the two runs differ at a site, clean
                and corrupted do not differ in the metric, `heads` comes with `neurons` or without
                `n_heads`, or a site that is to be divided has an index already.

        Examples:
            >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
            >>> _ = nn.init.ones_(net[1].weight)
            >>> clean, corrupted = torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)
            >>> table = ActivationPatcher(net).systematic_patching(
            ...     ["0"], clean, corrupted, lambda y: y[:, 0], neurons=[0, 1]
            ... )
            >>> table["recovery"].tolist()
            [0.75, 0.25]
        """
        parts = Parts(positions, neurons, heads, self.n_heads)
        sites = [self._divided(site, parts) for site in self._sites(layers)]
        with torch.no_grad():
            source, cache = self._run(source_inputs, capture=sites)
            labels: list[dict[str, Any]] = []
            # The set without edits is the target run itself; it comes out first.
            edit_sets: list[dict[SiteLike, Edit]] = [{}]
            for site in sites:
                name, calls = str(site), cache.calls(site)
                for label, part in parts.of(site, calls[0]):
                    labels.append({"layer": name, **label})
                    edit_sets.append({site: _transplant(site, calls, part)})
            measure = None if metric is None else partial(measured, metric)
            found = stream_batched(
                self.model, target_inputs, edit_sets, batch_size=self.batch_size, measure=measure
            )
            if metric is None:
                return difference_table(labels, found)
            clean = mean_value(measured(metric, source))
            values = _means(dict(found))
        return metric_table(labels, values, clean)

    def _divided(self, site: Site, _parts: Parts) -> Site:
        """Where the parts of a layer are to be found."""
        return site

    def _sites(self, given: Layer | Iterable[Layer] | Mapping[Layer, Any] | None) -> list[Site]:
        if given is None:
            found = list(self.sites)
        elif isinstance(given, Mapping):
            pairs = [(self._site(like), index) for like, index in given.items()]
            found = [s if index is None else replace(s, index=index) for s, index in pairs]
        elif isinstance(given, (str, int, Site, nn.Module)):
            found = [self._site(given)]
        else:
            found = [self._site(like) for like in given]
        if not found:
            raise ValueError("at least one site is needed to patch, got none")
        return found

    def _site(self, layer: Layer) -> Site:
        if not isinstance(layer, int):
            return as_site(self.model, layer)
        if not -len(self.sites) <= layer < len(self.sites):
            raise ValueError(
                f"layer {layer} does not exist: this {type(self).__name__} has {len(self.sites)} "
                "sites of its own; give them with sites=[...]"
            )
        return self.sites[layer]

    def _run(
        self,
        inputs: Any,
        *,
        edits: Mapping[SiteLike, Edit] | None = None,
        capture: Sequence[SiteLike] = (),
    ) -> tuple[Any, ActivationCache]:
        args, kwargs = call_arguments(self.model, inputs)
        with preserved(self.model), intervene(self.model, edits, capture=capture) as cache:
            return self.model(*args, **kwargs), cache


def _transplant(site: Site, calls: Sequence[Tensor], part: Any = None) -> Transplant:
    """Edit that puts the activations of another run, or a part of them, back at their site."""
    # With `@call`, the one captured value belongs to whatever number the call has.
    return Transplant(calls, part, fixed=site.call is not None)


def _means(values: Mapping[int, Tensor]) -> dict[int, float]:
    """Mean of each value, with one reduction for all where they are alike."""
    if len({value.shape for value in values.values()}) > 1:
        return {k: mean_value(value) for k, value in values.items()}
    rows = torch.stack([*values.values()]).detach().double()
    return dict(zip(values, rows.reshape(len(rows), -1).mean(1).tolist(), strict=True))
