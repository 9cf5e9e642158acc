r"""Fits of a power law $S(f) = A f^{-\beta}$ to rows of a spectrum, with exact gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.fractals._psd import Band

__all__ = ["Design", "design_for", "fit_ols", "fit_robust", "fit_whittle", "floored_log"]

_N_CELLS = 32

_MAX_STEPS = 100
_HUBER = 1.345
_BIWEIGHT = 4.685


def floored_log(psd: Float[Tensor, "*batch freq"]) -> Float[Tensor, "*batch freq"]:
    """Logarithm of a spectrum in which exact zeros stand at the rounding level of the row.

    Args:
        psd: power, at least one positive value per row.

    Returns:
        Its natural logarithm.

    Examples:
        >>> floored_log(torch.tensor([[1.0, 0.0]])).exp().max().item()
        1.0
    """
    floor = psd.detach().amax(-1, keepdim=True) * torch.finfo(psd.dtype).eps ** 2
    return torch.maximum(psd, floor).log()


class Design(NamedTuple):
    r"""What the fits need of the frequencies: $z = \ln f - \overline{\ln f}$ and its powers.

    Attributes:
        log_freqs: $\ln f$.
        centre: its mean.
        powers: $1, z, z^2, z^3$.
        cells: mean over the bins (rows) of each cell of equal width in $\ln f$ (columns).
        cell_line: product with the logarithm of the cells' power is a first guess of $\beta$.
    """

    log_freqs: Float[Tensor, " freq"]
    centre: float
    powers: Float[Tensor, "freq 4"]
    cells: Float[Tensor, "freq cell"]
    cell_line: Float[Tensor, " cell"]


def design_for(band: Band, dtype: torch.dtype, device: torch.device) -> Design:
    """Prepare the fits of one band; worth keeping: for a small batch it costs more than the fit.

    Args:
        band: the bins.
        dtype: of the spectra.
        device: of the spectra.

    Returns:
        The design.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> band = select_band(64, 1.0, (0.1, 0.4))
        >>> design_for(band, torch.float64, torch.device("cpu")).powers.shape
        torch.Size([19, 4])
    """
    log_freqs = band.freqs.log()
    centre = float(log_freqs.mean())
    z = log_freqs - centre
    edges = torch.linspace(float(z[0]), float(z[-1]), _N_CELLS + 1, dtype=torch.float64)
    cells = nn.functional.one_hot(torch.bucketize(z, edges[1:-1]), _N_CELLS).double()
    cells = cells[:, cells.sum(0) > 0]
    count = cells.sum(0)
    position = (z @ cells) / count
    line = -count * position / (count * position.square()).sum()
    powers = torch.stack([torch.ones_like(z), z, z**2, z**3], dim=-1)
    parts = (part.to(device, dtype) for part in (log_freqs, powers, cells / count, line))
    log_freqs, powers, cells, line = parts
    return Design(log_freqs, centre, powers, cells, line)


def fit_ols(
    psd: Float[Tensor, "batch freq"], design: Design
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Least squares of $\ln P$ on $\ln f$.

    Args:
        psd: power.
        design: of its frequencies.

    Returns:
        $\beta$ and $\ln A$.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> band = select_band(64, 64.0, (1.0, 25.0))
        >>> design = design_for(band, torch.float64, torch.device("cpu"))
        >>> beta, log_a = fit_ols((3 - 2 * design.log_freqs).exp()[None], design)
        >>> round(beta.item(), 4), round(log_a.item(), 4)
        (2.0, 3.0)
    """
    log_psd = floored_log(psd)
    z = design.powers[:, 1]
    beta = -(log_psd @ z) / z.square().sum()
    return beta, log_psd.mean(-1) + beta * design.centre


