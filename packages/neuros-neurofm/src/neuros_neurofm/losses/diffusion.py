"""Train a diffusion on the latents of the model that holds it."""

from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from neuros_neurofm.losses._likelihood import check_weight

__all__ = ["DiffusionLoss"]


@runtime_checkable
class Diffusion(Protocol):
    """What `neuros_neurofm.models.LatentDiffusion` has."""

    def loss(
        self, latents: Tensor, cond: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor: ...


class DiffusionLoss:
    r"""Denoising loss of a latent diffusion, as an objective of `CombinedLoss`.

    It reads the output `latents` and passes them on without their gradient: the diffusion learns
    what the model makes, and the model does not make what is easy to denoise (equal latents). The
    parameters stay those of the diffusion; build the optimiser over the model that holds it.

    Args:
        diffusion: The diffusion, such as `model.diffusion` of a `MultiModalNeuroFMX` that was
            built with `diffusion=True`.
        weight: Factor of the loss, >= 0.
        name: Key of this objective in `CombinedLoss.terms`.
        generator: Where noise and noise levels come from; None: torch's global generator, like
            dropout.

    Raises:
        ValueError: A weight that is negative or not finite.
        TypeError: None, which a model without `diffusion=True` holds.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.losses import CombinedLoss
        >>> class Spread:
        ...     def loss(self, latents, cond=None, generator=None):
        ...         return latents.var(correction=0)
        >>> latents = torch.tensor([[[1.0, 3.0]]], requires_grad=True)
        >>> loss = CombinedLoss([DiffusionLoss(Spread(), weight=0.5)])
        >>> value = loss({"latents": latents}, {})
        >>> value.item(), value.requires_grad
        (0.5, False)
    """

    reads = "latents"

    def __init__(
        self,
        diffusion: Diffusion | None,
        *,
        weight: float = 1.0,
        name: str = "diffusion",
        generator: Generator | None = None,
    ) -> None:
        check_weight(weight)
        if diffusion is None:
            raise TypeError(
                "diffusion must have a method loss(latents), got None; build the model with "
                "diffusion=True and pass model.diffusion"
            )
        self.diffusion = diffusion
        self.weight = weight
        self.name = name
        self.generator = generator

    def __call__(self, latents: Tensor) -> Tensor:
        """Score the diffusion on latents.

        Args:
            latents: (batch, latent, latent_dim).

        Returns:
            The weighted loss, shape ().
        """
        return self.weight * self.diffusion.loss(latents.detach(), generator=self.generator)
