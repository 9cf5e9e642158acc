"""Wavelet scattering, and its coefficients as a description of the scales around each token."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuros_neurofm.tokenizers._patches import checked_signal
from neuros_neurofm.tokenizers._scattering import scatter
from neuros_neurofm.tokenizers._scattering_filters import wavelets
from neuros_neurofm.tokenizers._scattering_plan import Plan, depth, make_padding, make_plan
from neuros_neurofm.tokenizers._tokens import Tokens

__all__ = ["ScaleEncoding", "WaveletScattering"]

# Plans of the last lengths are kept.
_PLANS = 4


class WaveletScattering(nn.Module):
    r"""Scattering coefficients of signals of any length.

    $S_0 = x \star \phi$, $S_1 = |x \star \psi_{\lambda_1}| \star \phi$,
    $S_2 = ||x \star \psi_{\lambda_1}| \star \psi_{\lambda_2}| \star \phi$ with Morlet wavelets
    $\psi$ (`Q` per octave in the first order, 1 in the second, of at most about $2^J$ samples) and
    a Gaussian low-pass $\phi$ of about `T` samples. Order 1 is a time-averaged spectrum with
    constant relative bandwidth, order 2 the spectrum of its fluctuations.

    The wavelets and the low-pass look to both sides: an output rests on up to 12 T samples before
    and **after** its time. It is not causal and cannot be part of a stream.

    The numbers are those of `kymatio` 0.3.0, in its order of coefficients: order 0, order 1 from
    the highest frequency, order 2 by first and then second wavelet where the second is slower.
    That convention divides a coefficient by the subsampling along its path; divide by `gains` for
    the formulas above. For `T` = 2^J and a bank with at least one octave of constant relative
    bandwidth (from J = 3 on at Q = 8, J = 1 at Q = 1), $\|Sx - Sy\| \le \|x - y\|$.

    The filters of the last four lengths are kept; they are no parameters and are not saved.

    Args:
        J: Logarithm of the longest wavelet, in octaves of samples; >= 1.
        Q: Wavelets per octave in the first order.
        T: Samples of the low-pass; default 2^J. Outputs are one per $2^{\lfloor \log_2 T \rfloor}$
            samples.
        order: 1 or 2.

    Raises:
        ValueError: `J`, `Q` or `T` < 1, or another `order`.
        TypeError: `J`, `Q` or `T` is no int.

    Examples:
        >>> import torch
        >>> scattering = WaveletScattering(5, Q=4)
        >>> f = scattering.frequencies[3, 0]  # cycles per sample of the third wavelet
        >>> S = scattering(torch.cos(2 * torch.pi * f * torch.arange(1024)))
        >>> S.shape, scattering.times(1024)[:3].tolist()
        (torch.Size([46, 32]), [0, 32, 64])
        >>> round(float(S[3, 16] / scattering.gains[3]), 3)  # half of a cosine is analytic
        0.5

    References:
        Andén and Mallat (2014), Deep scattering spectrum, IEEE Trans. Signal Process. 62,
        doi:10.1109/TSP.2014.2326991. Andreux et al. (2020), Kymatio: scattering transforms in
        Python, JMLR 21(60). Lostanlen (2017), Convolutional operators in the time-frequency domain,
        PhD thesis, ENS Paris, hal:tel-01559667.
    """

    def __init__(self, J: int, *, Q: int = 8, T: int | None = None, order: int = 2) -> None:
        super().__init__()
        for name, value in (("J", J), ("Q", Q), ("T", 1 if T is None else T)):
            _check_whole(name, value)
        if order not in {1, 2}:
            raise ValueError(f"order must be 1 or 2, got {order!r}")
        self.J, self.Q, self.order = J, Q, order
        self.T = 2**J if T is None else T
        self._first = tuple(wavelets(J, Q))
        self._second = tuple(wavelets(J, 1)) if order == 2 else ()
        self._plans: dict[tuple[int, torch.dtype, torch.device], Plan] = {}

    def extra_repr(self) -> str:
        """Arguments for `repr`."""
        return f"{self.J}, Q={self.Q}, T={self.T}, order={self.order}"

    @property
    def frequencies(self) -> Tensor:
        """Centre frequencies of both wavelets in cycles per sample, NaN without one, (coeff, 2)."""
        pairs = [(math.nan, math.nan), *((w.xi, math.nan) for w in self._first)]
        pairs += [(v.xi, w.xi) for v in self._first for w in self._second if w.j > v.j]
        return torch.tensor(pairs, dtype=torch.float64)

    @property
    def gains(self) -> Tensor:
        """What each coefficient was multiplied with by the subsampling of its path, (coeff,)."""
        deepest = depth(self.T)
        k = [0, *(min(w.j, deepest) for w in self._first)]
        k += [
            min(v.j, deepest) + min(w.j, deepest)
            for v in self._first
            for w in self._second
            if w.j > v.j
        ]
        gains: Tensor = torch.tensor(k, dtype=torch.float64).neg().exp2()
        return gains

    def times(self, length: int) -> Tensor:
        """Sample, counted from the first of the signal, at which each output is centred.

        Args:
            length: Samples of the signal.

        Returns:
            (output,), int64, equally spaced.

        Raises:
            ValueError: a signal shorter than 2^J or `T` samples.
        """
        self._check_length(length)
        pad, step = make_padding(length, self.T), 2 ** depth(self.T)
        at: Tensor = (pad.first + torch.arange(pad.n_outputs)) * step - pad.left
        return at

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients.

        Args:
            x: Signals, (..., time), real floating-point; half precision is computed in single.

        Returns:
            (..., coeff, output), with about time / 2^J outputs for the default `T`.

        Raises:
            TypeError: `x` is no real floating-point tensor.
            ValueError: a signal shorter than 2^J or `T` samples, or NaN or infinite values.
        """
        _check_real(x)
        self._check_length(x.shape[-1])
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise ValueError(f"x has {bad} NaN or infinite values; fill or cut them out first")
        exact = x if x.dtype in {torch.float32, torch.float64} else x.float()
        rows = exact.reshape(-1, x.shape[-1])
        if not rows.shape[0]:
            # FFT libraries refuse an empty batch.
            shape = (self.gains.shape[0], self.times(x.shape[-1]).shape[0])
            return x.new_zeros(*x.shape[:-1], *shape)
        # Under autocast the averages would be taken in half precision.
        with torch.autocast(x.device.type, enabled=False):
            S = scatter(rows, self._plan(rows)).movedim(0, 1)
        return S.reshape(*x.shape[:-1], *S.shape[1:]).to(x.dtype)

    def _check_length(self, length: int) -> None:
        needed = max(2**self.J, self.T)
        if length < needed:
            raise ValueError(
                f"x needs at least max(2^J, T) = {needed} samples along its last axis, "
                f"got {length}; lower J or pass a longer signal"
            )

    def _plan(self, rows: Float[Tensor, "row time"]) -> Plan:
        key = (rows.shape[-1], rows.dtype, rows.device)
        if key not in self._plans:
            while len(self._plans) >= _PLANS:
                del self._plans[next(iter(self._plans))]
            # Filters made under inference mode could not be used in training later.
            with torch.inference_mode(mode=False):
                self._plans[key] = make_plan(
                    rows.shape[-1],
                    first=self._first,
                    second=self._second,
                    T=self.T,
                    like=rows.new_empty(0),
                )
        return self._plans[key]