def fit_whittle(
    psd: Float[Tensor, "batch freq"], design: Design
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Maximum-likelihood power law: minimise $Q(b) = \ln \overline{P f^b} - b\,\overline{\ln f}$.

    $Q$ is convex with $|Q'''| \le R Q''$, $R$ the range of $\ln f$, so the damped Newton step
    $\ln(1 + R|\delta|) / R$ never passes the minimum (Bach 2010). One full, differentiable step
    from the detached minimum then gives the gradient of the implicit function theorem.

    Args:
        psd: power.
        design: of its frequencies.

    Returns:
        $\beta$ and $\ln A$.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> band = select_band(64, 64.0, (1.0, 25.0))
        >>> design = design_for(band, torch.float64, torch.device("cpu"))
        >>> beta, log_a = fit_whittle((3 - 2 * design.log_freqs).exp()[None], design)
        >>> round(beta.item(), 4), round(log_a.item(), 4)
        (2.0, 3.0)

    References:
        Bach (2010). Self-concordant analysis for logistic regression. Electronic Journal of
        Statistics 4. https://doi.org/10.1214/09-EJS521
    """
    reach = float(design.log_freqs[-1] - design.log_freqs[0])
    # Halley's step s leaves an error near (reach * s)**3 / 100, and the Newton step that follows
    # the square of that.
    small = torch.finfo(psd.dtype).eps ** 0.2
    with torch.no_grad():
        beta = _first_guess(psd, design)
        for _ in range(_MAX_STEPS):
            slope, curvature, third, _ = _whittle_moments(psd, design, beta)
            newton = slope / curvature
            damped = torch.sign(newton) * torch.log1p(reach * newton.abs()) / reach
            halley = newton / (1 - 0.5 * newton * third / curvature)
            step = torch.where(reach * newton.abs() < 0.5, halley, damped)
            beta = beta - step
            if not bool((step.abs() > small).any()):
                break
    slope, curvature, _, log_level = _whittle_moments(psd, design, beta)
    # d(log_level)/d(beta) is slope, zero at the minimum: the step need not be carried into it.
    beta = beta - slope / curvature.detach()
    return beta, log_level + beta * design.centre


def _first_guess(psd: Float[Tensor, "batch freq"], design: Design) -> Float[Tensor, " batch"]:
    """Line through the mean power of cells of equal width in ln f, weighted by their bins."""
    return floored_log(psd @ design.cells) @ design.cell_line


def _whittle_moments(
    psd: Float[Tensor, "batch freq"], design: Design, beta: Float[Tensor, " batch"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three derivatives of Q (cumulants of centred ln f under P f^b), and ln mean(P f^b)."""
    z = design.powers[:, 1]
    shift = torch.maximum(beta * z[0], beta * z[-1])
    gain = torch.addcmul(-shift[:, None], beta[:, None], z).exp_()
    level, *raw = (psd * gain @ design.powers).unbind(-1)
    first, second, third = (moment / level for moment in raw)
    # Power in a single bin has no curvature; the guard keeps the division finite.
    curvature = (second - first.square()).clamp(min=torch.finfo(psd.dtype).eps)
    skew = third - first * (3 * second - 2 * first.square())
    return first, curvature, skew, (level / len(z)).log() + shift


def fit_robust(
    psd: Float[Tensor, "batch freq"], design: Design
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Bounded-influence line through $\ln P$ against $\ln f$: narrow peaks do not tilt it.

    Tukey's biweight, started from Huber's estimate, with the scale fixed at the median absolute
    deviation from Huber's line.

    Args:
        psd: power.
        design: of its frequencies.

    Returns:
        $\beta$ and $\ln A$.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> band = select_band(64, 64.0, (1.0, 25.0))
        >>> design = design_for(band, torch.float64, torch.device("cpu"))
        >>> log_psd = 3 - 2 * design.log_freqs
        >>> log_psd[10] += 5
        >>> beta, _ = fit_robust(log_psd.exp()[None], design)
        >>> round(beta.item(), 3)
        2.0

    References:
        Beaton & Tukey (1974). The fitting of power series, meaning polynomials, illustrated on
        band-spectroscopic data. Technometrics 16. https://doi.org/10.1080/00401706.1974.10489171
    """
    log_psd = floored_log(psd)
    columns = design.powers[:, :2]
    line = _least_squares(log_psd, columns, torch.ones_like(log_psd))
    scale = _spread(log_psd - line @ columns.T)
    line = _robust_line(log_psd, columns, line, scale, _huber_weight)
    scale = _spread(log_psd - line @ columns.T)
    line = _robust_line(log_psd, columns, line, scale, _biweight_weight)
    return -line[:, 1], line[:, 0] - line[:, 1] * design.centre


def _huber_weight(u: Float[Tensor, "batch freq"]) -> tuple[Tensor, Tensor]:
    """Weight psi(u)/u and derivative psi'(u)."""
    inside = u.abs() <= _HUBER
    return torch.where(inside, 1.0, _HUBER / u.abs().clamp(min=_HUBER)), inside.to(u)


def _biweight_weight(u: Float[Tensor, "batch freq"]) -> tuple[Tensor, Tensor]:
    """Weight psi(u)/u and derivative psi'(u); zero beyond the cut."""
    v = (u / _BIWEIGHT).square().clamp(max=1)
    return (1 - v).square(), (1 - v) * (1 - 5 * v)


def _robust_line(
    y: Float[Tensor, "batch freq"],
    columns: Float[Tensor, "freq 2"],
    start: Float[Tensor, "batch 2"],
    scale: Float[Tensor, "batch 1"],
    weigh: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Float[Tensor, "batch 2"]:
    """Reweighted least squares to convergence, then one differentiable Newton step."""
    tolerance = 16 * torch.finfo(y.dtype).eps
    line = start.detach()
    with torch.no_grad():
        for _ in range(_MAX_STEPS):
            weight, _ = weigh((y - line @ columns.T) / scale)
            update = _least_squares(y - line @ columns.T, columns, weight)
            line = line + update
            if not bool((update.abs() > tolerance * (1 + line.abs())).any()):
                break
    u = (y - line @ columns.T) / scale
    weight, derivative = weigh(u)
    step = _solve_normal((u * weight) @ columns, columns, derivative.detach())
    return line + scale.detach() * step


def _least_squares(
    y: Float[Tensor, "batch freq"],
    columns: Float[Tensor, "freq 2"],
    weight: Float[Tensor, "batch freq"],
) -> Float[Tensor, "batch 2"]:
    return _solve_normal((weight * y) @ columns, columns, weight)


def _solve_normal(
    right: Float[Tensor, "batch 2"],
    columns: Float[Tensor, "freq 2"],
    weight: Float[Tensor, "batch freq"],
) -> Float[Tensor, "batch 2"]:
    """Solve (X' W X) c = right for two columns; ln f is centred, so the system is well scaled."""
    z = columns[:, 1]
    s0, s1, s2 = weight.sum(-1), weight @ z, weight @ z.square()
    determinant = s0 * s2 - s1.square()
    intercept = (s2 * right[:, 0] - s1 * right[:, 1]) / determinant
    slope = (s0 * right[:, 1] - s1 * right[:, 0]) / determinant
    return torch.stack([intercept, slope], dim=-1)


def _spread(residual: Float[Tensor, "batch freq"]) -> Float[Tensor, "batch 1"]:
    """Normal-consistent median absolute deviation; never zero, in units of ln P."""
    return (residual.abs().median(-1, keepdim=True).values / 0.6745).clamp(min=1e-6)
