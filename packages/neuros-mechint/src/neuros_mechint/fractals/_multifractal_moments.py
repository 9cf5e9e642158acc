"""Moments of local fluctuations over windows, boxes and wavelet leaders."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuros_mechint.fractals._dfa_expectation import polynomials

__all__ = [
    "Level",
    "Moments",
    "fluctuation_level",
    "log_statistics",
    "mass_level",
    "moments_of",
    "window_squares",
]

# A squared fluctuation below this share of the median of its scale is a flat run of the signal.
_FLAT = 1e-12
# Powers that exist at once.
_POWERS = 2**20
_ROUNDING = 8 * torch.finfo(torch.float64).eps


class Level(NamedTuple):
    """Logarithms of the local fluctuations of one scale, and which of them count.

    Attributes:
        logs: the logarithms.
        positive: what counts for moments of q > 0; None where all does, which saves time.
        negative: what counts for moments of q <= 0; None with `positive` only.
    """

    logs: Float[Tensor, "batch window"]
    positive: Bool[Tensor, "batch window"] | None
    negative: Bool[Tensor, "batch window"] | None


class Moments(NamedTuple):
    r"""What the fits of a spectrum need.

    Attributes:
        log_means: $\ln$ of the mean of $F^q$ over the windows.
        tilted: mean of $\ln F$ under weights proportional to $F^q$: its derivative by q.
        usable: whether every scale has a window that counts.
        dropped: windows without a share in the moments of q <= 0, over all scales.
    """

    log_means: Float[Tensor, "*batch q scale"]
    tilted: Float[Tensor, "*batch q scale"]
    usable: Bool[Tensor, "*batch"]
    dropped: Int[Tensor, "*batch"]


def window_squares(
    profile: Float[Tensor, "batch time"], n: int, order: int
) -> Float[Tensor, "batch window"]:
    """Mean square that a polynomial leaves in each window of a profile.

    Windows start at the first sample, and where n does not divide the profile once more such that
    the last one ends at the last sample.

    Args:
        profile: cumulative sums, float64.
        n: samples of a window.
        order: degree of the polynomial.

    Returns:
        One value per window; exactly 0 where the residual is the rounding of the profile.

    Examples:
        >>> line = torch.arange(8, dtype=torch.float64)[None]
        >>> window_squares(line, 4, 1).tolist()
        [[0.0, 0.0]]
        >>> window_squares(line, 4, 0).tolist()
        [[1.25, 1.25]]
    """
    length = profile.shape[-1]
    used = length // n * n
    ends = [profile[:, :used]] if used == length else [profile[:, :used], profile[:, -used:]]
    windows = torch.cat(ends, 1).view(-1, n)
    basis = polynomials(n, order).to(profile.device).T
    # The residual itself: energy less that of the trend would lose the small ones, which negative
    # moments weigh most. In place: three buffers of this size would leave the cache.
    residual = windows.addmm_(torch.mm(basis, windows.T).T, basis, alpha=-1)
    share = profile.new_full((n,), 1 / n)
    # A product is several times as fast as sums of few terms.
    squares = torch.mv(residual.square_(), share).view(len(profile), -1)
    # Rounding of n steps of the sum, each in the last digit of its largest value.
    noise = n * (_ROUNDING * profile.detach().abs().amax(-1)).square()
    if bool((squares.detach().amin(-1) > noise).all()):
        return squares
    return torch.where(squares > noise[:, None], squares, 0.0)


def fluctuation_level(squares: Float[Tensor, "batch window"]) -> Level:
    """Take logarithms of fluctuations; flat runs do not count for moments of q <= 0.

    Args:
        squares: squared fluctuations of one scale.

    Returns:
        Half the logarithms of the squares.

    Examples:
        >>> level = fluctuation_level(torch.tensor([[1.0, 1e-20, 0.0, 2.0]]))
        >>> level.positive.tolist(), level.negative.tolist()
        ([[True, True, False, True]], [[True, False, False, True]])
    """
    raw = squares.detach()
    # The median is at most the largest: without very small values it need not be known.
    if bool((raw.amin(-1) > _FLAT * raw.amax(-1)).all()):
        return Level(squares.log() / 2, None, None)
    positive = raw > 0
    # The upper one of the two in the middle: as many flat windows as others are still flat.
    median = raw.kthvalue(raw.shape[-1] // 2 + 1, keepdim=True).values
    logs = torch.where(positive, squares, 1.0).log() / 2
    return Level(logs, positive, positive & (raw >= _FLAT * median))


def mass_level(masses: Float[Tensor, "batch window"]) -> Level:
    """Take logarithms of the masses of boxes; empty boxes do not count.

    Args:
        masses: of one size of box.

    Returns:
        The logarithms.

    Examples:
        >>> mass_level(torch.tensor([[1.0, 0.0]])).positive.tolist()
        [[True, False]]
    """
    held = masses.detach() > 0
    return Level(torch.where(held, masses, 1.0).log(), held, held)


def moments_of(
    levels: Iterable[Level], q: Sequence[float], *, share_of_all: bool = False
) -> Moments:
    """Take the moments of every scale.

    Args:
        levels: the scales.
        q: ascending moments.
        share_of_all: divide by the number of all windows, not of those that count, at every q.

    Returns:
        The moments, scales last.

    Examples:
        >>> level = Level(torch.tensor([[1.0, 3.0]]).double().log(), None, None)
        >>> round(moments_of([level], [1.0]).log_means.exp().item(), 12)
        2.0
    """
    split = sum(value <= 0 for value in q)
    parts: tuple[list[_Sums], list[_Sums]] = ([], [])
    counts, widths = [], []
    # Scale by scale: of a long signal only one is in memory.
    for level in levels:
        counts.append(_count(level))
        widths.append(torch.full_like(counts[-1], level.logs.shape[-1]))
        groups = ((q[:split], level.negative), (q[split:], level.positive))
        for (some, kept), part in zip(groups, parts, strict=True):
            if some:
                part.append(_sums(level.logs, kept, some))
    kept_counts, all_counts = torch.stack(counts, -1), torch.stack(widths, -1)
    below = all_counts if share_of_all else kept_counts.clamp(min=1)
    pairs = zip(parts, (q[:split], q[split:]), (below, all_counts), strict=True)
    found = [_means(*pair) for pair in pairs if pair[0]]
    log_means, tilted = (torch.cat(list(group), 1) for group in zip(*found, strict=True))
    dropped = (all_counts - kept_counts).sum(-1).long()
    return Moments(log_means, tilted, (kept_counts > 0).all(-1), dropped)


def log_statistics(levels: Iterable[Level]) -> tuple[Tensor, Tensor, Tensor]:
    """Take the mean and the variance of the logarithms of every scale.

    Args:
        levels: the scales.

    Returns:
        Means and variances, `(batch, scale)`, and whether every scale has a window that counts.

    Examples:
        >>> mean, variance, _ = log_statistics([Level(torch.tensor([[1.0, 3.0]]), None, None)])
        >>> mean.item(), variance.item()
        (2.0, 1.0)
    """
    means, variances, usable = [], [], []
    for level in levels:
        logs, kept = level.logs, level.negative
        count = _count(level)
        share = torch.ones_like(logs) if kept is None else kept.to(logs)
        share = share / count.clamp(min=1)[:, None]
        means.append((logs * share).sum(-1))
        variances.append(((logs - means[-1][:, None]).square() * share).sum(-1))
        usable.append(count > 0)
    return torch.stack(means, -1), torch.stack(variances, -1), torch.stack(usable).all(0)


def _count(level: Level) -> Float[Tensor, " batch"]:
    """Number of windows that count for moments of q <= 0."""
    if level.negative is None:
        return level.logs.new_full(level.logs.shape[:1], level.logs.shape[1])
    return level.negative.sum(-1).to(level.logs)


class _Sums(NamedTuple):
    """Sums over the windows of one scale, for moments of one sign."""

    # Of F^q and of its product with ln F, both relative to the reference.
    sums: Float[Tensor, "batch 2 q"]
    reference: Float[Tensor, " batch"]


def _sums(
    logs: Float[Tensor, "batch window"],
    kept: Bool[Tensor, "batch window"] | None,
    q: Sequence[float],
) -> _Sums:
    reference = _largest(logs.detach(), kept, rising=q[-1] > 0)
    offsets = logs - reference[:, None]
    ones = torch.ones_like(offsets)
    if kept is not None:
        offsets, ones = torch.where(kept, offsets, 0.0), kept.to(offsets)
    pair = torch.stack([ones, offsets], 1)
    # Powers of 2 take half the time of those of e.
    bits, orders = (offsets / math.log(2))[..., None], logs.new_tensor(q)
    at_once = max(1, _POWERS // max(1, bits.numel()))
    # One product gives both sums; the moments stand last because that is where it is fast.
    parts = [
        torch.bmm(pair, (bits * orders[k : k + at_once]).exp2_()) for k in range(0, len(q), at_once)
    ]
    return _Sums(parts[0] if len(parts) == 1 else torch.cat(parts, -1), reference)


def _means(
    parts: list[_Sums], q: Sequence[float], counts: Float[Tensor, "batch scale"]
) -> tuple[Float[Tensor, "batch q scale"], Float[Tensor, "batch q scale"]]:
    """Log of the mean of F^q, and the mean of ln F under those weights."""
    total, first = torch.stack([part.sums for part in parts], -1).unbind(1)
    total = torch.where(total > 0, total, 1.0)
    reference = torch.stack([part.reference for part in parts], -1)[:, None]
    orders = total.new_tensor(q)[:, None]
    return (total / counts[:, None]).log() + orders * reference, first / total + reference


def _largest(
    logs: Float[Tensor, "batch window"], kept: Bool[Tensor, "batch window"] | None, *, rising: bool
) -> Float[Tensor, " batch"]:
    """Logarithm of the window whose power is the largest: that becomes 1, and none overflows."""
    if kept is not None:
        logs = torch.where(kept, logs, -math.inf if rising else math.inf)
    largest = logs.amax(-1) if rising else logs.amin(-1)
    # A scale where nothing counts gets a finite stand-in.
    return largest if kept is None else torch.where(largest.isinf(), 0.0, largest)
