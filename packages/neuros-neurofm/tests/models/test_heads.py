import math

import pytest
import torch

from neuros_neurofm.models import ContrastiveHead, DecoderHead, EncoderHead, ForecastHead


def test_encoder_reads_every_sample_with_the_units_of_its_step() -> None:
    torch.manual_seed(0)
    head, latents, units = EncoderHead(8, 4), torch.randn(2, 3, 8), torch.randn(2, 5, 6, 4)
    index, phase = torch.tensor([[0, 2, 1, 1, 0], [2, 2, 0, 1, 0]]), torch.rand(2, 5)
    # In any order, several samples of one step and none of another.
    known = torch.tensor([[4, 0, 0, 2, 0], [1, 4, 4, 4, 3]])
    found = head(latents, units, index, phase, known)
    for row in range(2):
        for t in range(5):
            one = slice(row, row + 1), slice(t, t + 1)
            own = units[row : row + 1, known[row, t]].unsqueeze(1)
            alone = head(latents[row : row + 1], own, index[one], phase[one])
            torch.testing.assert_close(found[one], alone, atol=1e-6, rtol=1e-5)


def test_encoder_of_a_channel_does_not_depend_on_the_other_channels() -> None:
    head, latents, units = EncoderHead(8, 4), torch.randn(2, 3, 8), torch.randn(1, 1, 5, 4)
    index, phase = torch.tensor([[0, 1, 2, 2]]), torch.rand(1, 4)
    whole = head(latents, units, index, phase)
    part = head(latents, units[:, :, [4, 1]], index, phase)
    torch.testing.assert_close(whole[..., [4, 1]], part)


def test_encoder_with_units_per_latent_equals_constant_units_where_they_agree() -> None:
    head, latents, units = EncoderHead(8, 4), torch.randn(2, 3, 8), torch.randn(1, 1, 5, 4)
    index, phase = torch.tensor([[0, 1, 2, 2]]), torch.rand(1, 4)
    torch.testing.assert_close(
        head(latents, units.expand(2, 3, 5, 4), index, phase), head(latents, units, index, phase)
    )


def test_encoder_reads_each_sample_from_its_own_latent_and_phase() -> None:
    head, latents, units = EncoderHead(8, 4), torch.randn(1, 3, 8), torch.randn(1, 1, 2, 4)
    index, phase = torch.tensor([[0, 2, 2]]), torch.tensor([[0.5, 0.5, 1.0]])
    changed = latents.clone()
    changed[:, 2] += 1
    a, b = head(latents, units, index, phase), head(changed, units, index, phase)
    assert torch.equal(a[:, 0], b[:, 0])
    assert (a[:, 1:] != b[:, 1:]).all()
    assert (a[:, 1] != a[:, 2]).all()


def test_encoder_of_zero_latents_and_units_is_its_bias() -> None:
    head = EncoderHead(8, 4)
    with torch.no_grad():
        head.state.bias.zero_()
    out = head(torch.zeros(1, 2, 8), torch.zeros(1, 1, 3, 4), torch.tensor([[1]]), torch.rand(1, 1))
    torch.testing.assert_close(out, head.offset.bias.expand(1, 1, 3))


def test_untrained_forecast_is_persistence() -> None:
    head, last = ForecastHead(8, 4, horizon=5), torch.randn(2, 3)
    out = head(torch.randn(2, 8), torch.randn(1, 3, 4), last)
    assert torch.equal(out, last.unsqueeze(1).expand(2, 5, 3))


def test_forecast_can_be_that_of_an_ar1_process() -> None:
    head, last = ForecastHead(8, 4, horizon=4), torch.randn(2, 3)
    with torch.no_grad():
        head.rho_offset.mul_(0).add_((0.8 ** torch.arange(1, 5) - 1) / 10)
    expected = torch.stack([0.8**h * last for h in range(1, 5)], dim=1)
    torch.testing.assert_close(head(torch.randn(2, 8), torch.randn(1, 3, 4), last), expected)


def test_forecast_learns_the_shrinkage_of_a_known_process() -> None:
    generator = torch.Generator().manual_seed(0)
    head = ForecastHead(8, 4, horizon=2)
    last = torch.randn(4_000, 1, generator=generator)
    noise = torch.randn(4_000, 2, 1, generator=generator) * 0.1
    future = torch.stack([0.9 * last, 0.81 * last], dim=1) + noise
    optimiser = torch.optim.Adam([head.rho_offset], lr=0.005)
    for _ in range(150):
        loss = (head(torch.zeros(4_000, 8), torch.zeros(1, 1, 4), last) - future).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # The standard error of a slope is 0.1 / sqrt(4000) = 0.0016.
    torch.testing.assert_close(head.rho.data, torch.tensor([0.9, 0.81]), atol=0.01, rtol=0)


def test_forecast_moves_all_its_weights_away_from_zero() -> None:
    head = ForecastHead(8, 4, horizon=2)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):
        out = head(torch.ones(1, 8), torch.ones(1, 3, 4), torch.ones(1, 3) / 2)
        (out - 1).square().mean().backward()
        optimiser.step()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


def test_decoder_answers_before_the_first_latent_from_its_own_vector() -> None:
    head = DecoderHead(8, 2)
    index, elapsed = torch.tensor([[-1, 0, 1]]), torch.zeros(1, 3)
    a, b = torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    assert torch.equal(head(a, index, elapsed)[:, 0], head(b, index, elapsed)[:, 0])
    assert not torch.equal(head(a, index, elapsed)[:, 1:], head(b, index, elapsed)[:, 1:])


def test_decoder_moves_with_the_time_since_its_latent() -> None:
    head, latents = DecoderHead(8, 2), torch.randn(1, 2, 8)
    out = head(latents, torch.tensor([[1, 1, 1]]), torch.tensor([[0.0, 0.5, 1e9]]))
    assert not torch.equal(out[:, 0], out[:, 1])
    assert torch.isfinite(out).all()


def test_contrast_vectors_have_norm_one_also_in_bfloat16() -> None:
    head, x = ContrastiveHead(8), torch.randn(5, 8) * 1e4
    torch.testing.assert_close(head(x).norm(dim=-1), torch.ones(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x).norm(dim=-1), torch.ones(5))
    assert head(x).shape == (5, 128)
    assert math.isfinite(float(head(torch.zeros(1, 8)).detach().sum()))


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="behavior_dim must be >= 1, got 0"):
        DecoderHead(8, 0)
    with pytest.raises(ValueError, match="horizon must be >= 1 sample, got 0"):
        ForecastHead(8, 4, horizon=0)
