r"""Whittle estimates of one exponent: a family of spectra $f_H$ whose scale is free.

The objective $Q(H) = \ln \sum_j p_j I_j / f_H(j) + \sum_j p_j \ln f_H(j)$ depends on $H$ through
$\ln f_H(j)$ alone. Its Chebyshev series in $v = \ln(H + 0.004)$ turns each evaluation of a whole
batch, with two derivatives, into products of small matrices. (In $H$ itself there is a singularity
at about $-1 / 2n$ for n samples, where aliased and plain power cancel; in $\ln H$ the powers of
frequency near $H = 1$ take more degrees than both ends together take here.)
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Family", "Objective", "expand", "information", "maximise", "noise_family", "objective"]

# H is kept off the ends of (0, 1), where noise has no proper law.
_LOW, _HIGH = 0.001, 0.999
_DEGREE = 64
_SHIFT = 0.004
# The series reach a little further, because the derivatives divide by zero at their ends.
_ENDS = (math.log(0.9 * _LOW + _SHIFT), math.log((1 + _HIGH) / 2 + _SHIFT))
_CENTRE, _REACH = (_ENDS[1] + _ENDS[0]) / 2, (_ENDS[1] - _ENDS[0]) / 2
# Points of an even grid of v, and those of them through which a polynomial is laid: its error at
# the minimum is below 1e-7 even where Q grows like the 16th power of e in H.
_GRID = 256
_NEAR = 11
_MAX_STEPS = 60
# The Newton step that follows squares this.
_SETTLED = 1e-6
_TERMS = 12


class Family(NamedTuple):
    r"""Spectra $f_H$ at fixed frequencies or octaves, up to a factor.

    Attributes:
        series: Chebyshev coefficients of $\ln f_H$ over $v$, one row per degree.
        weights: $p_j$, of sum 1.
        inverse: $p_j / f_H(j)$ at the Chebyshev nodes of $v$, one column per node, over the
            largest of them.
        offset: what the scale of these columns and $\sum_j p_j \ln f_H(j)$ add to Q there.
        grid: from values at the nodes to values on an even grid of $v$.
    """

    series: Float[Tensor, "degree freq"]
    weights: Float[Tensor, " freq"]
    inverse: Float[Tensor, "freq degree"]
    offset: Float[Tensor, " degree"]
    grid: Float[Tensor, "degree grid"]


class Objective(NamedTuple):
    """Q with two derivatives by H.

    Attributes:
        value: Q.
        slope: its first derivative.
        curvature: its second derivative.
    """

    value: Float[Tensor, " batch"]
    slope: Float[Tensor, " batch"]
    curvature: Float[Tensor, " batch"]


def expand(
    log_spectrum: Callable[[Float[Tensor, " exponent"]], Float[Tensor, "exponent freq"]],
    weights: Float[Tensor, " freq"],
) -> Family:
    """Make a family from a function that evaluates it.

    Args:
        log_spectrum: ln f for exponents in (0, 1), float64, smooth in their logarithm.
        weights: of the frequencies, positive.

    Returns:
        The family.

    Examples:
        >>> ln_f = torch.arange(3.0, dtype=torch.float64)
        >>> family = expand(lambda H: H[:, None] * ln_f, torch.ones(3, dtype=torch.float64))
        >>> family.weights.tolist() == [1 / 3] * 3
        True
    """
    degree = torch.arange(_DEGREE + 1, dtype=torch.float64)
    angle = math.pi * (degree + 0.5) / (_DEGREE + 1)
    transform = torch.cos(degree[:, None] * angle) * (2 / (_DEGREE + 1))
    transform[0] /= 2
    at_nodes = log_spectrum((_CENTRE + _REACH * angle.cos()).exp() - _SHIFT)
    p, lowest = weights / weights.sum(), at_nodes.amin(-1)
    inverse = (torch.exp(lowest[:, None] - at_nodes) * p).T.contiguous()
    grid = transform.T @ _chebyshev(_even_grid().exp() - _SHIFT)[0].T
    return Family(transform @ at_nodes, p, inverse, at_nodes @ p - lowest, grid)


def _even_grid() -> Float[Tensor, " grid"]:
    low, high = math.log(_LOW + _SHIFT), math.log(_HIGH + _SHIFT)
    return torch.linspace(low, high, _GRID, dtype=torch.float64)


def _chebyshev(H: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
    """Chebyshev polynomials at v with two derivatives by H, each (batch, degree)."""
    shifted = H[:, None] + _SHIFT
    x = (shifted.log() - _CENTRE) / _REACH
    k = torch.arange(_DEGREE + 1, dtype=H.dtype, device=H.device)
    angle = k * x.acos()
    value = angle.cos()
    rest = 1 - x.square()
    first = k * angle.sin() / rest.sqrt()
    # Chebyshev's equation, (1 - x^2) T'' = x T' - k^2 T.
    by_log, twice = first / _REACH, (x * first - k.square() * value) / rest / _REACH**2
    return value, by_log / shifted, (twice - by_log) / shifted.square()


def objective(
    power: Float[Tensor, "batch freq"], family: Family, H: Float[Tensor, " batch"]
) -> Objective:
    """Evaluate Q for each item at its exponent.

    Args:
        power: periodogram, float64, positive somewhere.
        family: of spectra.
        H: exponents.

    Returns:
        Q and its derivatives.

    Examples:
        >>> ln_f = torch.arange(3.0, dtype=torch.float64)
        >>> family = expand(lambda H: H[:, None] * ln_f, torch.ones(3, dtype=torch.float64))
        >>> exact = (0.4 * ln_f).exp()[None]
        >>> abs(objective(exact, family, torch.tensor([0.4]).double()).slope.item()) < 1e-6
        True
    """
    family = _beside(power, family)
    p = family.weights
    log_f, first, second = (part @ family.series for part in _chebyshev(H))
    # Relative to its largest term, so that no spectrum overflows.
    shift = log_f.amin(-1, keepdim=True)
    w = power * torch.exp(shift - log_f) * p
    total = w.sum(-1)
    mean_first = (w * first).sum(-1) / total
    mean_square = (w * first.square()).sum(-1) / total
    expected = (first * p).sum(-1)
    return Objective(
        total.log() - shift.squeeze(-1) + (log_f * p).sum(-1),
        expected - mean_first,
        mean_square - mean_first.square() + ((second * p).sum(-1) - (w * second).sum(-1) / total),
    )


def information(
    family: Family, H: Float[Tensor, " batch"], count: float
) -> Float[Tensor, " batch"]:
    r"""Fisher information on H when the scale is free: $n\,\mathrm{Var}_p(d \ln f_H / dH)$.

    Args:
        family: of spectra.
        H: exponents.
        count: n, independent ordinates of unit relative variance.

    Returns:
        The information, the inverse of a variance.

    Examples:
        >>> family = noise_family(4096)
        >>> error = information(family, torch.tensor([0.5]).double(), 2047.0).rsqrt()
        >>> round(error.item(), 4)
        0.0098
    """
    family = _beside(H, family)
    p, first = family.weights, _chebyshev(H)[1] @ family.series
    return count * ((first.square() * p).sum(-1) - (first * p).sum(-1).square())


def maximise(power: Float[Tensor, "batch freq"], family: Family) -> Float[Tensor, " batch"]:
    """Find the exponent of each item that minimises Q, with the gradient of that minimum.

    Q itself has a Chebyshev series, whose values at the nodes come from one matrix product for
    all items; its minimum takes no further look at the frequencies. Where a gradient is wanted,
    one differentiable step from there, with Q in full, gives that of the implicit function
    theorem; at an end of (0, 1) there is none.

    Args:
        power: periodogram, float64, positive somewhere.
        family: of spectra.

    Returns:
        H in [0.001, 0.999].

    Examples:
        >>> ln_f = torch.arange(3.0, dtype=torch.float64)
        >>> family = expand(lambda H: H[:, None] * ln_f, torch.ones(3, dtype=torch.float64))
        >>> round(maximise((0.4 * ln_f).exp()[None], family).item(), 9)
        0.4
    """
    family = _beside(power, family)
    with torch.no_grad():
        H = _minimum(((power @ family.inverse).log() + family.offset) @ family.grid)
    if not (torch.is_grad_enabled() and power.requires_grad):
        return H
    found = objective(power, family, H)
    interior = (H > _LOW + 1e-9) & (H < _HIGH - 1e-9)
    step = found.slope / found.curvature.detach()
    return torch.where(interior, H - torch.where(interior, step, 0.0), H)


def _beside(x: Tensor, family: Family) -> Family:
    """The family on the device of `x`."""
    return Family(*(part.to(x.device) for part in family))


def _minimum(values: Float[Tensor, "batch grid"]) -> Float[Tensor, " batch"]:
    """Where Q is smallest, from its values on the even grid of v.

    Newton's method in a bracket about the best point, on the polynomial through its neighbours.
    """
    best = values.argmin(-1)
    first = (best - _NEAR // 2).clamp(0, _GRID - _NEAR)
    near = values.gather(-1, first[:, None] + torch.arange(_NEAR, device=values.device))
    # From the best value on, because only differences tell.
    near = near - values.gather(-1, best[:, None])
    degree = torch.arange(_NEAR - 2, dtype=values.dtype, device=values.device)
    slopes, curvatures = (near @ part.to(values.device) for part in _derivatives())
    s = (best - first).to(values.dtype) - _NEAR // 2
    low, high = (s - 1).clamp(min=-(_NEAR // 2)), (s + 1).clamp(max=_NEAR // 2)
    for _ in range(_MAX_STEPS):
        powers = s[:, None] ** degree
        # The highest power of the slope is one beyond those of the curvature.
        slope = (slopes[:, :-1] * powers).sum(-1) + slopes[:, -1] * powers[:, -1] * s
        curvature = (curvatures * powers).sum(-1)
        # The minimum stays bracketed; a step out of the bracket becomes its middle.
        falling = slope < 0
        low, high = torch.where(falling, s, low), torch.where(falling, high, s)
        newton = s - slope / curvature
        inside = (curvature > 0) & (newton >= low) & (newton <= high)
        following = torch.where(inside, newton, (low + high) / 2)
        settled = (following - s).abs().amax() <= _SETTLED
        s = following
        if bool(settled):
            break
    start, stop = math.log(_LOW + _SHIFT), math.log(_HIGH + _SHIFT)
    v = start + (first + _NEAR // 2 + s) * ((stop - start) / (_GRID - 1))
    return (v.exp() - _SHIFT).clamp(_LOW, _HIGH)


@lru_cache(maxsize=1)
def _derivatives() -> tuple[Float[Tensor, "near slope"], Float[Tensor, "near curvature"]]:
    """From values at the points -5..5 to coefficients of the polynomial's two derivatives."""
    points = torch.arange(_NEAR, dtype=torch.float64) - _NEAR // 2
    degree = torch.arange(_NEAR, dtype=torch.float64)
    coefficients = torch.linalg.inv(points[:, None] ** degree).T
    slopes = (coefficients * degree)[:, 1:]
    return slopes, (slopes * degree[:-1])[:, 1:]


