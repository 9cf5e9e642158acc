"""Ablations as edits, and their effect on a metric, many targets in few forwards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Edit, EditContext, Site, SiteLike, intervene
from neuros_mechint.activations._editing import ContextEdit, fitted
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations._taps import indexed
from neuros_mechint.activations.batched import stream_batched
from neuros_mechint.interventions.metrics import Metric, mean_value, measured

__all__ = [
    "KINDS",
    "AblationResult",
    "Ablator",
    "Target",
    "unit_position",
]

KINDS = ("zero", "mean", "identity", "resample")


class AblationResult(NamedTuple):
    r"""Effect of one ablation on a metric, averaged over rows.

    Attributes:
        name: What was ablated.
        baseline: Metric of the intact model.
        ablated: Metric of the model without it.
        delta: `ablated - baseline`.
        relative_change: $\Delta / |M_{baseline}|$; NaN where the baseline is 0, because no change
            is a share of nothing.

    Examples:
        >>> AblationResult.compare("0", baseline=4.0, ablated=3.0)
        AblationResult(name='0', baseline=4.0, ablated=3.0, delta=-1.0, relative_change=-0.25)
    """

    name: str
    baseline: float
    ablated: float
    delta: float
    relative_change: float

    @classmethod
    def compare(cls, name: str, *, baseline: float, ablated: float) -> "AblationResult":
        """Derive the differences from two values of the metric.

        Args:
            name: What was ablated.
            baseline: Metric of the intact model.
            ablated: Metric of the model without it.

        Returns:
            The result.

        Examples:
            >>> AblationResult.compare("0", baseline=0.0, ablated=1.0).relative_change
            nan
        """
        delta = ablated - baseline
        relative = delta / abs(baseline) if baseline else float("nan")
        return cls(name, baseline, ablated, delta, relative)


@dataclass(frozen=True)
class Target:
    """What one ablation removes: one or more sites, together."""

    name: str
    sites: tuple[Site, ...]


@dataclass(eq=False, repr=False)
class Ablator:
    """What all ablations share: a model, how its activations lie, and where drawing comes from."""

    model: nn.Module
    _: KW_ONLY
    unit_axis: int = -1
    generator: torch.Generator | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size needs at least 1 row, got {self.batch_size}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"

    def _ablate(
        self, inputs: Any, targets: Sequence[Target], metric: Metric, *, kind: str, reference: Any
    ) -> list[AblationResult]:
        """Ablate each target on its own, as rows of few forwards, without gradient."""
        if kind not in KINDS:
            raise ValueError(f"kind needs one of {', '.join(KINDS)}, got {kind!r}")
        if not targets:
            return []
        with torch.no_grad():
            fills = _Fills(self, inputs if reference is None else reference, kind)
            fills.prepare(site for target in targets for site in target.sites)
            # The set without edits is the intact model; it comes out first.
            edit_sets: list[Mapping[SiteLike, Edit]] = [{}]
            edit_sets += [fills.edits(target) for target in targets]
            outputs = stream_batched(self.model, inputs, edit_sets, batch_size=self.batch_size)
            values = {k: mean_value(measured(metric, output)) for k, output in outputs}
        return [
            AblationResult.compare(target.name, baseline=values[0], ablated=values[k])
            for k, target in enumerate(targets, start=1)
        ]

    def _ablate_together(
        self, inputs: Any, sites: Sequence[Site], metric: Metric, *, kind: str, reference: Any
    ) -> AblationResult:
        """Ablate some sites in one go."""
        target = Target(" + ".join(map(str, sites)), tuple(sites))
        return self._ablate(inputs, [target], metric, kind=kind, reference=reference)[0]


@dataclass
class _Fills:
    """Makes the edits of one kind of ablation."""

    ablator: Ablator
    reference: Any
    kind: str
    _calls: dict[Site, tuple[Tensor, ...]] = field(default_factory=dict)
    _orders: dict[int, Tensor] = field(default_factory=dict)

    def prepare(self, sites: Iterable[Site]) -> None:
        """Capture the reference activations of all sites from one forward."""
        if self.kind == "resample" and self.ablator.generator is None:
            raise ValueError(
                "kind='resample' draws rows and needs a generator; pass generator= at construction"
            )
        if self.kind not in {"mean", "resample"}:
            return
        places = dict.fromkeys(_whole(site) for site in sites)
        model = self.ablator.model
        args, kwargs = call_arguments(model, self.reference)
        with preserved(model), intervene(model, capture=[*places]) as cache:
            model(*args, **kwargs)
        self._calls = {place: cache.calls(place) for place in places}

    def edits(self, target: Target) -> Mapping[SiteLike, Edit]:
        """Edits of one target; sites that differ only in their index share one."""
        places: dict[Site, list[Site]] = {}
        for site in target.sites:
            places.setdefault(_whole(site), []).append(site)
        edits: dict[SiteLike, Edit] = {}
        for place, parts in places.items():
            if self.kind == "identity":
                passed = _Passed(place)
                edits[passed.entry] = passed.remember
                edits[place] = _Within(parts, passed.recall)
            else:
                edits[place] = _Within(parts, self._fill(place))
        return edits

    def _fill(self, place: Site) -> ContextEdit:
        if self.kind == "zero":
            return _zero
        if self.kind == "mean":
            return _Constant(_mean_of(self._calls[place], self.ablator.unit_axis))
        return _DrawnRows(place, self._calls[place], self._orders, self.ablator.generator)


class _Within:
    """Fill the parts of a value that some sites name, and leave the rest."""

    def __init__(self, parts: Sequence[Site], fill: ContextEdit) -> None:
        self.parts, self.fill = parts, fill

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        filled = self.fill(value, context)
        changed = value.clone()
        for site in self.parts:
            changed[... if site.index is None else site.index] = indexed(site, filled)
        return changed


class _Passed:
    """Hand the input of a module to its output."""

    def __init__(self, place: Site) -> None:
        if place.io == "input":
            raise ValueError(
                f"kind='identity' replaces a module's output by its input, but '{place}' is an "
                "input already; take the output of the module, or another kind"
            )
        self.entry = Site(place.path, io="input", call=place.call)
        # A list, because a module may be called again before it returns.
        self._held: list[Tensor] = []

    def remember(self, value: Tensor, _context: EditContext) -> Tensor:
        """Keep what goes in: a copy, since the module may write into it."""
        self._held.append(value.clone())
        return value

    def recall(self, value: Tensor, context: EditContext) -> Tensor:
        """Return what went in."""
        entered = self._held.pop()
        if entered.shape != value.shape or entered.dtype != value.dtype:
            raise ValueError(
                f"kind='identity' needs a module whose input and output are alike, but "
                f"'{context.site}' takes {tuple(entered.shape)} ({entered.dtype}) and returns "
                f"{tuple(value.shape)} ({value.dtype}); take another kind"
            )
        return entered


class _Constant:
    """The same mean for every row and position."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        return fitted("the mean of reference", self.mean, value)


