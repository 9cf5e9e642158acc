"""A generative model of latents: denoising diffusion over a vector or a grid of vectors."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._denoiser import Denoiser

__all__ = ["LatentDiffusion"]

_SCHEDULES: Final = ("cosine", "linear")
_PREDICTIONS: Final = ("v", "eps", "x0")
_SAMPLERS: Final = ("ddim", "ddpm")

# Nichol & Dhariwal 2021: the offset of the cosine, and the bound of every single step.
_OFFSET = 0.008
_MAX_BETA = 0.999

# Below this amplitude of the signal an error of eps would be blown up by more than 100 in x0.
_LEAST_SIGNAL = 0.01


class LatentDiffusion(nn.Module):
    r"""Denoising diffusion over latents: learn their distribution, draw new ones.

    $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon$ for
    $t = 1 \dots T$; the network is asked for
    $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\, x_0$ (or $\epsilon$, or $x_0$).

    A row is one latent vector or a whole grid of them (the `latents` of `MultiModalNeuroFMX`): the
    grid is modelled jointly, by attention with rotary positions, so any number of latents is taken.
    The diffusion wants latents of mean 0 and variance 1: `calibrate` measures mean and standard
    deviation once, and losses and samples then work in the units of the latents. Everything is
    computed in the dtype of the parameters (float32), also under autocast. Gradients reach the
    latents; pass `latents.detach()` to train the diffusion beside a model that it must not shape,
    because latents that all are equal are the easiest to denoise.

    To take $x_0$ from $\epsilon$ is to divide by $\sqrt{\bar\alpha_t}$, which the cosine schedule
    brings down to 5e-5. With `prediction="eps"` sampling therefore starts at the last step at which
    it is at least 0.01, where noise and noised latents differ by 1e-4 in variance.

    Args:
        latent_dim: Dimensions of a latent.
        n_steps: Number T of steps from data to noise.
        schedule: `cosine` (Nichol & Dhariwal 2021) or `linear` (Ho et al. 2020, its variances
            scaled by 1000 / T); no step's variance exceeds 0.999.
        prediction: What the network is asked for: `v`, `eps` or `x0`.
        cond_dim: Dimensions of the condition of each row; None: no condition.
        width: Width of the network; default `latent_dim` rounded up to a multiple of 64, at least
            128.
        depth: Number of its blocks.
        n_heads: Heads of its attention; default one per 64 channels.

    Raises:
        ValueError: An unknown schedule or prediction, a size below 1, or a width that does not
            divide into heads of even size.

    Examples:
        >>> import torch
        >>> diffusion = LatentDiffusion(2, n_steps=100)
        >>> t = torch.tensor([100])
        >>> x0, noise = torch.ones(1, 2), torch.zeros(1, 2)
        >>> (diffusion.q_sample(x0, t, noise) < 1e-3).all().item()  # the signal is gone
        True
        >>> diffusion.sample((5, 2), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])

    References:
        Ho, J., Jain, A. & Abbeel, P. (2020). Denoising diffusion probabilistic models. NeurIPS 33.
        https://doi.org/10.48550/arXiv.2006.11239
        Song, J., Meng, C. & Ermon, S. (2021). Denoising diffusion implicit models. ICLR.
        https://doi.org/10.48550/arXiv.2010.02502
        Nichol, A. & Dhariwal, P. (2021). Improved denoising diffusion probabilistic models. ICML.
        https://doi.org/10.48550/arXiv.2102.09672
        Salimans, T. & Ho, J. (2022). Progressive distillation for fast sampling of diffusion
        models. ICLR. https://doi.org/10.48550/arXiv.2202.00512
        Peebles, W. & Xie, S. (2023). Scalable diffusion models with transformers. ICCV.
        https://doi.org/10.1109/ICCV51070.2023.00387
    """

    angle: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        n_steps: int = 1000,
        schedule: str = "cosine",
        prediction: str = "v",
        *,
        cond_dim: int | None = None,
        width: int | None = None,
        depth: int = 4,
        n_heads: int | None = None,
    ) -> None:
        super().__init__()
        _check_choice("schedule", schedule, _SCHEDULES)
        _check_choice("prediction", prediction, _PREDICTIONS)
        sizes = {"latent_dim": latent_dim, "n_steps": n_steps, "depth": depth, "cond_dim": cond_dim}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}")
        self.latent_dim, self.n_steps, self.cond_dim = latent_dim, n_steps, cond_dim
        self.schedule, self.prediction = schedule, prediction
        width = max(128, 64 * math.ceil(latent_dim / 64)) if width is None else width
        self.denoiser = Denoiser(latent_dim, width, depth, n_heads, cond_dim)
        # An angle gives cos² + sin² = 1 in every dtype, and small sines with all their digits.
        self.register_buffer("angle", _schedule_angles(schedule, n_steps), persistent=False)
        self.register_buffer("shift", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def extra_repr(self) -> str:
        """Sizes and choices for `repr`."""
        return (
            f"latent_dim={self.latent_dim}, n_steps={self.n_steps}, schedule={self.schedule!r}, "
            f"prediction={self.prediction!r}, cond_dim={self.cond_dim}"
        )

    def calibrate(self, latents: Tensor) -> None:
        """Take mean and standard deviation of every dimension as the units of the diffusion.

        Args:
            latents: (batch, latent, latent_dim) or (batch, latent_dim), two vectors at least.

        Raises:
            ValueError: Wrong shape, values that are not finite, or a dimension that is constant.
        """
        rows = self._rows(latents).detach().flatten(0, 1)
        deviation = rows.std(dim=0) if rows.shape[0] > 1 else torch.zeros_like(self.scale)
        if not bool((deviation > 0).all()):
            raise ValueError(
                f"latents must vary in every dimension, got {int((deviation == 0).sum())} constant "
                f"of {self.latent_dim} over {rows.shape[0]} vectors; pass more or other latents"
            )
        self.shift.copy_(rows.mean(dim=0))
        self.scale.copy_(deviation)

    def loss(
        self, latents: Tensor, cond: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Mean squared error of the network's answer at one random step per row.

        The steps of a batch are spread evenly over 1 ... T from a random start, which leaves the
        distribution of each row's step uniform and lowers the variance of the mean.

        Args:
            latents: (batch, latent, latent_dim) or (batch, latent_dim).
            cond: Condition of each row, (batch, cond_dim).
            generator: Where steps and noise come from; None: torch's global generator.

        Returns:
            Scalar; 1 for an untrained network, standardised latents and `v` or `eps`.

        Raises:
            ValueError: Wrong shapes, values that are not finite, or a condition where none is
                taken or none where one is needed.
        """
        x0 = (self._rows(latents) - self.shift) / self.scale
        cond = self._checked_cond(cond, x0.shape[0])
        batch = x0.shape[0]
        start = _draw("rand", (1,), generator, x0)
        fraction = (start + torch.arange(batch, device=x0.device) / batch) % 1.0
        t = (fraction * self.n_steps).long().clamp(max=self.n_steps - 1) + 1
        noise = _draw("randn", tuple(x0.shape), generator, x0)
        cos, sin = self._signal_noise(t)
        x_t = cos * x0 + sin * noise
        target = {"v": cos * noise - sin * x0, "eps": noise, "x0": x0}[self.prediction]
        return functional.mse_loss(self._answer(x_t, t, cond), target)

    def q_sample(
        self,
        x0: Tensor,
        t: Tensor,
        noise: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        r"""Noised latents $\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$.

        Args:
            x0: Standardised latents, (batch, latent, latent_dim) or (batch, latent_dim).
            t: Step of each row, (batch,) integers in 0 ... T; at 0 the latents come back.
            noise: Shape of `x0`; default drawn from the standard normal distribution.
            generator: Where the noise comes from; None: torch's global generator.

        Returns:
            Shape of `x0`.

        Raises:
            ValueError: Wrong shapes, values that are not finite, or steps out of range.
        """
        rows = self._rows(x0, "x0")
        self._check_steps(t, rows.shape[0], first=0)
        if noise is None:
            noise = _draw("randn", tuple(x0.shape), generator, rows)
        elif noise.shape != x0.shape:
            raise ValueError(f"noise must have the shape {tuple(x0.shape)}, got {_shape(noise)}")
        cos, sin = self._signal_noise(t)
        return (cos * rows + sin * noise.reshape(rows.shape)).reshape(x0.shape)

    def convert(self, value: Tensor, x_t: Tensor, t: Tensor, *, given: str, wanted: str) -> Tensor:
        """One of v, eps and x0 from another.

        Args:
            value: What is given, shape of `x_t`.
            x_t: Noised latents, (batch, latent, latent_dim) or (batch, latent_dim).
            t: Step of each row, (batch,) integers in 1 ... T.
            given: What `value` is: `v`, `eps` or `x0`.
            wanted: What is returned: `v`, `eps` or `x0`.

        Returns:
            Shape of `x_t`, in the units of standardised latents.

        Raises:
            ValueError: An unknown name, wrong shapes, values that are not finite, or steps out of
                range.
        """
        _check_choice("given", given, _PREDICTIONS)
        _check_choice("wanted", wanted, _PREDICTIONS)
        noised = self._rows(x_t, "x_t", cast=False)
        values = self._rows(value, "value", cast=False)
        if value.shape != x_t.shape:
            raise ValueError(f"value must have the shape {tuple(x_t.shape)}, got {_shape(value)}")
        self._check_steps(t, noised.shape[0], first=1)
        cos, sin = self._signal_noise(t, noised.dtype)
        x0, eps = _split(values, noised, cos, sin, given)
        result = {"x0": x0, "eps": eps, "v": cos * eps - sin * x0}[wanted]
        return (values if given == wanted else result).reshape(x_t.shape)

    @torch.no_grad()
    def sample(
        self,
        shape: Sequence[int],
        n_steps: int = 50,
        sampler: str = "ddim",
        cond: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """New latents.

        Args:
            shape: (batch, latent, latent_dim) or (batch, latent_dim).
            n_steps: Evaluations of the network, 1 ... T, evenly spaced over the steps.
            sampler: `ddim` (deterministic from the first noise; Song et al. 2021) or `ddpm`
                (fresh noise at every step; Ho et al. 2020).
            cond: Condition of each row, (batch, cond_dim).
            generator: Where the noise comes from; None: torch's global generator.

        Returns:
            Latents of `shape`, in the units of the latents that were calibrated with.

        Raises:
            ValueError: A wrong shape, an unknown sampler, `n_steps` out of range, or a condition
                where none is taken or none where one is needed.
        """
        _check_choice("sampler", sampler, _SAMPLERS)
        if not 1 <= n_steps <= self.n_steps:
            raise ValueError(
                f"n_steps must lie in 1 ... {self.n_steps}, the steps of this diffusion, "
                f"got {n_steps}"
            )
        if len(shape) not in {2, 3} or shape[-1] != self.latent_dim or min(shape) < 1:
            raise ValueError(
                f"shape must be (batch, latent, {self.latent_dim}) or (batch, {self.latent_dim}), "
                f"got {tuple(shape)}"
            )
        batch = shape[0]
        cond = self._checked_cond(cond, batch)
        x = _draw("randn", (batch, math.prod(shape[1:-1]), shape[-1]), generator, self.scale)
        for now, then in pairwise(self._grid(n_steps)):
            t = torch.full((batch,), now, device=x.device)
            cos, sin = self._signal_noise(t)
            x0, eps = _split(self._answer(x, t, cond), x, cos, sin, self.prediction)
            cos_then, sin_then = self._signal_noise(torch.full_like(t, then))
            if sampler == "ddim" or then == 0:
                x = cos_then * x0 + sin_then * eps
                continue
            # Song et al. 2021, eq. 12 and 16 with eta = 1: the variance of the DDPM posterior.
            variance = (sin_then / sin).square() * (1 - (cos / cos_then).square())
            direction = (sin_then.square() - variance).clamp(min=0).sqrt()
            fresh = _draw("randn", tuple(x.shape), generator, x)
            x = cos_then * x0 + direction * eps + variance.sqrt() * fresh
        return (x * self.scale + self.shift).reshape(tuple(shape))

    def _grid(self, n_steps: int) -> list[int]:
        """The steps that sampling visits, from noise down to 0."""
        first = self.n_steps
        if self.prediction == "eps":
            first = max(1, int((self.angle.cos() >= _LEAST_SIGNAL).nonzero()[-1]))
        steps: list[int] = torch.linspace(first, 0, min(n_steps, first) + 1).round().int().tolist()
        return steps

    def _answer(
        self,
        x_t: Float[Tensor, "batch latent feature"],
        t: Int[Tensor, " batch"],
        cond: Float[Tensor, "batch cond"] | None,
    ) -> Float[Tensor, "batch latent feature"]:
        # bfloat16 has 3 digits: too few for the small steps at the clean end.
        with torch.autocast(x_t.device.type, enabled=False):
            answer: Tensor = self.denoiser(x_t, t.to(x_t.dtype) / self.n_steps, cond)
        return answer

    def _signal_noise(
        self, t: Int[Tensor, " batch"], dtype: torch.dtype | None = None
    ) -> tuple[Float[Tensor, "batch 1 1"], Float[Tensor, "batch 1 1"]]:
        """Square roots of abar and 1 - abar at each row's step."""
        angle = self.angle[t][:, None, None].to(self.scale.dtype if dtype is None else dtype)
        return angle.cos(), angle.sin()

    def _rows(self, x: Tensor, name: str = "latents", *, cast: bool = True) -> Tensor:
        """Checked latents as (batch, latent, latent_dim), in the dtype of the parameters."""
        if x.ndim not in {2, 3} or x.shape[-1] != self.latent_dim or x.numel() == 0:
            raise ValueError(
                f"{name} must be (batch, latent, {self.latent_dim}) or "
                f"(batch, {self.latent_dim}) and not empty, got shape {_shape(x)}"
            )
        _check_finite(name, x)
        rows = x if x.ndim == 3 else x[:, None]
        return rows.to(self.scale.dtype) if cast else rows

    def _check_steps(self, t: Tensor, batch: int, *, first: int) -> None:
        if t.shape != (batch,) or t.dtype not in {torch.int32, torch.int64}:
            raise ValueError(
                f"t must be (batch,) = ({batch},) integers, got shape {_shape(t)}, {t.dtype}"
            )
        low, high = int(t.min()), int(t.max())
        if not first <= low <= high <= self.n_steps:
            raise ValueError(f"t must lie in {first} ... {self.n_steps}, got {low} ... {high}")

    def _checked_cond(self, cond: Tensor | None, batch: int) -> Tensor | None:
        if cond is None and self.cond_dim is None:
            return None
        if cond is None:
            raise ValueError(f"this diffusion needs cond ({batch}, {self.cond_dim}), got none")
        if self.cond_dim is None:
            raise ValueError("this diffusion takes no cond; build it with cond_dim to give one")
        if cond.shape != (batch, self.cond_dim):
            raise ValueError(f"cond must be ({batch}, {self.cond_dim}), got shape {_shape(cond)}")
        _check_finite("cond", cond)
        return cond.to(self.scale.dtype)


def _schedule_angles(schedule: str, n_steps: int) -> Float[Tensor, " step"]:
    """atan2(sqrt(1 - abar), sqrt(abar)) at the steps 0 ... T."""
    if schedule == "cosine":
        t = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
        f = ((t + _OFFSET) / (1 + _OFFSET) * torch.pi / 2).cos().square()
        beta = 1 - f[1:] / f[:-1]
    else:
        beta = torch.linspace(0.1, 20.0, n_steps, dtype=torch.float64) / n_steps
    abar = functional.pad((1 - beta.clamp(max=_MAX_BETA)).cumprod(0), (1, 0), value=1.0)
    return torch.atan2((1 - abar).sqrt(), abar.sqrt()).float()


def _split(
    value: Float[Tensor, "batch latent feature"],
    x_t: Float[Tensor, "batch latent feature"],
    cos: Float[Tensor, "batch 1 1"],
    sin: Float[Tensor, "batch 1 1"],
    given: str,
) -> tuple[Float[Tensor, "batch latent feature"], Float[Tensor, "batch latent feature"]]:
    """Signal x0 and noise eps of `x_t` (Salimans & Ho 2022, appendix D)."""
    if given == "v":
        return cos * x_t - sin * value, sin * x_t + cos * value
    if given == "eps":
        return (x_t - sin * value) / cos, value
    return value, (x_t - cos * value) / sin


def _draw(kind: str, shape: tuple[int, ...], generator: Generator | None, like: Tensor) -> Tensor:
    source = torch.rand if kind == "rand" else torch.randn
    device = like.device if generator is None else generator.device
    return source(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_finite(name: str, x: Tensor) -> None:
    bad = ~torch.isfinite(x.detach())
    if bool(bad.any()):
        raise ValueError(
            f"{name} needs finite values, got {int(bad.sum())} NaN or infinite of {bad.numel()}"
        )


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
