"""Synthetic populations: what is said to be known about them is true."""

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import SyntheticSession, synthetic_population
from neuros_neurofm.datasets._dynamics import integrate_lorenz
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import MultiModalTrainer, collate

DYNAMICS = ["lorenz", "ring", "line"]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def one_session(dynamics: str, **options: Any) -> SyntheticSession:
    (session,) = synthetic_population(1, 4, dynamics, generator=seeded(), **options)
    return session


@pytest.fixture(scope="module")
def lorenz() -> SyntheticSession:
    (session,) = synthetic_population(
        1, 1, generator=seeded(), n_trials=2_000, n_times=20, bin_s=1.0
    )
    return session


def test_lorenz_latents_are_standardised(lorenz: SyntheticSession) -> None:
    # 2000 independent trials of 20 samples a time unit apart: errors of 1 % at most.
    states = lorenz.latents.flatten(0, 1)
    torch.testing.assert_close(states.mean(0), torch.zeros(3), atol=0.06, rtol=0)
    torch.testing.assert_close(states.std(0), torch.ones(3), atol=0.03, rtol=0)
    # Already in the first bin: 2000 states, standard errors of 2.2 % and 1.6 %.
    first = lorenz.latents[:, 0]
    torch.testing.assert_close(first.mean(0), torch.zeros(3), atol=0.12, rtol=0)
    torch.testing.assert_close(first.std(0), torch.ones(3), atol=0.08, rtol=0)


def test_lorenz_latents_lie_on_the_attractor(lorenz: SyntheticSession) -> None:
    mean, deviation = torch.tensor([0.0, 0.0, 23.55]), torch.tensor([7.92, 9.01, 8.62])
    x, y, z = (lorenz.latents * deviation + mean).flatten(0, 1).unbind(-1)
    # The absorbing ellipsoid and the range of z; no state of the attractor leaves them.
    assert (x.square() + y.square() + (z - 38).square() < 39.25**2).all()
    assert (z > 0).all()
    assert z.max() < 50
    # d<x^2>/dt = 0 and d<z>/dt = 0: <x^2> = <xy> = beta <z>, each to 1 % in 4e4 states.
    expected = 8 / 3 * z.mean().item()
    assert (x * y).mean().item() == pytest.approx(expected, rel=0.03)
    assert x.square().mean().item() == pytest.approx(expected, rel=0.03)


def test_runge_kutta_converges_with_the_fourth_order() -> None:
    state = torch.tensor([[1.0], [2.0], [20.0]], dtype=torch.float64)

    def after(n_steps: int) -> Tensor:
        x = state
        for _ in range(n_steps):
            x = integrate_lorenz(x, 0.08 / n_steps)
        return x

    # Calls of 0.01 and less take one step each: halving them divides the error by 16.
    truth = after(512)
    coarse, fine = ((after(n) - truth).norm() for n in (8, 16))
    assert 13 < coarse / fine < 19
    # Longer calls take the same steps inside.
    assert torch.equal(integrate_lorenz(state, 0.08), after(8))


def test_fixed_points_of_lorenz_stay() -> None:
    root = math.sqrt(8 / 3 * 27)
    state = torch.tensor([[0.0, root, -root], [0.0, root, -root], [0.0, 27.0, 27.0]])
    state = state.double()
    torch.testing.assert_close(integrate_lorenz(state, 1.0), state, atol=1e-4, rtol=0)


def test_ring_latents_lie_on_the_circle_and_forget_at_the_stated_speed() -> None:
    z = one_session("ring", n_trials=20_000, n_times=11, bin_s=0.1, speed=2.0).latents
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(z.shape[:2]), atol=1e-6, rtol=0)
    similarity = (z[:, :1] * z).sum(-1).mean(0)
    expected = (-2.0 * 0.1 * torch.arange(11)).exp()
    # 2e4 trials of a quantity within [-1, 1]: five standard errors at most.
    torch.testing.assert_close(similarity, expected, atol=0.026, rtol=0)
    torch.testing.assert_close(z.mean(dim=(0, 1)), torch.zeros(2), atol=0.03, rtol=0)


