r"""Spectral dimension of a graph: how fast a random walk forgets where it started."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import deliver, read_signals, warn_degenerate

__all__ = ["diffusion_slope", "read_weights", "spectral_dimension"]

# Below three steps of the walk the curve shows the degree of the nodes, not the shape of the
# graph; beyond a tenth of the relaxation time 1 / lambda_2 it shows that the graph is finite.
_SHORTEST = 3.0
_SHARE_OF_RELAXATION = 0.1
_N_TIMES = 32


def spectral_dimension(
    adjacency: Tensor | NDArray[Any], times: Tensor | NDArray[Any] | None = None
) -> Any:
    r"""Estimate the spectral dimension of weighted graphs from their heat kernel.

    $$d_s = -2 \frac{d \ln P(t)}{d \ln t}, \qquad P(t) = \frac1N \sum_i e^{-\lambda_i t}$$

    with the eigenvalues of the normalised Laplacian of $(A + A^\top) / 2$, and the slope by least
    squares. It is the dimension that diffusion sees: $d_s = 2 d_f / d_w$, which differs from the
    box dimension $d_f$ wherever the walk is anomalous ($d_w \ne 2$). Weights on the diagonal are
    steps that stay. The gradient is exact, and finite where eigenvalues coincide.

    Args:
        adjacency: `(..., node, node)`, finite and not negative, such as attention weights.
        times: `(time,)`, at least two different positive diffusion times; None takes 32, evenly
            in their logarithm, between 3 and $0.1 / \lambda_2$ ($\lambda_2$: the smallest
            eigenvalue above zero), and at least an octave. The gradient includes that the range
            moves with the graph. Dense attention mixes within a few steps, so that
            $0.1 / \lambda_2 < 3$ and there is no range of scales: the value orders such graphs,
            but is the dimension of none.

    Returns:
        The dimension, of the shape of `adjacency` without its last two axes. A graph without
        edges gives nan and one warning.

    Raises:
        ValueError: if `adjacency` is not square, not finite or negative somewhere, or `times`
            are not two positive numbers or more.
        TypeError: if `adjacency` is not a real tensor or array.

    Examples:
        >>> ring = torch.eye(200).roll(1, 0)
        >>> round(spectral_dimension(ring).item(), 1)
        1.0

    References:
        Alexander & Orbach (1982). Density of states on fractals: fractons. Journal de Physique
        Lettres 43. https://doi.org/10.1051/jphyslet:019820043017062500
        Burioni & Cassi (2005). Random walks on graphs: ideas, techniques and results. Journal of
        Physics A 38. https://doi.org/10.1088/0305-4470/38/8/R01
    """
    signals = read_signals(adjacency, -1, name="adjacency")
    weights = read_weights(signals.view, signals.dtype, "adjacency")
    at = None if times is None else _read_times(times).to(weights)
    with torch.autocast(weights.device.type, enabled=False):
        slope, usable = diffusion_slope(weights, at)
    warn_degenerate(~usable, "have no edges")
    return deliver(signals, torch.where(usable, -2 * slope, math.nan))


def read_weights(matrix: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Refuse what is not a stack of weighted graphs.

    Args:
        matrix: `(..., node, node)`.
        dtype: to compute in.
        name: what the caller's argument is called.

    Returns:
        The matrices in that dtype.

    Raises:
        ValueError: if they are not square, not finite or negative somewhere.

    Examples:
        >>> read_weights(torch.eye(2), torch.float64, "attention").dtype
        torch.float64
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] < 2:
        raise ValueError(
            f"{name} needs shape (..., node, node) with at least 2 nodes, got {tuple(matrix.shape)}"
        )
    bad = ~torch.isfinite(matrix.detach()).flatten(-2).all(-1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {int(bad.sum())} of {bad.numel()} items"
        )
    if bool((matrix.detach() < 0).any()):
        raise ValueError(f"{name} must not be negative; take its absolute value first")
    return matrix.to(dtype)


def _read_times(times: Tensor | NDArray[Any]) -> Tensor:
    at = torch.as_tensor(times).detach()
    positive = bool(((at > 0) & torch.isfinite(at)).all())
    if at.ndim != 1 or not positive or at.numel() < 2 or bool((at == at[0]).all()):
        raise ValueError(
            f"times needs at least 2 different positive numbers in one axis, got {at.tolist()}"
        )
    return at


def diffusion_slope(
    weights: Float[Tensor, "*batch node node"], times: Float[Tensor, " time"] | None
) -> tuple[Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """Fit d ln P / d ln t by least squares.

    Args:
        weights: what `read_weights` returned.
        times: where; None for the range that the spectrum offers, with its gradient.

    Returns:
        The slope, and False for graphs without edges.

    Examples:
        >>> slope, usable = diffusion_slope(torch.ones(2, 2), torch.tensor([1.0, 2.0]))
        >>> usable.item()
        True
    """
    eigenvalues = _walk_spectrum(weights)
    at = _default_times(eigenvalues) if times is None else times
    # The sum over e^{-lambda t} never underflows: lambda_1 is 0.
    log_p = torch.logsumexp(-eigenvalues[..., None, :] * at[..., :, None], dim=-1)
    log_t = at.log()
    offset = log_t - log_t.mean(-1, keepdim=True)
    slope = (offset * log_p).sum(-1) / offset.square().sum(-1)
    return slope, (weights.detach() != 0).flatten(-2).any(-1)


def _walk_spectrum(weights: Float[Tensor, "*batch node node"]) -> Float[Tensor, "*batch node"]:
    """Eigenvalues of I - D^{-1/2} W D^{-1/2} in rising order; 0 for an isolated node."""
    # In units of the largest weight the degrees of tiny weights do not underflow.
    largest = weights.detach().amax((-2, -1), keepdim=True)
    unit = weights / torch.where(largest > 0, largest, 1.0)
    W = (unit + unit.mT) / 2
    degree = W.sum(-1)
    linked = degree > 0
    root = torch.where(linked, degree, 1.0).rsqrt()
    laplacian = torch.diag_embed(linked.to(W)) - root[..., :, None] * W * root[..., None, :]
    # Only a gradient of eigenvectors divides by differences of eigenvalues: this one is finite.
    spectrum: Tensor = torch.linalg.eigvalsh(laplacian)
    return spectrum


def _default_times(eigenvalues: Float[Tensor, "*batch node"]) -> Float[Tensor, "*batch time"]:
    # Not detached: without the gradient of the range, descent on dense attention climbs (from a
    # loss of 0.26 to 0.37 for a target of 2 on 64 x 64 random scores; with it, to 1e-10).
    # Rounding leaves the zero of each component a few last digits.
    zero = eigenvalues <= 16 * torch.finfo(eigenvalues.dtype).eps
    gap = torch.where(zero, math.inf, eigenvalues).amin(-1, keepdim=True)
    horizon = _SHARE_OF_RELAXATION / gap.clamp(min=torch.finfo(gap.dtype).tiny)
    # A graph without edges has no relaxation; any range does.
    horizon = torch.where(horizon > 0, horizon, _SHORTEST)
    # Where the walk relaxes within a few steps, what lies after is the size of the graph alone:
    # the range then lies before. Never less than an octave, and no jump between the two.
    first = horizon.clamp(max=_SHORTEST)
    last = torch.maximum(horizon.clamp(min=_SHORTEST), 2 * first)
    steps = torch.linspace(0, 1, _N_TIMES, dtype=gap.dtype, device=gap.device)
    return first * (last / first) ** steps
