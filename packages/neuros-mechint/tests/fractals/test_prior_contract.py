"""What every objective on latents holds."""

import pytest
import torch

from neuros_mechint.fractals import (
    AdaptiveFractalPrior,
    MultifractalSmoothness,
    SpectralPrior,
    TemporalScaleInvariance,
)

PRIORS = [SpectralPrior, TemporalScaleInvariance, AdaptiveFractalPrior, MultifractalSmoothness]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prior_type", PRIORS)
def test_half_precision_and_autocast_are_computed_in_float32(
    prior_type: type[torch.nn.Module], dtype: torch.dtype
) -> None:
    x = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    prior = prior_type()
    expected = prior(x.float()).detach()
    assert float(expected) != 0
    torch.testing.assert_close(prior(x).detach(), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = x.float().requires_grad_()
        inside = prior(latents)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside.detach(), expected)
    inside.backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()
    assert latents.grad.abs().sum() > 0