def test_line_latents_are_standardised_and_forget_at_the_stated_speed() -> None:
    z = one_session("line", n_trials=20_000, n_times=11, bin_s=0.1, speed=2.0).latents[..., 0]
    covariance = (z[:, :1] * z).mean(0)
    expected = (-2.0 * 0.1 * torch.arange(11)).exp()
    # 2e4 products of deviation <= sqrt(2): a standard error of 0.01.
    torch.testing.assert_close(covariance, expected, atol=0.055, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(11), atol=0.055, rtol=0)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_rates_are_log_linear_in_the_latents_and_have_the_stated_mean(dynamics: str) -> None:
    session = one_session(dynamics, mean_rate_hz=7.0, modulation=1.5, n_times=30)
    log_rates = session.latents @ session.weights + session.baselines
    torch.testing.assert_close(session.rates, log_rates.exp(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(session.rates.mean((0, 1)), torch.full((4,), 7.0))
    torch.testing.assert_close(session.weights.norm(dim=0), torch.full((4,), 1.5))


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_counts_have_the_stated_mean_and_variance(noise: float) -> None:
    session = one_session(
        "line", noise=noise, modulation=0.0, mean_rate_hz=100.0, n_trials=1_000, n_times=100
    )
    m = 100 * 0.02
    variance = m + m**2 * (math.exp(noise**2) - 1)
    n = session.counts.numel()
    assert session.counts.mean().item() == pytest.approx(m, abs=5 * math.sqrt(variance / n))
    # 4e5 counts; the fourth moment of these laws is below 20 variances squared.
    assert session.counts.var().item() == pytest.approx(variance, rel=5 * math.sqrt(20 / n))
    assert (session.counts == session.counts.round()).all()


def test_counts_follow_the_rates_of_their_bin() -> None:
    session = one_session("ring", mean_rate_hz=50.0, n_trials=500)
    expected = session.rates * session.bin_s
    score = (session.counts - expected) / expected.sqrt()
    # 2e5 Poisson residuals of mean 0 and variance 1: standard errors of 0.22 % and 0.5 %.
    assert abs(score.mean().item()) < 0.012
    assert score.var().item() == pytest.approx(1.0, abs=0.03)
    high = expected > expected.quantile(0.9)
    assert session.counts[high].mean() > 1.5 * session.counts[~high].mean()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_sessions_share_no_unit_and_no_trial(dynamics: str) -> None:
    sessions = synthetic_population(3, 5, dynamics, generator=seeded(), n_trials=4, n_times=6)
    assert len({unit for session in sessions for unit in session.ids}) == 15
    assert sessions[2].ids[3] == "s2/u3"
    assert [session.session for session in sessions] == [0, 1, 2]
    assert all(session.counts.shape == (4, 6, 5) for session in sessions)
    assert all(x.dtype == torch.float32 for x in sessions[0][:5])
    assert not torch.equal(sessions[0].latents, sessions[1].latents)
    assert not torch.equal(sessions[0].weights, sessions[1].weights)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_a_seed_decides_the_population_bit_for_bit(dynamics: str) -> None:
    one, same, other = (
        synthetic_population(2, 3, dynamics, 0.2, generator=seeded(s), n_trials=2, n_times=5)[1]
        for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one[:5], same[:5], strict=True))
    assert not torch.equal(one.latents, other.latents)


def test_a_batch_holds_the_trials_that_were_chosen() -> None:
    session = one_session("line", n_trials=6, n_times=10, bin_s=0.05)
    batch = session.to_batch(torch.tensor([4, 1]))
    assert torch.equal(batch["spike"], session.counts[[4, 1]])
    assert torch.equal(batch["behavior"], session.latents[[4, 1]])
    assert batch["rates"] == {"spike": 20.0}
    assert batch["units"] == {"spike": session.ids}
    torch.testing.assert_close(batch["behavior_times"][1, [0, 9]], torch.tensor([0.05, 0.5]))
    assert session.to_batch()["spike"].shape == (6, 10, 4)
    with pytest.raises(ValueError, match="trials must choose at least one of the 6 trials"):
        session.to_batch(slice(6, 9))


# The model itself, for one epoch of three steps.
@pytest.mark.slow
def test_the_trainer_takes_a_population_as_it_is() -> None:
    sessions = synthetic_population(3, 6, "ring", generator=seeded(), n_trials=4, n_times=16)
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        32,
        1,
        16,
        16,
        modalities=("spike",),
        behavior_dim=2,
        sampling_rates={"spike": 50.0},
        perceiver_depth=1,
        popt_depth=1,
    )
    before = [p.clone() for p in model.parameters()]
    trainer = MultiModalTrainer(
        model,
        [session.to_batch() for session in sessions],
        loss=BehaviorLoss(),
        device="cpu",
        seed=0,
        progress=False,
    )
    (epoch,) = trainer.fit(1)
    assert trainer.global_step == 3
    assert 0 < epoch["loss"] < 10
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_rows_of_two_sessions_can_be_collated() -> None:
    rows = []
    for session in synthetic_population(2, 3, "line", generator=seeded(), n_trials=2, n_times=5):
        batch = session.to_batch(slice(1))
        keys = ("spike", "behavior", "behavior_times", "recording_index")
        rows.append({key: batch[key][0] for key in keys} | {"units": batch["units"]})
    both = collate(rows)
    assert both["spike"].shape == (2, 5, 6)
    first, second = both["masks"]["spike"].any(1).tolist()
    assert first == [True] * 3 + [False] * 3
    assert second == [False] * 3 + [True] * 3
    assert both["recording_index"].tolist() == [0, 1]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="dynamics must be one of lorenz, ring, line, got 'torus'"):
        synthetic_population(1, 1, "torus", generator=seeded())
    for name in ("n_trials", "n_times"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            synthetic_population(1, 1, generator=seeded(), **{name: 0})
    with pytest.raises(ValueError, match="n_sessions must be >= 1, got 0"):
        synthetic_population(0, 1, generator=seeded())
    with pytest.raises(ValueError, match="n_units must be >= 1, got -1"):
        synthetic_population(1, -1, generator=seeded())
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="bin_s must be a finite number > 0"):
            synthetic_population(1, 1, generator=seeded(), bin_s=value)
    with pytest.raises(ValueError, match="speed must be a finite number > 0, got 0"):
        synthetic_population(1, 1, generator=seeded(), speed=0.0)
    with pytest.raises(ValueError, match="mean_rate_hz must be a finite number > 0, got -2"):
        synthetic_population(1, 1, generator=seeded(), mean_rate_hz=-2.0)
    with pytest.raises(ValueError, match=r"noise must be a finite number >= 0, got -0.1"):
        synthetic_population(1, 1, noise=-0.1, generator=seeded())
    with pytest.raises(ValueError, match="modulation must be a finite number >= 0, got nan"):
        synthetic_population(1, 1, generator=seeded(), modulation=math.nan)
