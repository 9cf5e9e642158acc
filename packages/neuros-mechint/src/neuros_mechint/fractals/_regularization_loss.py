r"""Fractal objectives on latents and attention, added."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from neuros_mechint.fractals._prior_latents import read_latents

__all__ = ["FractalRegularizationLoss"]

_PARTS = ("spectral", "multifractal", "graph", "temporal")


class FractalRegularizationLoss(nn.Module):
    r"""Sum of fractal objectives, each with its own weight, and the parts beside it.

    A part is any module with an attribute `weight` that maps latents (`graph`: attention) to a
    scalar with its weight applied. One that is None or whose weight is 0 is neither computed nor
    among the parts. Parts are submodules: their parameters, such as those of
    `AdaptiveFractalPrior`, are trained and saved with this module.

    To add objectives to those of a `CombinedLoss` of neuros-neurofm, pass the parts themselves:
    each says in `reads` which output of the model it takes.

    Args:
        spectral: such as `SpectralPrior` or `AdaptiveFractalPrior`.
        multifractal: such as `MultifractalSmoothness`.
        graph: such as `GraphFractalityPrior`.
        temporal: such as `TemporalScaleInvariance`.

    Raises:
        TypeError: if a part is not a module, or has no weight.

    Examples:
        >>> from neuros_mechint.fractals import SpectralPrior, TemporalScaleInvariance
        >>> loss = FractalRegularizationLoss(
        ...     spectral=SpectralPrior(weight=0.1), temporal=TemporalScaleInvariance(weight=0.0)
        ... )
        >>> total, parts = loss(torch.randn(2, 64, 3))
        >>> list(parts), bool(total == parts["spectral"])
        (['spectral'], True)
    """

    name: ClassVar[str] = "fractal_regularization"

    def __init__(
        self,
        *,
        spectral: nn.Module | None = None,
        multifractal: nn.Module | None = None,
        graph: nn.Module | None = None,
        temporal: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, prior in zip(_PARTS, (spectral, multifractal, graph, temporal), strict=True):
            _check_part(name, prior)
            self.register_module(name, prior)

    def forward(
        self, latents: Tensor, attention: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the parts that are there.

        Args:
            latents: `(batch, time, channel)`, real, finite.
            attention: `(..., token, token)`, not negative; needed where `graph` has a weight.

        Returns:
            The sum, a scalar on the device of the latents, and the parts by name: they add to it.

        Raises:
            ValueError: if `graph` has a weight and there is no attention, a part is not a scalar,
                or a part refuses its input.
            TypeError: if the latents are not a real tensor.

        Examples:
            >>> FractalRegularizationLoss()(torch.randn(2, 64, 3))
            (tensor(0.), {})
        """
        signals = read_latents(latents)
        parts = {}
        for name in _PARTS:
            prior = getattr(self, name)
            if prior is None or prior.weight == 0:
                continue
            if name == "graph" and attention is None:
                raise ValueError(
                    "graph has a weight but there is no attention; pass attention, or build "
                    "the loss without graph"
                )
            part = prior(attention if name == "graph" else latents)
            if part.ndim != 0:
                raise ValueError(
                    f"{name} must return a scalar, got shape {tuple(part.shape)}; build it with "
                    f"reduction='mean'"
                )
            parts[name] = part
        total = sum(
            (part.to(signals.view.device) for part in parts.values()),
            start=torch.zeros((), dtype=signals.dtype, device=signals.view.device),
        )
        return total, parts


def _check_part(name: str, prior: object) -> None:
    if prior is None or (isinstance(prior, nn.Module) and hasattr(prior, "weight")):
        return
    raise TypeError(
        f"{name} must be a torch.nn.Module with a weight, such as SpectralPrior(), "
        f"got {type(prior).__name__}"
    )
