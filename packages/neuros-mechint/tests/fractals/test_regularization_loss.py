"""Sum of fractal objectives."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.fractals import (
    AdaptiveFractalPrior,
    FractalRegularizationLoss,
    GraphFractalityPrior,
    MultifractalSmoothness,
    SpectralPrior,
    TemporalScaleInvariance,
)


class Spread(nn.Module):
    """Any module with a weight is a part; this one reads attention."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, attention: Tensor) -> Tensor:
        return self.weight * attention.square().sum(-1).mean()


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_parts_sum_to_the_total() -> None:
    x, attention = white(2, 128, 3), white(2, 4, 16, 16).softmax(-1)
    priors = {
        "spectral": SpectralPrior(weight=0.1),
        "multifractal": MultifractalSmoothness(weight=0.2),
        "temporal": TemporalScaleInvariance(weight=0.3),
        "graph": GraphFractalityPrior(weight=0.4),
    }
    total, parts = FractalRegularizationLoss(**priors)(x, attention)
    assert list(parts) == ["spectral", "multifractal", "graph", "temporal"]
    for name, part in parts.items():
        read = attention if name == "graph" else x
        torch.testing.assert_close(part, priors[name](read), rtol=0, atol=0)
    assert total.shape == ()
    torch.testing.assert_close(total, sum(parts.values()))


def test_one_gradient_reaches_latents_attention_and_parameters() -> None:
    x, scores = white(2, 128, 3).requires_grad_(), white(2, 8, 8).requires_grad_()
    loss = FractalRegularizationLoss(spectral=AdaptiveFractalPrior(), graph=Spread(1.0))
    assert sorted(dict(loss.named_parameters())) == ["spectral.log_variance", "spectral.position"]
    total, _ = loss(x, scores.softmax(-1))
    total.backward()
    leaves = [x, scores, *loss.parameters()]
    assert all((leaf.grad != 0).any() for leaf in leaves)


def test_parts_without_weight_are_not_computed() -> None:
    broken = torch.full((2, 128, 3), float("nan"), requires_grad=True)
    loss = FractalRegularizationLoss(
        spectral=SpectralPrior(weight=0.0), graph=Spread(0.0), temporal=None
    )
    total, parts = loss(broken)
    assert parts == {}
    assert total.shape == ()
    assert total.item() == 0
    assert total.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_total_has_the_dtype_of_its_parts(dtype: torch.dtype) -> None:
    x = white(2, 64, 3).to(dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert FractalRegularizationLoss()(x)[0].dtype == expected
    total, _ = FractalRegularizationLoss(spectral=SpectralPrior())(x)
    assert total.dtype == expected
    assert total.device == x.device


def test_autocast_changes_nothing() -> None:
    x = white(2, 128, 3).requires_grad_()
    loss = FractalRegularizationLoss(
        spectral=SpectralPrior(),
        multifractal=MultifractalSmoothness(),
        temporal=TemporalScaleInvariance(),
    )
    expected, _ = loss(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss(x)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)
    total.backward()


def test_each_part_names_what_it_reads() -> None:
    # What a combined loss of another package asks for; the sum itself needs two outputs.
    for prior in (SpectralPrior(), AdaptiveFractalPrior(), TemporalScaleInvariance()):
        assert prior.reads == "latents"
        assert prior(white(2, 64, 3)).ndim == 0
    assert not hasattr(FractalRegularizationLoss(), "reads")


def test_bad_parts_and_inputs_are_refused() -> None:
    with pytest.raises(TypeError, match=r"spectral must be a torch.nn.Module|Type-check error"):
        FractalRegularizationLoss(spectral="pink")
    with pytest.raises(TypeError, match=r"temporal must be .* with a weight.*got Identity"):
        FractalRegularizationLoss(temporal=nn.Identity())
    with pytest.raises(ValueError, match="graph has a weight but there is no attention"):
        FractalRegularizationLoss(graph=Spread(1.0))(white(2, 64, 3))
    rows = FractalRegularizationLoss(spectral=SpectralPrior(reduction="none"))
    with pytest.raises(ValueError, match=r"spectral must return a scalar, got shape \(2, 3\)"):
        rows(white(2, 64, 3))
    with pytest.raises(ValueError, match=r"\(batch, time, channel\), got \(64, 3\)"):
        FractalRegularizationLoss()(white(64, 3))


@pytest.mark.slow  # a new interpreter, because a run-time shape checker cannot be traced
def test_every_objective_compiles() -> None:
    code = (
        "import torch\n"
        "from neuros_mechint.fractals import *\n"
        "x = torch.randn(2, 128, 3, requires_grad=True)\n"
        "loss = FractalRegularizationLoss(\n"
        "    spectral=AdaptiveFractalPrior(), multifractal=SpectralPrior(target_beta=2.0),\n"
        "    temporal=TemporalScaleInvariance())\n"
        "compiled = torch.compile(loss, backend='eager', fullgraph=False)\n"
        "total, parts = compiled(x)\n"
        "(found,) = torch.autograd.grad(total, x)\n"
        "expected, _ = loss(x)\n"
        "(gradient,) = torch.autograd.grad(expected, x)\n"
        "torch.testing.assert_close(total, expected)\n"
        "torch.testing.assert_close(found, gradient)\n"
        "assert len(parts) == 3\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