class ScaleEncoding(nn.Module):
    r"""The scales around each token, to be added to the token.

    Each channel is standardised over the window, scattered and averaged over each patch (outputs
    are interpolated linearly in between); the logarithms $\mathrm{sign}(S) \log(1 + |S|)$ of its
    coefficients, free of `gains`, are averaged over the valid channels and projected. Any number
    of channels in any order gives one vector per patch, as many as a tokenizer with this patch
    gives tokens.

    Scattering looks to both sides in time, and so does this encoding: a token that carries it is
    **not causal**. Use it offline only, never in a stream or a forecast.

    Args:
        d_model: Width of the tokens.
        J: As in `WaveletScattering`; the low-pass has 2^J samples.
        Q: As in `WaveletScattering`.
        patch: Samples per token, as in the tokenizer; default 2^J.
        order: As in `WaveletScattering`.

    Raises:
        ValueError: `d_model` or `patch` < 1, or what `WaveletScattering` refuses.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.tokenizers import LFPTokenizer
        >>> lfp = torch.randn(2, 480, 3)  # 0.48 s at 1000 Hz, 3 channels
        >>> tokenizer = LFPTokenizer(32, sampling_rate=1000.0, patch=0.05)
        >>> encoding = ScaleEncoding(32, 5, patch=50)
        >>> encoding(lfp).shape
        torch.Size([2, 10, 32])
        >>> tokens = encoding.add_to(tokenizer(lfp), lfp)
        >>> tokens.values.shape
        torch.Size([2, 10, 32])

    References:
        Andén and Mallat (2014), Deep scattering spectrum, IEEE Trans. Signal Process. 62,
        doi:10.1109/TSP.2014.2326991.
    """

    def __init__(
        self, d_model: int, J: int, Q: int = 8, *, patch: int | None = None, order: int = 2
    ) -> None:
        super().__init__()
        self.scattering = WaveletScattering(J, Q=Q, order=order)
        self.patch = 2**J if patch is None else patch
        if d_model < 1 or self.patch < 1:
            raise ValueError(f"d_model and patch must be >= 1, got {d_model} and {self.patch}")
        self.project = nn.Linear(self.scattering.gains.shape[0], d_model)

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        return f"patch={self.patch} samples"

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """One vector per patch.

        Args:
            x: Samples, (batch, time, channel), any number of channels.
            mask: True = valid; (batch, time, channel) or 3-D and broadcastable to it. Masked
                samples stand at the channel's mean.

        Returns:
            (batch, token, d_model) with token = ceil(time / patch); 0 in patches without a valid
            sample.

        Raises:
            TypeError: `x` is no real tensor, or the mask is not boolean.
            ValueError: not 3 axes, fewer than 2^J samples, or NaN or infinity at a valid sample.
        """
        dtype = self.project.weight.dtype
        clean, valid = checked_signal("scale encoding", x, mask, dtype)
        S = self.scattering(_standardised(clean, valid).transpose(1, 2))
        S = S / self.scattering.gains.to(S).unsqueeze(-1)
        present = valid.any(1).to(dtype)
        weight = present / present.sum(1, keepdim=True).clamp_min(1.0)
        mean = torch.einsum("bckt,bc->bkt", S.sign() * S.abs().log1p(), weight)
        frames, tokens, share = self._overlaps(x.shape[1], mean)
        n = -(-x.shape[1] // self.patch)
        patches = mean.new_zeros(*mean.shape[:2], n)
        patches = patches.index_add(2, tokens, mean.index_select(2, frames) * share)
        values: Tensor = self.project(patches.transpose(1, 2))
        ends = torch.arange(x.shape[1], device=x.device) // self.patch
        seen = valid.new_zeros(x.shape[0], n, dtype=dtype)
        seen = seen.index_add(1, ends, valid.any(-1).to(dtype))
        return values * (seen > 0).unsqueeze(-1)

    def add_to(self, tokens: Tokens, x: Tensor, *, mask: Tensor | None = None) -> Tokens:
        """The tokens with the encoding of their recording added.

        Args:
            tokens: Tokens of `x`.
            x: As in `forward`.
            mask: As in `forward`.

        Returns:
            New tokens of the same times and mask.

        Raises:
            ValueError: tokens of another batch, number or width than the encoding of `x`, or what
                `forward` refuses.
        """
        encoding = self(x, mask=mask)
        if tokens.values.shape != encoding.shape:
            raise ValueError(
                f"the tokens have shape {tuple(tokens.values.shape)}, their encoding "
                f"{tuple(encoding.shape)} with {self.patch} samples per patch; "
                f"use d_model and patch of the tokenizer"
            )
        return tokens._replace(values=tokens.values + encoding)

    def _overlaps(
        self, length: int, like: Tensor
    ) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Float[Tensor, " pair"]]:
        """Which outputs stand for which patch, and with which share; shares of a patch sum to 1."""
        at = self.scattering.times(length).numpy()
        samples, n = np.arange(length), -(-length // self.patch)
        patch = samples // self.patch
        place = ((samples - at[0]) / 2**self.scattering.J).clip(0, at.shape[0] - 1)
        below = place.astype(np.int64)
        above = (below + 1).clip(max=at.shape[0] - 1)
        keys, index = np.unique(
            np.concatenate([below * n + patch, above * n + patch]), return_inverse=True
        )
        weights = np.concatenate([1 - (place - below), place - below])
        share = np.bincount(index, weights / np.tile(np.bincount(patch)[patch], 2))
        frames, tokens = (torch.from_numpy(part).to(like.device) for part in np.divmod(keys, n))
        return frames, tokens, torch.from_numpy(share).to(like)


def _standardised(
    x: Float[Tensor, "batch time channel"], valid: Bool[Tensor, "batch time channel"]
) -> Float[Tensor, "batch time channel"]:
    n = valid.sum(1, keepdim=True).clamp_min(1)
    deviation = (x - x.sum(1, keepdim=True) / n) * valid
    # Scaled by the largest first: the squares of signals in volts leave the range of float32.
    peak = deviation.abs().amax(1, keepdim=True)
    unit = deviation / torch.where(peak > 0, peak, torch.ones_like(peak))
    power = unit.square().sum(1, keepdim=True) / n
    # A constant channel is all 0, and a square root has no gradient there.
    return unit / torch.where(power > 0, power, torch.ones_like(power)).sqrt()


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")


def _check_real(x: object) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x)
        raise TypeError(f"x must be a real floating-point tensor (..., time), got {given}")
    if x.ndim < 1:
        raise ValueError("x must have a last axis of time, got a scalar")
