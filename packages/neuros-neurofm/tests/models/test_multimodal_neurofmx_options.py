"""The optional parts of the model: domain discriminator, diffusion, power-law blocks, sizes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neuros_neurofm.losses import CombinedLoss, DiffusionLoss, DomainAdversarialLoss
from neuros_neurofm.models import LatentDiffusion, MultiModalNeuroFMX, reversal_schedule
from neuros_neurofm.models._domain_head import DomainHead

LABELS = torch.tensor([0, 2, -100])


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    settings = {
        "d_model": 16,
        "n_mamba_blocks": 1,
        "n_latents": 8,
        "latent_dim": 12,
        "modalities": ("spike", "ecog"),
        "sampling_rates": {"spike": 100.0, "ecog": 200.0},
        "window": 1.0,
        "perceiver_depth": 1,
        "popt_depth": 1,
    }
    return MultiModalNeuroFMX(**(settings | options)).eval()


def data(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "spike": torch.poisson(torch.ones(batch, 100, 5), generator=generator),
        "ecog": torch.randn(batch, 200, 3, generator=generator),
    }


def gradients(model: MultiModalNeuroFMX, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def domain_gradients(model: MultiModalNeuroFMX, lambd: float | None) -> dict[str, Tensor]:
    out = model(data(), LABELS, domain_lambda=lambd)
    return gradients(model, DomainAdversarialLoss()(out.domain_logits, LABELS))


def test_domain_logits_stand_beside_the_labels_they_are_scored_on() -> None:
    model = build(use_domain_adversarial=True, n_domains=4)
    out = model(data(), LABELS)
    assert out.domain_logits.shape == (3, 4)
    assert torch.equal(out["domain_labels"], LABELS)
    assert "domain_labels" not in model(data())
    assert build()(data()).domain_logits is None


def test_the_positional_order_is_the_published_one() -> None:
    model = MultiModalNeuroFMX(16, 1, 8, 12, True, 5, modalities=("emg",))
    assert model.config["use_domain_adversarial"] is True
    assert model({"emg": torch.randn(2, 9, 1)}).domain_logits.shape == (2, 5)


def test_the_reversal_scales_the_gradient_of_the_features_alone() -> None:
    model = build(use_domain_adversarial=True)
    at_one, at_half = domain_gradients(model, 1.0), domain_gradients(model, 0.5)
    assert any(n.startswith("backbone") for n in at_one)
    for name, gradient in at_one.items():
        if name.startswith("domain."):
            assert torch.equal(at_half[name], gradient)
        else:
            torch.testing.assert_close(at_half[name], 0.5 * gradient, rtol=1e-5, atol=1e-9)


def test_the_features_climb_what_the_discriminator_descends() -> None:
    model = build(use_domain_adversarial=True)
    pooled = model(data()).pooled.detach().requires_grad_()
    loss = DomainAdversarialLoss()
    loss(model.domain(pooled, 1.0), LABELS).backward()
    plain = pooled.detach().requires_grad_()
    loss(model.domain.discriminator(plain), LABELS).backward()
    torch.testing.assert_close(pooled.grad, -plain.grad)


def test_the_reversal_is_0_at_the_start_and_follows_the_progress() -> None:
    model = build(use_domain_adversarial=True)
    at_start = domain_gradients(model, None)
    # Read out of the last latents with strength 0: no feature moves, the discriminator does.
    assert all(g.abs().max() == 0 for n, g in at_start.items() if not n.startswith("domain."))
    assert at_start["domain.discriminator.layers.4.weight"].abs().max() > 0
    model.set_progress(0.3)
    assert float(model.domain.reversal.lambd) == pytest.approx(reversal_schedule(0.3))
    by_progress, given = domain_gradients(model, None), domain_gradients(model, math.tanh(1.5))
    torch.testing.assert_close(by_progress, given)
    other = build(use_domain_adversarial=True)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.domain.reversal.lambd, model.domain.reversal.lambd)
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\], got 2.0"):
        build().set_progress(2.0)


def test_labels_that_do_not_fit_are_refused() -> None:
    model, x = build(use_domain_adversarial=True), data()
    with pytest.raises(ValueError, match="species_labels was given, but the model has no domain"):
        build()(x, LABELS)
    with pytest.raises(ValueError, match="domain_lambda was given, but the model has no domain"):
        build()(x, domain_lambda=0.5)
    with pytest.raises(ValueError, match=r"in \[0, n_domains = 3\) or be -100 .* got \[-1, 3\]"):
        model(x, torch.tensor([0, 3, -1]))
    with pytest.raises(ValueError, match=r"must be \(batch,\) = \(3,\), got \(2,\)"):
        model(x, LABELS[:2])
    with pytest.raises(TypeError, match=r"must be integers, got torch\.float32"):
        model(x, LABELS.float())
    with pytest.raises(ValueError, match="lambd must be finite and >= 0, got -1"):
        model(x, LABELS, domain_lambda=-1.0)


def test_a_batch_brings_its_species_to_the_discriminator_and_to_the_loss() -> None:
    model = build(use_domain_adversarial=True)
    batch = data() | {"species": LABELS}
    out = model.forward_batch(batch)
    assert torch.equal(out.domain_labels, LABELS)
    loss = CombinedLoss([DomainAdversarialLoss(weight=0.5)])
    expected = torch.nn.functional.cross_entropy(out.domain_logits[:2], LABELS[:2])
    torch.testing.assert_close(loss(out, batch), 0.5 * expected)
    assert int(loss.counts(batch)["domain"]) == 2
    assert build().forward_batch(batch).domain_logits is None


@pytest.mark.parametrize(("lambd", "left"), [(1.0, 0.0), (0.0, 1.0)])
def test_features_that_fight_the_discriminator_hide_the_domain(lambd: float, left: float) -> None:
    # Two noisy domains a learned distance apart: reversed, the distance closes; at 0 it stays.
    torch.manual_seed(0)
    domain, read = DomainHead(12, 2), torch.nn.Linear(2, 12)
    labels, noise = torch.arange(200) % 2, torch.randn(200, 2)
    side = torch.stack([labels * 2.0 - 1.0, torch.zeros(200)], dim=1)
    distance = torch.nn.Parameter(torch.ones(()))
    optimiser = torch.optim.SGD(
        [{"params": [distance], "lr": 0.05}, {"params": domain.parameters(), "lr": 0.5}]
    )
    for _ in range(80):
        optimiser.zero_grad()
        logits = domain(read(noise + distance * side), lambd)
        DomainAdversarialLoss()(logits, labels).backward()
        optimiser.step()
    assert distance.item() == pytest.approx(left, abs=0.25)


def test_a_row_without_a_modality_equals_a_call_without_it_in_every_output() -> None:
    model = build(use_domain_adversarial=True, forecast_horizon=3, diffusion=True)
    x = data()
    keep = torch.tensor([True, False, True]).view(3, 1, 1)
    mixed = model(x, LABELS, masks={"ecog": keep})
    alone = model({"spike": x["spike"][1:2]}, LABELS[1:2])
    assert set(alone) == {
        "latents", "times", "pooled", "contrastive", "encoder", "decoder", "forecast",
        "domain_logits", "domain_labels",
    }  # fmt: skip
    for name in set(alone) - {"times", "encoder", "forecast"}:
        torch.testing.assert_close(mixed[name][1:2], alone[name], atol=1e-5, rtol=1e-5)
    for name in ("encoder", "forecast"):
        torch.testing.assert_close(
            mixed[name]["spike"][1:2], alone[name]["spike"], atol=1e-5, rtol=1e-5
        )
    assert torch.equal(mixed.times, alone.times)


def test_the_diffusion_learns_from_the_latents_and_leaves_them_alone() -> None:
    model = build(diffusion=True)
    assert isinstance(model.diffusion, LatentDiffusion)
    assert build().diffusion is None
    out = model(data())
    model.diffusion.calibrate(out.latents)
    generator = torch.Generator().manual_seed(3)
    loss = CombinedLoss([DiffusionLoss(model.diffusion, weight=2.0, generator=generator)])
    value = loss(out, data())
    again = model.diffusion.loss(out.latents, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(value, 2 * again)
    found = gradients(model, value)
    assert {n.split(".")[0] for n in found} == {"diffusion"}
    drawn = model.diffusion.sample((2, 8, 12), n_steps=2, generator=generator)
    assert torch.isfinite(drawn).all()


def test_optional_parts_are_frozen_and_counted_by_name() -> None:
    model = build(use_domain_adversarial=True, diffusion=True)
    assert model.parts[-2:] == ("domain", "diffusion")
    counts = model.num_parameters(by_part=True)
    assert sum(n for part, n in counts.items() if "." not in part) == model.num_parameters()
    model.freeze("domain", "diffusion").train()
    assert not any(p.requires_grad for p in model.domain.parameters())
    assert not model.diffusion.training
    assert "domain" not in build().parts


@pytest.mark.parametrize("causal", [True, False])
def test_the_backbone_may_have_power_law_memory(causal: bool) -> None:
    model = build(ssm="fractional", n_mamba_blocks=2, causal=causal).train()
    out = model(data())
    out.latents.square().mean().backward()
    silent = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert not silent
    assert torch.isfinite(out.latents).all()
    assert (
        model.num_parameters(by_part=True)["backbone"]
        != build(n_mamba_blocks=2, causal=causal).num_parameters(by_part=True)["backbone"]
    )


# A hundred million random numbers are drawn.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "millions", "width", "depth"),
    [("small", 20, 256, 4), ("medium", 50, 512, 8), ("large", 100, 768, 16)],
)
def test_a_size_has_its_number_of_parameters(
    size: str, millions: float, width: int, depth: int
) -> None:
    rates = {"spike": 100.0, "lfp": 1000.0, "calcium": 30.0, "eeg": 250.0, "fmri": 0.5,
             "ecog": 1000.0, "emg": 1000.0}  # fmt: skip
    model = MultiModalNeuroFMX.from_size(size, sampling_rates=rates)
    assert (model.config["d_model"], model.config["n_mamba_blocks"]) == (width, depth)
    tables = sum(t.core.units.weight.numel() for t in model.tokenizers.values())
    assert model.num_parameters() - tables == pytest.approx(1e6 * millions, rel=0.1)
    assert set(model.heads) == {"decoder", "encoder", "contrastive", "forecast"}
    assert model.modalities == tuple(rates)


def test_options_win_over_the_size() -> None:
    model = MultiModalNeuroFMX.from_size(
        "small", modalities=("emg",), d_model=32, latent_dim=16, forecast_horizon=0
    )
    assert (model.config["d_model"], model.config["latent_dim"]) == (32, 16)
    assert "forecast" not in model.heads
    with pytest.raises(ValueError, match=r"one of \['small', 'medium', 'large'\], got 'tiny'"):
        MultiModalNeuroFMX.from_size("tiny")
