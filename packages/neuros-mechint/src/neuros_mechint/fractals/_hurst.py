"""Hurst exponent of noise or of a path."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Signals,
    centred,
    deliver,
    map_rows,
    read_signals,
    require_length,
    warn_degenerate,
)
from neuros_mechint.fractals._dfa import DetrendedFluctuationAnalysis, slope_weights
from neuros_mechint.fractals._octaves import (
    log2_bias,
    log2_variance,
    octave_counts,
    octave_energies,
    octave_family,
)
from neuros_mechint.fractals._rescaled_range import block_sizes, expected_range, rescaled_ranges
from neuros_mechint.fractals._whittle import (
    Family,
    expand,
    information,
    maximise,
    noise_family,
    objective,
)

__all__ = ["HurstExponent"]

Method = Literal["whittle", "wavelet", "abry_veitch", "local_whittle", "dfa", "rs"]
Kind = Literal["noise", "path", "auto"]

_SHORTEST = {
    "whittle": 64,
    "wavelet": 64,
    "local_whittle": 64,
    "rs": 128,
    "abry_veitch": 128,
    "dfa": 64,
}
# Abry and Veitch leave out the octaves where the noise is not yet self-similar.
_FIRST_OCTAVE = 3
_BANDWIDTH = 0.65
_BLOCK_SAMPLES = 2**17


class HurstExponent:
    r"""Exponent $H$ of self-similarity: noise of variance $\propto n^{2H}$ in sums of n samples.

    0.5 is white noise and the Brownian path, above is persistent, below anti-persistent.

    - `"whittle"`: maximum of the likelihood over all frequencies; for noise known to be fractional.
    - `"wavelet"`: the same over wavelet octaves; parabolic drifts do not change it at all.
    - `"abry_veitch"`: weighted line through the octaves from the third on; for noise that is
      self-similar at long times only. It reads anti-persistent noise too low.
    - `"local_whittle"`: power law over the lowest $N^{0.65}$ frequencies; for the same.
    - `"dfa"`: `DetrendedFluctuationAnalysis`, and `"rs"`, the rescaled range less its expectation
      for white noise: for comparison with the literature. The second is drawn towards 0.5.

    Args:
        method: as above.
        kind: `"noise"`: the signal has stationary values. `"path"`: it has stationary increments
            and is differenced first. `"auto"`: the more likely of the two, item by item;
            `last_kind` then holds the decision.

    Raises:
        ValueError: if `method` or `kind` is unknown.

    Attributes:
        last_kind: of the latest call, `"noise"` or `"path"`, or a list of them (in the order of
            the flattened items) after `"auto"`.

    Examples:
        >>> from neuros_mechint.fractals import FractionalBrownianMotion
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = FractionalBrownianMotion().generate(4096, 0.7, generator=generator)
        >>> round(HurstExponent(kind="path").compute(path).item(), 1)
        0.7
        >>> estimator = HurstExponent(kind="auto")
        >>> round(estimator.compute(path.diff()).item(), 1), estimator.last_kind
        (0.7, ['noise'])

    References:
        Fox & Taqqu (1986). Large-sample properties of parameter estimates for strongly dependent
        stationary Gaussian time series. Annals of Statistics 14.
        https://doi.org/10.1214/aos/1176349936
        Moulines, Roueff & Taqqu (2008). A wavelet Whittle estimator of the memory parameter of a
        nonstationary Gaussian time series. Annals of Statistics 36.
        https://doi.org/10.1214/07-AOS527
        Veitch & Abry (1999). A wavelet-based joint estimator of the parameters of long-range
        dependence. IEEE Transactions on Information Theory 45. https://doi.org/10.1109/18.761330
        Robinson (1995). Gaussian semiparametric estimation of long range dependence. Annals of
        Statistics 23. https://doi.org/10.1214/aos/1176324317
    """

    def __init__(self, *, method: Method = "whittle", kind: Kind = "noise") -> None:
        if method not in _SHORTEST:
            raise ValueError(f"method must be one of {sorted(_SHORTEST)}, got {method!r}")
        if kind not in ("noise", "path", "auto"):
            raise ValueError(f"kind must be 'noise', 'path' or 'auto', got {kind!r}")
        self.method = method
        self.kind = kind
        self.last_kind: str | list[str] | None = None

    def __repr__(self) -> str:
        return f"HurstExponent(method={self.method!r}, kind={self.kind!r})"

    def compute(self, x: ArrayT, *, dim: int = -1) -> ArrayT:
        """Estimate the exponent of each signal.

        Args:
            x: signals, any unit.
            dim: the time axis.

        Returns:
            H, of the shape of `x` without `dim`. A constant signal gives nan, one warning, and no
            gradient.

        Raises:
            ValueError: if `x` has fewer than 64 samples (128 for `"rs"` and `"abry_veitch"`) or
                is not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> noise = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0))
            >>> HurstExponent(method="wavelet").compute(noise).shape
            torch.Size([3])
        """
        signals = self._read(x, dim)
        H, usable = self._estimate(signals)
        warn_degenerate(~usable, "are constant")
        result: ArrayT = deliver(signals, torch.where(usable, H, math.nan).to(signals.dtype))
        return result

    def confidence_interval(
        self, x: ArrayT, *, level: float = 0.95, dim: int = -1
    ) -> tuple[ArrayT, ArrayT]:
        """Return the interval that holds the exponent with a given probability.

        Args:
            x: signals as in `compute`.
            level: the probability, in (0, 1).
            dim: the time axis.

        Returns:
            Lower and upper ends, of the shape of `x` without `dim`, from the Fisher information.

        Raises:
            ValueError: for a method other than `"whittle"` and `"wavelet"`, a level outside
                (0, 1), or as in `compute`.
            TypeError: as in `compute`.

        Examples:
            >>> noise = torch.randn(1024, generator=torch.Generator().manual_seed(0))
            >>> low, high = HurstExponent().confidence_interval(noise)
            >>> bool(low < 0.5 < high)
            True
        """
        if self.method not in ("whittle", "wavelet"):
            raise ValueError(
                f"confidence_interval needs method 'whittle' or 'wavelet', got {self.method!r}"
            )
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
        signals = self._read(x, dim)
        H, usable = self._estimate(signals)
        error = self._error(H, signals.length - (self.kind == "path"))
        warn_degenerate(~usable, "are constant")
        reach = error * torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))
        ends = [
            torch.where(usable, end, math.nan).to(signals.dtype) for end in (H - reach, H + reach)
        ]
        return deliver(signals, ends[0]), deliver(signals, ends[1])

    def _read(self, x: object, dim: int) -> Signals:
        signals = read_signals(x, dim)
        shortest = _SHORTEST[self.method] + (self.kind != "noise")
        require_length(signals, shortest, f"which method {self.method!r} works from")
        return signals

    def _estimate(self, signals: Signals) -> tuple[Tensor, Tensor]:
        """H and whether there is one, both of the batch's shape."""
        H, usable, is_path = map_rows(signals, self._of_rows, block_samples=_BLOCK_SAMPLES)
        words = ["path" if path else "noise" for path in is_path.reshape(-1).tolist()]
        self.last_kind = words if self.kind == "auto" else self.kind
        return H, usable

    def _error(self, H: Tensor, n: int) -> Tensor:
        """Standard error of estimates from n samples, by the Fisher information."""
        if self.method == "whittle":
            return information(noise_family(n), H.reshape(-1), (n - 1) / 2).rsqrt().view_as(H)
        # The square of a normal coefficient has twice the relative variance of a periodogram.
        count = sum(octave_counts(n)) / 2
        return information(octave_family(n, 1), H.reshape(-1), count).rsqrt().view_as(H)

    def _of_rows(self, rows: Float[Tensor, "batch time"]) -> tuple[Tensor, Tensor, Tensor]:
        if self.kind == "noise":
            return (
                *self._of_noise(centred(rows)),
                torch.zeros(len(rows), dtype=torch.bool, device=rows.device),
            )
        steps = centred(rows.double().diff())
        if self.kind == "path":
            return (
                *self._of_noise(steps),
                torch.ones(len(rows), dtype=torch.bool, device=rows.device),
            )
        # Both are estimated, so that no gradient depends on the other items of the batch.
        x = centred(rows)
        is_path = _likelier_path(x.detach(), steps.detach())
        pairs = zip(self._of_noise(steps), self._of_noise(x), strict=True)
        H, usable = (torch.where(is_path, path, noise) for path, noise in pairs)
        return H, usable, is_path

    def _of_noise(self, x: Float[Tensor, "batch time"]) -> tuple[Tensor, Tensor]:
        unit, usable = _in_own_unit(x)
        return _ESTIMATORS[self.method](unit), usable


