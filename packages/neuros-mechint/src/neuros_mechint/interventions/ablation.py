"""Ablation: what a metric loses without a neuron, a layer or a component."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import nn

from neuros_mechint.activations import Site, SiteLike
from neuros_mechint.activations.site import as_site, find_module
from neuros_mechint.interventions._ablation_engine import AblationResult, Ablator
from neuros_mechint.interventions._ablation_study import AblationStudy, AblationTable
from neuros_mechint.interventions._units import (
    COMPONENTS,
    component_sites,
    head_site,
    unit_index,
)
from neuros_mechint.interventions.metrics import Metric

__all__ = [
    "AblationResult",
    "AblationStudy",
    "AblationTable",
    "ComponentAblation",
    "LayerAblation",
    "NeuronAblation",
]


class LayerAblation(Ablator):
    r"""Remove the output (or input) of a layer and measure what a metric loses.

    | kind | what takes the activation's place |
    | --- | --- |
    | `zero` | 0 |
    | `mean` | its mean over the batch and positions of a reference run, per unit |
    | `identity` | the input of the same module, as if the layer were skipped |
    | `resample` | the activations of other rows of a reference run, in one drawn order |

    The model is used in the mode it is in, without gradient, and left as it was, buffers included.

    Args:
        model: Any module.
        unit_axis: Axis of the units of an activation, which a mean is not taken over: -1 for
            (batch, time, unit), 1 for convolutions.
        generator: Source of the order of `kind="resample"`, on the CPU.
        batch_size: Most rows in one forward.

    Raises:
        ValueError: When `batch_size` is not positive.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[1].weight)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> result = LayerAblation(net).ablate(x, "0", lambda y: y[:, 0])
        >>> result.baseline, result.ablated, result.relative_change
        (5.0, 0.0, -1.0)

    References:
        Meyes, R., Lu, M., de Puiseau, C. W. & Meisen, T. (2019). Ablation studies in artificial
        neural networks. arXiv. doi:10.48550/arXiv.1901.08644
    """

    def ablate(
        self,
        inputs: Any,
        target: SiteLike,
        metric: Metric,
        kind: str = "zero",
        reference: Any = None,
    ) -> AblationResult:
        """Ablate one site.

        Args:
            inputs: What the model runs on: a tuple of positional arguments, a mapping whose every
                key names a parameter of the forward, or else the one argument.
            target: The site; an index in it confines the ablation to that part.
            metric: Function of an output, one value per row or a scalar.
            kind: What takes the activation's place, see above.
            reference: Inputs of the run that gives means or rows; None takes `inputs`.

        Returns:
            The metric with and without the target, averaged over rows.

        Raises:
            KeyError: When the path names no module.
            RuntimeError: When the site was not reached.
            TypeError: When the metric returns no tensor.
            ValueError: When the kind is unknown, lacks its generator or rows, or does not fit the
                module (`identity` needs an output like the input).

        Examples:
            >>> import torch
            >>> net = nn.Sequential(nn.Identity(), nn.Identity())
            >>> x, other = torch.ones(1, 2), torch.tensor([[2.0, 0.0], [4.0, 0.0]])
            >>> LayerAblation(net).ablate(x, "0", lambda y: y.sum(-1), "mean", other).ablated
            3.0
        """
        site = as_site(self.model, target)
        return self._ablate_together(inputs, [site], metric, kind=kind, reference=reference)


class NeuronAblation(Ablator):
    """Remove single units of a layer and measure what a metric loses.

    The kinds and the arguments are those of `LayerAblation`.

    Args:
        model: Any module.
        unit_axis: Axis of the units of an activation: -1 for (batch, time, unit), 1 for
            convolutions.
        generator: Source of the order of `kind="resample"`, on the CPU.
        batch_size: Most rows in one forward.

    Raises:
        ValueError: When `batch_size` is not positive.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[1].weight)
        >>> x = torch.tensor([[1.0, 3.0]])
        >>> NeuronAblation(net).ablate(x, ("0", 1), lambda y: y[:, 0]).delta
        -3.0

    References:
        Morcos, A. S., Barrett, D. G. T., Rabinowitz, N. C. & Botvinick, M. (2018). On the
        importance of single directions for generalization. ICLR. doi:10.48550/arXiv.1803.06959
    """

    def __repr__(self) -> str:
        return f"NeuronAblation({type(self.model).__name__}, unit_axis={self.unit_axis})"

    def ablate(
        self,
        inputs: Any,
        target: tuple[SiteLike, int | Iterable[int]] | SiteLike,
        metric: Metric,
        kind: str = "zero",
        reference: Any = None,
    ) -> AblationResult:
        """Ablate one unit, or several together.

        Args:
            inputs: What the model runs on, as in `LayerAblation.ablate`.
            target: `(site, unit)` or `(site, units)`, or a site with an index.
            metric: Function of an output, one value per row or a scalar.
            kind: What takes the units' place, see `LayerAblation`.
            reference: Inputs of the run that gives means or rows; None takes `inputs`.

        Returns:
            The metric with and without the units, averaged over rows.

        Raises:
            IndexError: When the layer has no such unit.
            KeyError: When the path names no module.
            RuntimeError: When the site was not reached.
            TypeError: When the metric returns no tensor.
            ValueError: When no unit is named, or for the reasons of `LayerAblation.ablate`.

        Examples:
            >>> import torch
            >>> net = nn.Sequential(nn.Identity(), nn.Identity())
            >>> ablation, x = NeuronAblation(net), torch.tensor([[1.0, 3.0, 5.0]])
            >>> ablation.ablate(x, ("0", [0, 2]), lambda y: y.sum(-1)).ablated
            3.0
        """
        if isinstance(target, tuple):
            like, units = target
            site = unit_index(as_site(self.model, like), units, self.unit_axis)
        else:
            site = as_site(self.model, target)
        if site.index is None:
            raise ValueError(
                f"NeuronAblation needs units of '{site}', such as ('{site}', 3); "
                "LayerAblation removes all of them"
            )
        return self._ablate_together(inputs, [site], metric, kind=kind, reference=reference)


@dataclass(eq=False, repr=False)
class ComponentAblation(Ablator):
    """Remove a component of a network (an attention, an MLP, a group of sites) in one go.

    Without `component` the target is a site, or several sites that are removed together. With it
    the target is the path of a block (or `""`, the whole model), and what is removed there is found
    by the structure of the model: every attention, MLP, embedding or norm at or below that path.
    For `"head"` the target is `(path, head)` or `(path, heads)`, and what those heads hand to the
    projection of their attention is removed.

    Args:
        model: Any module.
        component: `"attention"`, `"mlp"`, `"embedding"`, `"norm"` or `"head"`; None takes sites as
            given.
        n_heads: Number of heads of an attention; None reads it from the model.
        unit_axis: Axis of the units of an activation, which a mean is not taken over.
        generator: Source of the order of `kind="resample"`, on the CPU.
        batch_size: Most rows in one forward.

    Raises:
        ValueError: When `batch_size` is not positive.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[2].weight)
        >>> x = torch.tensor([[1.0, 3.0]])
        >>> ComponentAblation(net).ablate(x, ["0[:, 0]", "1[:, 1]"], lambda y: y[:, 0]).ablated
        0.0
    """

    _: KW_ONLY
    component: str | None = None
    n_heads: int | None = None

    def __post_init__(self) -> None:
        if self.component not in {None, *COMPONENTS}:
            names = ", ".join(COMPONENTS)
            raise ValueError(f"component needs one of {names} or None, got {self.component!r}")
        super().__post_init__()

    def __repr__(self) -> str:
        return f"ComponentAblation({type(self.model).__name__}, component={self.component!r})"

    def ablate(
        self,
        inputs: Any,
        target: SiteLike | Iterable[SiteLike] | tuple[str, int | Iterable[int]],
        metric: Metric,
        kind: str = "zero",
        reference: Any = None,
    ) -> AblationResult:
        """Ablate one component.

        Args:
            inputs: What the model runs on, as in `LayerAblation.ablate`.
            target: What the component is or where it lies, see above.
            metric: Function of an output, one value per row or a scalar.
            kind: What takes the component's place, see `LayerAblation`.
            reference: Inputs of the run that gives means or rows; None takes `inputs`.

        Returns:
            The metric with and without the component, averaged over rows.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site was not reached.
            TypeError: When the metric returns no tensor, or a component lies in no path.
            ValueError: When the model has no such component or head, or for the reasons of
                `LayerAblation.ablate`.

        Examples:
            >>> import torch
            >>> net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4, bias=False))
            >>> x = torch.ones(1, 3)
            >>> result = ComponentAblation(net).ablate(x, ["0", "1"], lambda y: y.abs().sum(-1))
            >>> result.name, result.ablated
            ('0 + 1', 0.0)
        """
        sites = self._sites(target)
        return self._ablate_together(inputs, sites, metric, kind=kind, reference=reference)

    def _sites(self, target: Any) -> list[Site]:
        if self.component is None:
            several = not isinstance(target, (str, Site, nn.Module))
            sites = [as_site(self.model, like) for like in (target if several else [target])]
            if not sites:
                raise ValueError("at least one site is needed to ablate, got none")
            return sites
        heads = None
        if self.component == "head" and isinstance(target, tuple):
            target, heads = target
        site = as_site(self.model, target)
        find_module(self.model, site)
        if heads is not None:
            return [head_site(self.model, site.path, heads, self.n_heads)]
        return component_sites(self.model, self.component, site.path)