@lru_cache(maxsize=16)
def noise_family(n: int) -> Family:
    r"""Spectra of fractional Gaussian noise at the Fourier frequencies of `n` samples.

    $$f_H(\omega) \propto (1 - \cos\omega) \sum_j |\omega + 2\pi j|^{-2H - 1}$$

    with the aliased terms beyond a few summed by the Euler-Maclaurin formula.

    Args:
        n: samples of a signal.

    Returns:
        The family over frequencies 1 to (n - 1) // 2.

    Examples:
        >>> family = noise_family(64)
        >>> white = torch.ones(1, 31, dtype=torch.float64)
        >>> round(maximise(white, family).item(), 9)
        0.5
    """
    count = (n - 1) // 2
    omega = 2 * math.pi / n * torch.arange(1, count + 1, dtype=torch.float64)
    return expand(lambda H: _log_density(omega, H), torch.ones(count, dtype=torch.float64))


def _log_density(
    omega: Float[Tensor, " freq"], H: Float[Tensor, " exponent"]
) -> Float[Tensor, "exponent freq"]:
    s = 2 * H[:, None] + 1
    total = torch.pow(omega, -s)
    for j in range(1, _TERMS):
        total = (
            total + torch.pow(2 * math.pi * j + omega, -s) + torch.pow(2 * math.pi * j - omega, -s)
        )
    for side in (omega, -omega):
        total = total + _tail(2 * math.pi * _TERMS + side, s)
    # H times the sum is analytic at H = 0, where the sum itself has a pole.
    return torch.log(2 * torch.sin(omega / 2).square() * total * H[:, None])


def _tail(a: Float[Tensor, " freq"], s: Float[Tensor, "exponent 1"]) -> Tensor:
    """Sum of (a + 2 pi j)^-s over j >= 0 (Euler-Maclaurin to the fifth derivative)."""
    step = 2 * math.pi
    g = torch.pow(a, -s)
    integral = g * a / (s - 1) / step
    first = -s * g / a * step
    third = first * (s + 1) * (s + 2) / a**2 * step**2
    fifth = third * (s + 3) * (s + 4) / a**2 * step**2
    return integral + g / 2 - first / 12 + third / 720 - fifth / 30240
