r"""Whittle's exponent of many spectra at little more than the price of their transform.

The likelihood of $S(f) = A f^{-\beta}$ asks for the sums $\sum_j P_j f_j^b (\ln f_j)^k$ at every
$b$ that a search visits. As a function of $\ln f$, $f^b$ is smooth: within a cell of $\ln f$ a
polynomial through a few nodes gives it to rounding. So the spectrum is first brought onto those
nodes, $Q_c = \sum_j P_j f_j^{b_0} \ell_c(\ln f_j)$, by one matrix product, and the search reads
some fifty numbers of a spectrum in place of thousands. The product is linear, hence the gradient
is that of the whole spectrum.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._power_law import Design, _whittle_moments, floored_log
from neuros_mechint.fractals._psd import Band

__all__ = ["REACH", "Condensation", "condensation_for", "fit_condensed"]

# Distance from the folded exponent within which nodes stand for the spectrum.
REACH = 4.0
_LARGEST_FOLD = 4.0
_WIDEST_CELL = 1.8
_N_START_CELLS = 12
_MAX_STEPS = 30


class Condensation(NamedTuple):
    r"""How a spectrum is brought onto nodes, and where the search for its exponent starts.

    Attributes:
        fold: $b_0$, the exponent that the product already applies.
        weights: product of power with these is $Q$ on the nodes, then the means of the start
            cells, then the mean of all bins as they are.
        nodes: design of the nodes, as `fit_whittle` has of its frequencies.
        line: product with the logarithm of the start cells is a first guess of $\beta - b_0$ ...
        offset: ... up to this bias of the logarithm of a mean of exponential variables.
    """

    fold: float
    weights: Float[Tensor, "freq column"]
    nodes: Design
    line: Float[Tensor, " cell"]
    offset: float


def condensation_for(
    band: Band,
    gain: Float[Tensor, " freq"],
    fold: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Condensation:
    """Prepare the nodes of one band; worth keeping from call to call.

    Args:
        band: the bins.
        gain: what the power of each bin is to be divided by.
        fold: exponent near which fits are expected.
        dtype: of the spectra.
        device: of the spectra.

    Returns:
        The condensation.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> band = select_band(4096, 1.0, (0.001, 0.4))
        >>> plan = condensation_for(band, band.sides, 1.0, torch.float32, torch.device("cpu"))
        >>> len(band.freqs), len(plan.nodes.log_freqs)
        (1634, 52)
    """
    log_freqs = band.freqs.log().numpy()
    centre = float(log_freqs.mean())
    z = log_freqs - centre
    # A larger one would leave single precision; what lies beyond is not fitted on nodes anyway.
    fold = max(-_LARGEST_FOLD, min(_LARGEST_FOLD, fold))
    nodes, basis = _nodes(z, float(torch.finfo(dtype).eps))
    cells, line, offset = _start(z)
    # Centred between the ends, so that neither overflows in single precision.
    folded = np.exp(fold * (z - (z[0] + z[-1]) / 2))[:, None]
    folded /= gain.cpu().numpy()[:, None]
    mean = np.full((len(z), 1), 1 / len(z))
    weights = np.concatenate([folded * basis, folded * cells, mean], axis=1)
    columns = np.stack([np.ones_like(nodes), nodes, nodes**2, nodes**3], axis=-1)
    made = (torch.from_numpy(a).to(device, dtype) for a in (weights, nodes, columns, line))
    weights_t, nodes_t, columns_t, line_t = made
    empty = nodes_t.new_zeros(0)
    design = Design(nodes_t, 0.0, columns_t, empty.view(0, 0), empty)
    return Condensation(fold, weights_t, design, line_t, offset)


def _nodes(z: NDArray[np.float64], eps: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes in ln f, and the Lagrange basis `(freq, node)` of each bin on those of its cell."""
    n_cells = math.ceil((z[-1] - z[0]) / _WIDEST_CELL)
    width = (z[-1] - z[0]) / n_cells
    order = _order(width, eps)
    cell = np.minimum(((z - z[0]) / width).astype(int), n_cells - 1)
    chebyshev = -np.cos((np.arange(order) + 0.5) * (np.pi / order))
    positions, blocks = [], []
    for k in range(n_cells):
        inside = z[cell == k]
        # A cell of few bins keeps them.
        nodes = inside
        if len(inside) > order:
            nodes = z[0] + width * (k + 0.5 + 0.5 * chebyshev)
        positions.append(nodes)
        blocks.append(_lagrange(nodes, inside))
    basis = np.zeros((len(z), sum(map(len, positions))))
    row = column = 0
    for block in blocks:
        basis[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return np.concatenate(positions), basis


def _order(width: float, eps: float) -> int:
    """Fewest nodes whose polynomial gives exp(REACH u) within 8 eps on a cell of this width."""
    order, error = 1, 2.0
    while error > 8 * eps:
        error = 2 * (REACH * width / 4) ** order / math.factorial(order)
        order += 1
    return order


def _lagrange(nodes: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value of each node's Lagrange polynomial (columns) at each point (rows)."""
    if len(nodes) == len(points):
        return np.eye(len(nodes))
    gaps = nodes[:, None] - nodes
    np.fill_diagonal(gaps, 1.0)
    others = ~np.eye(len(nodes), dtype=bool)
    ratios = (points[:, None, None] - nodes) / gaps
    product: NDArray[np.float64] = np.where(others, ratios, 1.0).prod(-1)
    return product


def _start(
    z: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Means of cells of equal width in ln f, and the efficient line through their logarithms."""
    edges = np.linspace(z[0], z[-1], _N_START_CELLS + 1)[1:-1]
    cells = np.eye(_N_START_CELLS)[np.digitize(z, edges)]
    cells = cells[:, cells.sum(0) > 0]
    count = cells.sum(0)
    position = (z @ cells) / count
    # The logarithm of a mean of n exponential variables has mean psi(n) - ln n and variance
    # psi'(n).
    shape = torch.from_numpy(count)
    weight = 1 / torch.special.polygamma(1, shape).numpy()
    bias = (torch.digamma(shape) - shape.log()).numpy()
    position -= (weight @ position) / weight.sum()
    line = -weight * position / (weight @ position**2)
    return cells / count, line, float(-bias @ line)


def fit_condensed(
    condensed: Float[Tensor, "fit column"], plan: Condensation
) -> tuple[Float[Tensor, " fit"], Bool[Tensor, " fit"]]:
    r"""Find the maximum-likelihood exponent of condensed spectra.

    Args:
        condensed: product of spectra with the plan's weights.
        plan: the condensation.

    Returns:
        $\beta$, and True where it can be trusted: the search ended within `REACH` of the fold.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> band = select_band(512, 1.0, (0.01, 0.4))
        >>> plan = condensation_for(
        ...     band, torch.ones(len(band.freqs)), 1.0, torch.float64, torch.device("cpu")
        ... )
        >>> beta, found = fit_condensed((band.freqs**-1.7)[None] @ plan.weights, plan)
        >>> round(beta.item(), 9), found.item()
        (1.7, True)
    """
    n_nodes = len(plan.nodes.log_freqs)
    spectrum = condensed[:, :n_nodes]
    reach = float(plan.nodes.log_freqs[-1] - plan.nodes.log_freqs[0])
    # Halley's step s leaves an error near (reach * s)**3 / 100, and the Newton step that follows
    # the square of that.
    small = (100 * torch.finfo(condensed.dtype).eps ** 0.5) ** (1 / 3) / reach
    with torch.no_grad():
        delta = floored_log(condensed[:, n_nodes:-1]) @ plan.line + plan.offset
        delta = delta.clamp(-REACH, REACH)
        for _ in range(_MAX_STEPS):
            slope, curvature, third, _ = _whittle_moments(spectrum, plan.nodes, delta)
            newton = slope / curvature
            damped = torch.sign(newton) * torch.log1p(reach * newton.abs()) / reach
            halley = newton / (1 - 0.5 * newton * third / curvature)
            step = torch.where(reach * newton.abs() < 1, halley, damped)
            delta = (delta - step).clamp(-REACH, REACH)
            if not bool((step.abs() > small).any()):
                break
        found = (step.abs() <= small) & (delta.abs() < REACH)
    slope, curvature, _, _ = _whittle_moments(spectrum, plan.nodes, delta)
    return plan.fold + delta - slope / curvature.detach(), found