def _in_own_unit(x: Float[Tensor, "batch time"]) -> tuple[Tensor, Tensor]:
    """Signals over their largest value, as powers of tiny ones underflow, and which do vary."""
    raw = x.detach()
    peak = torch.maximum(raw.amax(-1, keepdim=True), -raw.amin(-1, keepdim=True))
    usable = peak > 0
    if bool(usable.all()):
        return x / peak, usable.squeeze(-1)
    # Any variation in place of none keeps logarithms and their gradients finite.
    stand_in = torch.linspace(0, 9, x.shape[-1], dtype=x.dtype, device=x.device).sin()
    return torch.where(usable, x / torch.where(usable, peak, 1.0), stand_in), usable.squeeze(-1)


def _periodogram(x: Float[Tensor, "batch time"]) -> Float[Tensor, "batch freq"]:
    n = x.shape[-1]
    spectrum = torch.fft.rfft(x)[:, 1 : (n - 1) // 2 + 1]
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    return power


def _whittle(x: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    return maximise(_periodogram(x), noise_family(x.shape[-1]))


def _wavelet(x: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    # A polynomial has no energy at all beside the rounding of its own deviation.
    return maximise(octave_energies(x).clamp(min=1e-30), octave_family(x.shape[-1], 1))


def _likelier_path(x: Float[Tensor, "batch time"], steps: Float[Tensor, "batch step"]) -> Tensor:
    """Whether the increments are likelier to be fractional noise than the values are.

    The minimum of Q is the logarithm of the variance of what the past does not predict, which is
    the same for values and increments of one process: the smaller one belongs to the better law.
    """
    found = []
    for signal in (x, steps):
        unit, _ = _in_own_unit(signal)
        power, family = _periodogram(unit) / unit.shape[-1], noise_family(unit.shape[-1])
        relative = objective(power, family, maximise(power, family)).value
        size = signal.square().mean(-1).clamp(min=1e-300) / unit.square().mean(-1)
        found.append(relative + size.log())
    return found[1] <= found[0]


def _local_whittle(x: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    n = x.shape[-1]
    power = _periodogram(x)[:, : int(n**_BANDWIDTH)]
    return maximise(power, _power_law(n, power.shape[-1]))


def _power_law(n: int, count: int) -> Family:
    log_omega = (2 * math.pi / n * torch.arange(1, count + 1, dtype=torch.float64)).log()
    return expand(lambda H: (1 - 2 * H[:, None]) * log_omega, torch.ones_like(log_omega))


def _abry_veitch(x: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    skipped = _FIRST_OCTAVE - 1
    counts = torch.tensor(octave_counts(x.shape[-1])[skipped:], dtype=torch.float64)
    octave = torch.arange(1, 1 + len(counts), dtype=torch.float64)
    weight = 1 / log2_variance(counts)
    offset = octave - (weight * octave).sum() / weight.sum()
    line = weight * offset / (weight * offset.square()).sum()
    logs = octave_energies(x)[:, skipped:].log2() - log2_bias(counts).to(x.device)
    return ((logs * line.to(x.device)).sum(-1) + 1) / 2


def _rescaled_range(x: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    sizes = block_sizes(x.shape[-1])
    expected = torch.tensor([expected_range(n) for n in sizes], dtype=torch.float64).log()
    logs = rescaled_ranges(x, sizes).log() - expected.to(x.device)
    return (logs * slope_weights(sizes).to(x.device)).sum(-1) + 0.5


def _fluctuations(x: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    return DetrendedFluctuationAnalysis().compute(x).alpha


_ESTIMATORS = {
    "whittle": _whittle,
    "wavelet": _wavelet,
    "abry_veitch": _abry_veitch,
    "local_whittle": _local_whittle,
    "dfa": _fluctuations,
    "rs": _rescaled_range,
}
