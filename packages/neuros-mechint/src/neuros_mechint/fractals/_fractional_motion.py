"""Fractional Gaussian noise and fractional Brownian motion, exact in law."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._draws import fast_length, read_batch, shaped

__all__ = ["FractionalBrownianMotion", "noise_autocovariance"]


def noise_autocovariance(
    lags: Float[Tensor, "*lag"], H: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*out"]:
    r"""Autocovariance of fractional Gaussian noise of unit variance.

    $$r(k) = \tfrac12 (|k + 1|^{2H} - 2 |k|^{2H} + |k - 1|^{2H})$$

    Args:
        lags: whole numbers k >= 0, float64.
        H: Hurst exponents in (0, 1), float64, with an axis for the lags.

    Returns:
        r, lags last.

    Examples:
        >>> r = noise_autocovariance(torch.arange(3.0).double(), torch.tensor([0.5]).double())
        >>> r.tolist()
        [1.0, 0.0, 0.0]
    """
    k = lags.clamp(min=1)
    # The two sides as relative changes of |k|^{2H}: their difference cancels only once.
    above = torch.expm1(2 * H * torch.log1p(1 / k))
    below = torch.expm1(2 * H * torch.log1p(-1 / k))
    return torch.where(lags == 0, 1.0, torch.pow(k, 2 * H) * (above + below) / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class FractionalBrownianMotion:
    r"""Gaussian paths $B_H$ with $E (B_H(t) - B_H(s))^2 = |t - s|^{2H}$.

    The increments come from the eigenvalues of a circulant matrix that holds their covariance
    (Davies & Harte), which are never negative for this noise: the law is exact at every length.

    Args:
        method: `"davies_harte"`, O(n log n); `"cholesky"`, O(n^3), for checks of the first.
        length: the time that the samples span; the increments then have standard deviation
            $(\mathrm{length} / n)^H$. None: one unit of time per sample.

    Raises:
        ValueError: if the method is unknown or the length is not positive.

    Examples:
        >>> motion = FractionalBrownianMotion()
        >>> path = motion.generate(1000, 0.7, generator=torch.Generator().manual_seed(0))
        >>> path.shape, path[0].item()
        (torch.Size([1000]), 0.0)
        >>> motion.increments(64, torch.tensor([0.2, 0.8]), batch=2).shape
        torch.Size([2, 1, 64])

    References:
        Davies & Harte (1987). Tests for Hurst effect. Biometrika 74.
        https://doi.org/10.1093/biomet/74.1.95
    """

    method: Literal["davies_harte", "cholesky"] = "davies_harte"
    length: float | None = None

    def __post_init__(self) -> None:
        if self.method not in ("davies_harte", "cholesky"):
            raise ValueError(f"method must be 'davies_harte' or 'cholesky', got {self.method!r}")
        if self.length is not None and not 0 < self.length < math.inf:
            raise ValueError(f"length must be a positive time, got {self.length}")

    def generate(
        self,
        n_samples: int,
        H: float | Tensor,
        n_dims: int = 1,
        batch: int | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw paths that start at 0.

        Args:
            n_samples: samples of a path, at least 1.
            H: Hurst exponent in (0, 1), one for all or one per item of the batch.
            n_dims: independent coordinates of a path.
            batch: number of paths.
            generator: source of randomness.
            dtype: of the result; the default one when None.
            device: of the result.

        Returns:
            `(n_samples,)`, `(n_dims, n_samples)` when `n_dims` is above 1, or
            `(batch, n_dims, n_samples)` when `batch` is given.

        Raises:
            ValueError: if a size is below 1, `H` lies outside (0, 1) or does not fit `batch`.

        Examples:
            >>> FractionalBrownianMotion().generate(5, 0.5, n_dims=2).shape
            torch.Size([2, 5])
        """
        rows, exponents = self._read(n_samples, H, n_dims, batch)
        steps = self._draw(
            n_samples - 1, rows, exponents, generator=generator, dtype=dtype, device=device
        )
        scale = self._scale(n_samples, exponents).to(steps)
        path = torch.zeros(rows, n_samples, dtype=steps.dtype, device=steps.device)
        if n_samples > 1:
            # A sum of a million steps in single precision would lose four of seven digits.
            path[:, 1:] = (steps * scale).cumsum(-1, dtype=torch.float64)
        return shaped(path, n_dims, batch)

    def increments(
        self,
        n_samples: int,
        H: float | Tensor,
        n_dims: int = 1,
        batch: int | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw fractional Gaussian noise: the steps of such a path.

        Args:
            n_samples: samples of a signal, at least 1.
            H: as in `generate`.
            n_dims: as in `generate`.
            batch: as in `generate`.
            generator: as in `generate`.
            dtype: as in `generate`.
            device: as in `generate`.

        Returns:
            Shapes as in `generate`.

        Raises:
            ValueError: as in `generate`.

        Examples:
            >>> FractionalBrownianMotion().increments(5, 0.5, batch=3).shape
            torch.Size([3, 1, 5])
        """
        rows, exponents = self._read(n_samples, H, n_dims, batch)
        steps = self._draw(
            n_samples, rows, exponents, generator=generator, dtype=dtype, device=device
        )
        return shaped(steps * self._scale(n_samples, exponents).to(steps), n_dims, batch)

    def _read(
        self, n_samples: int, H: float | Tensor, n_dims: int, batch: int | None
    ) -> tuple[int, Tensor]:
        """Check the sizes; return the number of rows and H, `(rows, 1)` or `(1, 1)`."""
        rows = read_batch(n_samples, n_dims, batch)
        exponents = torch.as_tensor(H, dtype=torch.float64, device="cpu").reshape(-1, 1)
        if not bool(((exponents > 0) & (exponents < 1)).all()):
            raise ValueError(f"H must lie strictly between 0 and 1, got {H}")
        if len(exponents) not in (1, batch or 1):
            raise ValueError(
                f"H must be one number or one per item of batch = {batch}, got {len(exponents)}"
            )
        if len(exponents) > 1:
            exponents = exponents.repeat_interleave(n_dims, 0)
        return rows, exponents

    def _scale(self, n_samples: int, exponents: Tensor) -> Tensor:
        if self.length is None:
            return torch.ones_like(exponents)
        return torch.pow(self.length / n_samples, exponents)

    def _draw(
        self,
        n: int,
        rows: int,
        exponents: Float[Tensor, "batch 1"],
        *,
        generator: torch.Generator | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> Float[Tensor, "rows time"]:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if n == 0:
            return torch.empty(rows, 0, dtype=dtype, device=device)
        if self.method == "cholesky":
            factor = _cholesky(n, exponents).to(dtype=dtype, device=device)
            noise = torch.randn(rows, n, 1, generator=generator, dtype=dtype, device=device)
            return (factor @ noise).squeeze(-1)
        half = fast_length(n)
        if len(exponents) == 1:
            amplitude = _amplitude(half, float(exponents))[None]
        else:
            amplitude = _spectrum(half, exponents)
        amplitude = amplitude.to(dtype=dtype, device=device)
        noise = torch.randn(rows, half + 1, 2, generator=generator, dtype=dtype, device=device)
        # The first and the last coefficient of a real signal are real, of the whole variance.
        noise[:, 1:-1] *= math.sqrt(0.5)
        noise[:, [0, -1], 1] = 0
        coefficients = torch.view_as_complex(noise) * amplitude
        signal: Tensor = torch.fft.irfft(coefficients, n=2 * half)
        return signal[:, :n]


@lru_cache(maxsize=16)
def _amplitude(half: int, H: float) -> Float[Tensor, " freq"]:
    # Cached: for one path, the eigenvalues cost as much as the draw.
    return _spectrum(half, torch.tensor([[H]], dtype=torch.float64))[0]


def _spectrum(half: int, H: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch freq"]:
    """Root of size times eigenvalue for the circulant matrix of 2 * half samples."""
    lags = torch.arange(half + 1, dtype=torch.float64)
    r = noise_autocovariance(lags, H)
    circle = torch.cat([r, r[:, 1:-1].flip(-1)], dim=-1)
    # Never negative for this noise (Craigmile 2003): what is below zero is rounding.
    eigenvalues = torch.fft.rfft(circle).real.clamp(min=0)
    return torch.sqrt(2 * half * eigenvalues)


def _cholesky(n: int, H: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch time time"]:
    r = noise_autocovariance(torch.arange(n, dtype=torch.float64), H)
    lag = torch.arange(n)
    factor: Tensor = torch.linalg.cholesky(r[:, (lag[:, None] - lag).abs()])
    return factor
