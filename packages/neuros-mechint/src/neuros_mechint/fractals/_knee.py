r"""Maximum-likelihood fit of a power law with a knee, $S(f) = A / (f_k^\beta + f^\beta)$."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["fit_knee"]

_MAX_STEPS = 60
# Below this fraction of the lowest frequency a knee changes no power by more than a few percent.
_LOWEST_KNEE = 0.25


def fit_knee(
    psd: Float[Tensor, "batch freq"],
    log_freqs: Float[Tensor, " freq"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Minimise $\ln \overline{P g} - \overline{\ln g}$, $g = f_k^\beta + f^\beta$.

    The knee is $f_k = e^v$, so it cannot be negative. Where the best $v$ leaves the observed band
    (below a quarter of its lowest or above its highest frequency) the spectrum shows no knee.

    Args:
        psd: power.
        log_freqs: $\ln f$.

    Returns:
        $\beta$, $\ln A$ and $\ln f_k$; `nan` in all three where no knee lies in the band.

    Examples:
        >>> f = torch.arange(1.0, 400.0, dtype=torch.float64)
        >>> psd = 5 / (20.0**2 + f**2)
        >>> beta, log_a, log_knee = fit_knee(psd[None], f.log())
        >>> round(beta.item(), 4), round(log_a.exp().item(), 4), round(log_knee.exp().item(), 3)
        (2.0, 5.0, 20.0)

    References:
        Donoghue et al. (2020). Parameterizing neural power spectra into periodic and aperiodic
        components. Nature Neuroscience 23. https://doi.org/10.1038/s41593-020-00744-x
    """
    detached = psd.detach()
    theta = _best_start(detached, log_freqs)
    low, high = log_freqs[0] + torch.log(psd.new_tensor(_LOWEST_KNEE)), log_freqs[-1]
    damping = torch.full_like(theta[:, 0], 1e-3)
    value = _objective(detached, log_freqs, theta)
    for _ in range(_MAX_STEPS):
        gradient, hessian = _derivatives(detached, log_freqs, theta, fisher=True)
        step = _solve(hessian, gradient, damping)
        trial = theta - step
        trial = torch.stack([trial[:, 0], trial[:, 1].clamp(low - 1, high + 1)], dim=-1)
        trial_value = _objective(detached, log_freqs, trial)
        better = trial_value <= value
        theta = torch.where(better[:, None], trial, theta)
        value = torch.where(better, trial_value, value)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-12, 1e12)
        if not bool(((step.abs().amax(-1) > 1e-9) & (damping < 1e8)).any()):
            break
    inside = (theta[:, 1] > low) & (theta[:, 1] < high) & (theta[:, 0] > 0)
    # A neutral point keeps the Newton step of the rows without a knee finite.
    safe = torch.where(inside[:, None], theta, torch.stack([theta.new_tensor(1.0), high - 1]))
    gradient, hessian = _derivatives(psd, log_freqs, safe, fisher=False)
    final = safe - _solve(hessian.detach(), gradient, torch.zeros_like(damping))
    beta, log_knee = torch.where(inside[:, None], final, torch.nan).unbind(-1)
    log_level = _level(psd, _log_gain(log_freqs, final))
    return beta, torch.where(inside, log_level, torch.nan), log_knee


def _best_start(
    psd: Float[Tensor, "batch freq"], log_freqs: Float[Tensor, " freq"]
) -> Float[Tensor, "batch 2"]:
    """Lowest point of a coarse grid: the likelihood can have a second, flat valley."""
    knees = torch.linspace(float(log_freqs[0]), float(log_freqs[-1]), 10)
    grid = [psd.new_tensor(pair) for pair in itertools.product((0.7, 1.5, 2.5, 4.0), knees[:-1])]
    values = torch.stack(
        [_objective(psd, log_freqs, point.expand(psd.shape[0], 2)) for point in grid]
    )
    return torch.stack(grid)[values.argmin(0)]


def _log_gain(
    log_freqs: Float[Tensor, " freq"], theta: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch freq"]:
    """Log gain ln g = ln(f_k^beta + f^beta)."""
    beta, log_knee = theta[:, :1], theta[:, 1:]
    return torch.logaddexp(beta * log_knee, beta * log_freqs)


def _level(
    psd: Float[Tensor, "batch freq"], log_gain: Float[Tensor, "batch freq"]
) -> Float[Tensor, " batch"]:
    """Level ln mean(P g), which is ln A at the minimum."""
    shift = log_gain.detach().amax(-1, keepdim=True)
    return (psd * (log_gain - shift).exp()).mean(-1).log() + shift[:, 0]


def _objective(
    psd: Float[Tensor, "batch freq"],
    log_freqs: Float[Tensor, " freq"],
    theta: Float[Tensor, "batch 2"],
) -> Float[Tensor, " batch"]:
    log_gain = _log_gain(log_freqs, theta)
    return _level(psd, log_gain) - log_gain.mean(-1)


def _derivatives(
    psd: Float[Tensor, "batch freq"],
    log_freqs: Float[Tensor, " freq"],
    theta: Float[Tensor, "batch 2"],
    *,
    fisher: bool,
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2 2"]]:
    """Gradient and Hessian in (beta, v); `fisher` keeps the positive part of the Hessian."""
    beta, log_knee = theta[:, :1], theta[:, 1:]
    share = torch.sigmoid(beta * (log_knee - log_freqs))  # f_k^beta / g
    first = torch.stack([share * log_knee + (1 - share) * log_freqs, share * beta], dim=-1)
    log_gain = _log_gain(log_freqs, theta)
    shift = log_gain.amax(-1, keepdim=True)
    weight = psd * (log_gain - shift).exp()
    weight = weight / weight.sum(-1, keepdim=True)
    excess = weight - 1 / len(log_freqs)
    gradient = (excess[..., None] * first).sum(-2)
    mean = (weight[..., None] * first).sum(-2, keepdim=True)
    hessian = (weight[..., None] * (first - mean)).transpose(-1, -2) @ (first - mean)
    if fisher:
        return gradient, hessian
    slack = share * (1 - share)
    gap = log_knee - log_freqs
    second = torch.stack(
        [slack * gap.square(), share + slack * beta * gap, slack * beta.square()], dim=-1
    )
    bb, bv, vv = (excess[..., None] * second).sum(-2).unbind(-1)
    return gradient, hessian + torch.stack([bb, bv, bv, vv], dim=-1).reshape(-1, 2, 2)


def _solve(
    hessian: Float[Tensor, "batch 2 2"],
    gradient: Float[Tensor, "batch 2"],
    damping: Float[Tensor, " batch"],
) -> Float[Tensor, "batch 2"]:
    """Marquardt step: the damping is relative to the diagonal, so it has no unit."""
    a = hessian[:, 0, 0] * (1 + damping)
    d = hessian[:, 1, 1] * (1 + damping)
    b = hessian[:, 0, 1]
    tiny = torch.finfo(hessian.dtype).tiny
    determinant = a * d - b.square()
    determinant = torch.where(determinant.abs() > tiny, determinant, tiny)
    g, h = gradient.unbind(-1)
    return torch.stack([(d * g - b * h) / determinant, (a * h - b * g) / determinant], dim=-1)
