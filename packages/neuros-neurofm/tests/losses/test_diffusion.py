import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm.losses import CombinedLoss, DiffusionLoss


class Noise(torch.nn.Module):
    """A diffusion whose loss is its own level, plus what it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(2.0))

    def loss(
        self, latents: Tensor, cond: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        assert cond is None
        return self.level * latents.square().mean() + torch.rand((), generator=generator)


def test_the_diffusion_gets_a_gradient_and_the_latents_get_none() -> None:
    diffusion, latents = Noise(), torch.full((2, 3, 4), 0.5, requires_grad=True)
    loss = CombinedLoss([DiffusionLoss(diffusion, weight=4.0, name="draw")])
    loss({"latents": latents}, {}).backward()
    assert diffusion.level.grad == 1.0
    assert latents.grad is None
    assert list(loss.terms) == ["draw"]
    # The parameters stay the diffusion's own: an optimiser over model and loss sees them once.
    assert not list(loss.parameters())


def test_the_generator_decides_the_noise() -> None:
    latents = torch.ones(1, 1, 1)
    values = [
        float(DiffusionLoss(Noise(), generator=Generator().manual_seed(seed))(latents).detach())
        for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


def test_what_is_no_diffusion_is_refused() -> None:
    with pytest.raises(TypeError, match="got None; build the model with diffusion=True"):
        DiffusionLoss(None)
    with pytest.raises(ValueError, match="weight must be a finite number >= 0, got -1"):
        DiffusionLoss(Noise(), weight=-1.0)
