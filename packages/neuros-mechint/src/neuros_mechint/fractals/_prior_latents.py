r"""What objectives on latents share: their checks, and the spectral exponents of channels."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint.fractals._conventions import Signals, map_rows, read_signals
from neuros_mechint.fractals._power_law import Design, design_for, fit_whittle
from neuros_mechint.fractals._prior_slopes import (
    Condensation,
    condensation_for,
    fit_condensed,
)
from neuros_mechint.fractals._psd import (
    Band,
    difference_gain,
    powerless,
    scale_rows,
    select_band,
    taper_power,
)
from neuros_mechint.fractals._spectral_options import default_range, require_bins

__all__ = [
    "Pool",
    "Reduction",
    "SlopePlan",
    "channel_exponents",
    "check_weight",
    "plan_slopes",
    "read_latents",
    "zero_penalty",
]

Pool = Literal["channel", "batch"]
Reduction = Literal["mean", "none"]

# Several buffers of the size of a block live at once.
_BLOCK_SAMPLES = 2**17
_KEPT_PLANS = 4


def check_weight(weight: float, name: str = "weight") -> None:
    """Refuse a factor that is negative or not finite.

    Args:
        weight: the factor.
        name: what the caller's argument is called.

    Raises:
        ValueError: if it is.

    Examples:
        >>> check_weight(0.0)
    """
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"{name} must be finite and at least 0, got {weight}")


def read_latents(latents: object) -> Signals:
    """Take latents `(batch, time, channel)` with their time axis moved last.

    Args:
        latents: what the caller passed.

    Returns:
        The signals `(batch, channel, time)`.

    Raises:
        TypeError: if they are not a real tensor.
        ValueError: if they are not three-dimensional.

    Examples:
        >>> read_latents(torch.zeros(2, 5, 3)).view.shape
        torch.Size([2, 3, 5])
    """
    if not isinstance(latents, Tensor):
        raise TypeError(f"latents must be a torch.Tensor, got {type(latents).__name__}")
    if latents.ndim != 3:
        raise ValueError(
            f"latents must have shape (batch, time, channel), got {tuple(latents.shape)}"
        )
    return read_signals(latents, 1, name="latents")


def zero_penalty(signals: Signals, reduction: Reduction, pool: Pool) -> Tensor:
    """Return the zeros of an objective of weight 0: no graph, nothing computed.

    Args:
        signals: what `read_latents` returned.
        reduction: `"mean"` gives a scalar, `"none"` one zero for each fit.
        pool: whether a fit is of a channel of an item, or of a channel over the batch.

    Returns:
        Zeros in the dtype that the penalty would have.

    Examples:
        >>> zero_penalty(read_latents(torch.zeros(2, 5, 3)), "none", "batch")
        tensor([0., 0., 0.])
    """
    batch, channels, _ = signals.view.shape
    each = (batch, channels) if pool == "channel" else (channels,)
    return signals.view.new_zeros(() if reduction == "mean" else each, dtype=signals.dtype)


class SlopePlan(NamedTuple):
    """What one length of latents needs for its exponents.

    Attributes:
        band: the fitted bins.
        design: of the fit on all of them.
        nodes: of the fit on few nodes.
        gain: of differencing at each bin, where the difference is measured; else None.
        variance: sampling variance of an exponent, the Cramer-Rao bound of these bins.
    """

    band: Band
    design: Design
    nodes: Condensation
    gain: Float[Tensor, " freq"] | None
    variance: float


def plan_slopes(
    signals: Signals,
    memory: dict[object, SlopePlan],
    *,
    fs: float,
    freq_range: tuple[float, float] | None,
    fold: float,
    steep: bool,
) -> SlopePlan:
    r"""Prepare the exponents of signals of one length.

    Args:
        signals: what `read_latents` returned.
        memory: of an objective, for plans that it used: latents keep their length from step to
            step. A cache of this function would be ignored where the objective is compiled.
        fs: sampling rate in Hz.
        freq_range: lowest and highest fitted frequency in Hz; None is the default.
        fold: exponent near which the fits are expected.
        steep: measure the first difference and divide by its gain. The side lobes of an untapered
            window fall off as $f^{-2}$: whichever of a signal and its difference has the flatter
            spectrum leaks less, which changes at $\beta = 1$.

    Returns:
        The plan.

    Raises:
        ValueError: if the signals are too short.

    Examples:
        >>> signals = read_latents(torch.zeros(2, 256, 3))
        >>> plan = plan_slopes(signals, {}, fs=1.0, freq_range=None, fold=1.0, steep=False)
        >>> len(plan.band.bins), round(plan.variance, 3)
        (99, 0.017)
    """
    n, dtype, device = signals.length, signals.dtype, signals.view.device
    key = (n, dtype, device, fs, freq_range, fold, steep)
    if key in memory:
        return memory[key]
    band = select_band(n, fs, freq_range or default_range(n, fs))
    require_bins(band, n, fs, freq_range)
    log_freqs = band.freqs.log()
    variance = 1 / float((log_freqs - log_freqs.mean()).square().sum())
    gain = difference_gain(band, fs) if steep else torch.ones_like(band.freqs)
    nodes = condensation_for(band, gain, fold, dtype, device)
    kept = gain.to(device, dtype) if steep else None
    if len(memory) >= _KEPT_PLANS:
        memory.clear()
    memory[key] = SlopePlan(band, design_for(band, dtype, device), nodes, kept, variance)
    return memory[key]


def channel_exponents(
    signals: Signals, plan: SlopePlan, pool: Pool
) -> tuple[Float[Tensor, "*fit"], Bool[Tensor, "*fit"]]:
    r"""Fit $S(f) = A f^{-\beta}$ to the periodogram of every channel.

    Args:
        signals: what `read_latents` returned.
        plan: from `plan_slopes`.
        pool: `"channel"` fits every channel of every item, `"batch"` each channel's mean
            spectrum, normalised by the mean power of the measured rows.

    Returns:
        $\beta$, `(batch, channel)` or `(channel,)`, and True where there is no power: the value
        there is finite, has no gradient, and means nothing.

    Raises:
        ValueError: if the signals hold a value that is not finite.

    Examples:
        >>> signals = read_latents(torch.arange(256.0).reshape(1, 256, 1))
        >>> plan = plan_slopes(signals, {}, fs=1.0, freq_range=None, fold=2.0, steep=False)
        >>> channel_exponents(signals, plan, "channel")[0].shape
        torch.Size([1, 1])
    """
    condensed, silent = map_rows(
        signals, lambda rows: _condense(rows, plan), block_samples=_BLOCK_SAMPLES
    )
    if pool == "batch":
        condensed, silent = _average(condensed, condensed[..., -1:], silent)
    shape = silent.shape
    with torch.autocast(silent.device.type, enabled=False):
        beta, found = fit_condensed(condensed.flatten(0, -2), plan.nodes)
    lost = ~(found | silent.flatten())
    if bool(lost.any()):
        # A spectrum far from the fold, such as a narrow line, is fitted on all of its bins.
        which = lost.nonzero().squeeze(-1)
        beta = beta.index_put((which,), _fit_all_bins(signals, plan, pool, which))
    return beta.reshape(shape), silent


def _power(
    rows: Float[Tensor, "batch time"], plan: SlopePlan
) -> tuple[Float[Tensor, "batch freq"], Bool[Tensor, " batch"]]:
    """Periodograms of the measured rows, and True for constant rows."""
    scaled, _, constant = scale_rows(rows)
    measured = scaled if plan.gain is None else scaled.diff(dim=-1)
    return taper_power(measured, None, plan.band, rows.shape[-1]), constant


def _condense(
    rows: Float[Tensor, "batch time"], plan: SlopePlan
) -> tuple[Float[Tensor, "batch column"], Bool[Tensor, " batch"]]:
    psd, constant = _power(rows, plan)
    condensed = psd @ plan.nodes.weights
    # The last column is the mean over the band.
    silent = constant | powerless(condensed[:, -1:])
    if bool(silent.any()):
        # Any spectrum stands in for one without power, so that its fit is finite.
        condensed = torch.where(silent[:, None], plan.nodes.weights.sum(0), condensed)
    return condensed, silent


def _average(
    spectra: Float[Tensor, "batch channel column"],
    level: Float[Tensor, "batch channel 1"],
    silent: Bool[Tensor, "batch channel"],
) -> tuple[Float[Tensor, "channel column"], Bool[Tensor, " channel"]]:
    """Mean normalised spectrum of each channel over the items that have one."""
    heard = (~silent).to(spectra)[..., None]
    count = heard.sum(0)
    total = (spectra / level * heard).sum(0)
    # A channel that is silent in every item keeps the stand-in of its first item.
    mean = torch.where(count == 0, (spectra / level)[0], total / count.clamp(min=1))
    return mean, silent.all(0)


def _fit_all_bins(
    signals: Signals, plan: SlopePlan, pool: Pool, which: Tensor
) -> Float[Tensor, " fit"]:
    """Exponents of some fits, by their place among all, on the whole spectrum."""
    n_channels = signals.view.shape[1]
    if pool == "channel":
        view = signals.view[which // n_channels, which % n_channels][:, None]
    else:
        view = signals.view[:, which]
    psd, level, silent = map_rows(
        signals._replace(view=view),
        lambda rows: _whole_spectra(rows, plan),
        block_samples=_BLOCK_SAMPLES,
    )
    if pool == "batch":
        psd, _ = _average(psd, level, silent)
    else:
        psd = psd[:, 0]
    with torch.autocast(psd.device.type, enabled=False):
        return fit_whittle(psd, plan.design)[0]


def _whole_spectra(
    rows: Float[Tensor, "batch time"], plan: SlopePlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Spectra without the gain of differencing, the mean power before, True where there is none."""
    psd, constant = _power(rows, plan)
    silent = constant | powerless(psd)
    psd = torch.where(silent[:, None], 1.0, psd)
    level = psd.mean(-1, keepdim=True)
    return psd if plan.gain is None else psd / plan.gain, level, silent
