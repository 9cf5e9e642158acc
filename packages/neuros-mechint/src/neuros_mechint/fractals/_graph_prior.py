r"""A training objective that pulls the dimension of attention towards a target."""

import math
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.fractals._conventions import read_signals
from neuros_mechint.fractals._graph_correlation import correlation_slope
from neuros_mechint.fractals._graph_spectrum import diffusion_slope, read_weights
from neuros_mechint.fractals._spectral_options import check_choice

__all__ = ["GraphFractalityPrior"]

_Surrogate = Literal["spectral", "correlation"]
_Reduction = Literal["mean", "none"]
_N_SCALES = 32


class GraphFractalityPrior(nn.Module):
    r"""Pull the dimension of attention graphs towards a target.

    $$\mathcal{L} = w \,\overline{(\hat d - d^*)^2}$$

    A number of boxes is piecewise constant and has no gradient, so $\hat d$ is one of two
    dimensions that have one, of the graph with weights $(A + A^\top) / 2$:

    - `"spectral"`: $d_s = -2\, d \ln P / d \ln t$ of the heat kernel, as `spectral_dimension`
      computes it: what diffusion sees.
    - `"correlation"`: the slope of $\ln C(r)$ against $\ln r$, with
      $C(r) = \overline{\sigma((\ln r - \ln d_{ij}) / s)}$ over all pairs, $s = 1/10$, and $d_{ij}$
      the shortest path over edges of length $-\ln(a_{ij} / \max a)$: attention that falls off as
      $e^{-|x_i - x_j|}$ has the dimension of the points $x$.

    Neither is the box dimension in general ($d_s = 2 d_f / d_w$). Gradients are exact, that of the
    range of the fit included, and finite where eigenvalues coincide. A graph without scales (no
    edges; for `"correlation"` also all nodes at distance 0) adds 0 and receives no gradient. Half
    precision and autocast are computed in float32.

    Args:
        target_dim: dimension to reach.
        weight: factor of the penalty; 0 returns 0 without computing anything.
        surrogate: as above.
        t_range: smallest and largest diffusion time, or radius for `"correlation"`. None takes
            what the graph offers: times between 3 and $0.1 / \lambda_2$, radii from the 5th to
            the 25th percentile of the distances, and at least an octave.
        reduction: `"mean"` gives a scalar; `"none"` the penalty of each graph.

    Raises:
        ValueError: if an option is unknown or out of range.

    Examples:
        >>> ring = torch.eye(200).roll(1, 0)
        >>> round(GraphFractalityPrior(target_dim=3.0, weight=1.0)(ring).item(), 1)
        3.9
        >>> GraphFractalityPrior(weight=0.0)(ring)
        tensor(0.)

    References:
        Alexander & Orbach (1982). Density of states on fractals: fractons. Journal de Physique
        Lettres 43. https://doi.org/10.1051/jphyslet:019820043017062500
        Grassberger & Procaccia (1983). Characterization of strange attractors. Physical Review
        Letters 50. https://doi.org/10.1103/PhysRevLett.50.346
    """

    name: ClassVar[str] = "graph_fractality_prior"
    reads: ClassVar[str] = "attention"

    def __init__(
        self,
        *,
        target_dim: float = 2.0,
        weight: float = 0.01,
        surrogate: _Surrogate = "spectral",
        t_range: tuple[float, float] | None = None,
        reduction: _Reduction = "mean",
    ) -> None:
        super().__init__()
        check_choice("surrogate", surrogate, _Surrogate)
        check_choice("reduction", reduction, _Reduction)
        if not math.isfinite(target_dim):
            raise ValueError(f"target_dim must be finite, got {target_dim}")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight must be finite and at least 0, got {weight}")
        if t_range is not None and not 0 < t_range[0] < t_range[1] < math.inf:
            raise ValueError(f"t_range must satisfy 0 < low < high, got {t_range}")
        self.target_dim = target_dim
        self.weight = weight
        self.surrogate = surrogate
        self.t_range = t_range
        self.reduction = reduction

    def extra_repr(self) -> str:
        """Return the options, as the constructor takes them.

        Returns:
            Comma-separated assignments.

        Examples:
            >>> GraphFractalityPrior(weight=0.1).extra_repr()[:27]
            'target_dim=2.0, weight=0.1,'
        """
        names = ("target_dim", "weight", "surrogate", "t_range", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, attention: Tensor) -> Tensor:
        r"""Weigh the distance of the graphs' dimensions from the target.

        Args:
            attention: `(..., node, node)`, finite and not negative.

        Returns:
            The weighted penalty: a scalar, or with `reduction="none"` the shape of `attention`
            without its last two axes.

        Raises:
            ValueError: if the attention is not square, not finite or negative somewhere.
            TypeError: if it is not a real tensor.

        Examples:
            >>> scores = torch.randn(2, 4, 16, 16)
            >>> GraphFractalityPrior(reduction="none")(scores.softmax(-1)).shape
            torch.Size([2, 4])
        """
        if not isinstance(attention, Tensor):
            raise TypeError(f"attention must be a torch.Tensor, got {type(attention).__name__}")
        signals = read_signals(attention, -1, name="attention")
        if self.weight == 0:
            shape = attention.shape[:-2] if self.reduction == "none" else ()
            return attention.new_zeros(shape, dtype=signals.dtype)
        weights = read_weights(signals.view, signals.dtype, "attention")
        with torch.autocast(weights.device.type, enabled=False):
            dimension, usable = self._dimension(weights)
            penalty = torch.where(usable, self.weight * (dimension - self.target_dim).square(), 0.0)
            return penalty.mean() if self.reduction == "mean" else penalty

    def _dimension(
        self, weights: Float[Tensor, "*batch node node"]
    ) -> tuple[Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        scales = None
        if self.t_range is not None:
            low, high = map(math.log, self.t_range)
            scales = torch.linspace(
                low, high, _N_SCALES, dtype=weights.dtype, device=weights.device
            ).exp()
        if self.surrogate == "correlation":
            # A compiler would unroll its loop over nodes. Asked here and not by a decorator, which
            # loads the compiler with the module.
            disable: Any = torch.compiler.disable
            slope, usable = disable(correlation_slope)(weights, scales)
            return slope, usable
        slope, usable = diffusion_slope(weights, scales)
        return -2 * slope, usable
