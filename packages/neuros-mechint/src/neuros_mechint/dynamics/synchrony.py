"""Synchrony of oscillators."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, as_real

__all__ = ["KuramotoOrder", "KuramotoResult"]


@dataclass(frozen=True, eq=False)
class KuramotoResult:
    """Order of a population over time.

    Attributes:
        order: R from 0 to 1, (..., time).
        mean_phase: Phase of the population in (-pi, pi], (..., time).
        synchrony: Mean of R over time, (...).
        metastability: Variance of R over time, (...).
    """

    order: Tensor
    mean_phase: Tensor
    synchrony: Tensor
    metastability: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.

        Examples:
            >>> KuramotoOrder().compute(torch.zeros(2, 3)).to_dict()["synchrony"]
            1.0
        """
        return {name: value.tolist() for name, value in vars(self).items()}


class KuramotoOrder:
    r"""Order parameter $R e^{i \psi} = \frac{1}{N} \sum_k e^{i \theta_k}$ of phases.

    Examples:
        >>> apart = torch.tensor([[0.0, torch.pi], [0.0, 0.0]])
        >>> KuramotoOrder().compute(apart).order.round(decimals=4)
        tensor([0., 1.])

    References:
        Kuramoto, Y. (1984). Chemical oscillations, waves, and turbulence. Springer.
        doi:10.1007/978-3-642-69689-3

        Shanahan, M. (2010). Metastable chimera states in community-structured oscillator networks.
        Chaos 20, 013108. doi:10.1063/1.3305451
    """

    def __repr__(self) -> str:
        return "KuramotoOrder()"

    def compute(self, phases: Array) -> KuramotoResult:
        """Measure the order of a population.

        Args:
            phases: Phases in radians, (..., time, units).

        Returns:
            Order and mean phase over time, their synchrony and metastability.

        Raises:
            TypeError: When the phases are not a real tensor or array.
            ValueError: When an axis is missing, or they hold NaN or inf.
        """
        theta = as_real("phases", phases, axes=("time", "units"), at_least=(1, 1))
        mean = torch.polar(torch.ones_like(theta), theta).mean(-1)
        order = mean.abs()
        return KuramotoResult(order, mean.angle(), order.mean(-1), order.var(-1, correction=0))