class _DrawnRows:
    """Rows of the reference in a drawn order, the same at every site and every call.

    Rows drawn anew at each site would mix several inputs within one ablation.
    """

    def __init__(
        self,
        place: Site,
        calls: Sequence[Tensor],
        orders: dict[int, Tensor],
        generator: torch.Generator | None,
    ) -> None:
        n_rows = calls[0].shape[0] if calls[0].ndim else 0
        if n_rows not in orders:
            orders[n_rows] = torch.randperm(n_rows, generator=generator)
        self.calls, self.order = calls, orders[n_rows]
        self.fixed = place.call is not None

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        call = 0 if self.fixed else context.call
        if call >= len(self.calls):
            raise ValueError(
                f"site '{context.site}' was reached {len(self.calls)} times for the reference and "
                "more often for the inputs"
            )
        rows = self.calls[call]
        n_needed = value.shape[0] if value.ndim else 0
        if not 0 < n_needed <= len(self.order):
            raise ValueError(
                f"kind='resample' needs a reference with at least the {n_needed} rows of the "
                f"activation at '{context.site}', got {len(self.order)}"
            )
        drawn = rows[self.order[:n_needed].to(rows.device)]
        return fitted("the rows of reference", drawn, value)


def _zero(value: Tensor, _context: EditContext) -> Tensor:
    return torch.zeros_like(value)


def _whole(site: Site) -> Site:
    return replace(site, index=None)


def _mean_of(calls: Sequence[Tensor], unit_axis: int) -> Tensor:
    """Mean over batch and positions of every call, with the axes averaged over kept as 1."""
    axes = [a for a in range(calls[0].ndim) if a != unit_position(calls[0], unit_axis)]
    # Half precision would lose the small rows of a long sum.
    wide = torch.promote_types(calls[0].dtype, torch.float32)
    total = torch.stack([call.to(wide).sum(dim=axes, keepdim=True) for call in calls]).sum(0)
    count = sum(call.numel() for call in calls) // total.numel()
    return (total / count).to(calls[0].dtype)


def unit_position(value: Tensor, unit_axis: int) -> int | None:
    """Axis of the units of an activation; None where it has no axis beside the batch.

    Raises:
        ValueError: When the activation has no such axis.
    """
    if value.ndim < 2:
        return None
    if not -value.ndim <= unit_axis < value.ndim:
        raise ValueError(
            f"unit_axis = {unit_axis} is no axis of an activation of shape {tuple(value.shape)}"
        )
    return unit_axis % value.ndim
