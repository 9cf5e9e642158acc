"""Diffusion over latents: the forward process, the conversions, and what sampling must give."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm.models import LatentDiffusion


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def small(**options: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    return LatentDiffusion(**({"latent_dim": 2, "width": 16, "depth": 1} | options))


def perturbed(**options: Any) -> LatentDiffusion:
    """A network whose answers are not 0."""
    diffusion = small(**options)
    torch.nn.init.normal_(diffusion.denoiser.out.weight)
    return diffusion


def abar(schedule: str, n_steps: int) -> list[float]:
    """The schedules as their papers write them, step by step."""
    if schedule == "linear":
        betas = [(0.1 + 19.9 * k / (n_steps - 1)) / n_steps for k in range(n_steps)]
    else:
        f = [math.cos((t / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(n_steps + 1)]
        betas = [min(1 - f[t] / f[t - 1], 0.999) for t in range(1, n_steps + 1)]
    product, result = 1.0, [1.0]
    for beta in betas:
        product *= 1 - beta
        result.append(product)
    return result


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule_is_that_of_its_paper(schedule: str) -> None:
    diffusion = small(schedule=schedule, n_steps=1000)
    t = torch.arange(1001)
    cos = diffusion.q_sample(torch.ones(1001, 2), t, torch.zeros(1001, 2))[:, 0]
    sin = diffusion.q_sample(torch.zeros(1001, 2), t, torch.ones(1001, 2))[:, 0]
    truth = torch.tensor(abar(schedule, 1000), dtype=torch.float64)
    # float32 angles: an error of 1e-7 in the angle is one of 1e-7 in its cosine.
    torch.testing.assert_close(cos.double(), truth.sqrt(), atol=3e-7, rtol=0)
    torch.testing.assert_close(sin.double(), (1 - truth).sqrt(), atol=3e-7, rtol=1e-6)
    assert cos[0] == 1
    assert sin[0] == 0


@pytest.mark.parametrize("t", [50, 400, 900])
def test_noised_latents_have_the_stated_mean_and_variance(t: int) -> None:
    diffusion, n = small(), 400_000
    x0 = torch.tensor([1.5, -0.5])
    noised = diffusion.q_sample(x0.repeat(n, 1), torch.full((n,), t), generator=seeded())
    truth = abar("cosine", 1000)[t]
    # The mean of n = 4e5 draws has an error of 1.6e-3 at most, the variance a relative one of
    # 2.2e-3: at 2 % of 1 and of itself both bounds stand at more than 8 standard errors.
    assert torch.allclose(noised.mean(0), math.sqrt(truth) * x0, atol=0.02)
    assert torch.allclose(noised.var(0), torch.full((2,), 1 - truth), rtol=0.02)


@pytest.mark.parametrize("given", ["v", "eps", "x0"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_v_eps_and_x0_convert_into_each_other_exactly(given: str, schedule: str) -> None:
    diffusion = small(schedule=schedule)
    t = torch.arange(1, 1001)
    x0, eps = torch.randn(2, 1000, 3, 2, generator=seeded(), dtype=torch.float64)
    angle = diffusion.angle[t].double()[:, None, None]
    truth = {"x0": x0, "eps": eps, "v": angle.cos() * eps - angle.sin() * x0}
    x_t = angle.cos() * x0 + angle.sin() * eps
    for wanted, expected in truth.items():
        got = diffusion.convert(truth[given], x_t, t, given=given, wanted=wanted)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_conversions_in_float32_are_exact_where_nothing_is_divided_away() -> None:
    diffusion = small()
    t = torch.arange(100, 900)
    x0, eps = torch.randn(2, 800, 2, generator=seeded())
    x_t = diffusion.q_sample(x0, t, eps)
    v = diffusion.convert(eps, x_t, t, given="eps", wanted="v")
    torch.testing.assert_close(
        diffusion.convert(v, x_t, t, given="v", wanted="x0"), x0, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        diffusion.convert(v, x_t, t, given="v", wanted="eps"), eps, atol=1e-5, rtol=0
    )


def test_ddim_with_the_answer_0_for_v_is_a_product_of_rotations() -> None:
    """v = 0 is the right answer for Gaussian data: DDIM only shrinks by the cosine of each step."""
    diffusion = small(n_steps=200)
    samples = diffusion.sample((64, 3, 2), n_steps=20, generator=seeded())
    start = torch.randn(64, 3, 2, generator=seeded())
    angles = diffusion.angle[torch.arange(200, -1, -10)]
    shrinkage = (angles[:-1] - angles[1:]).cos().prod()
    torch.testing.assert_close(samples, start * shrinkage, atol=1e-5, rtol=0)


def test_ddpm_with_the_answer_0_for_v_has_the_variance_of_its_recursion() -> None:
    diffusion = small(n_steps=100)
    samples = diffusion.sample((5_000, 2), n_steps=50, sampler="ddpm", generator=seeded())
    variance, steps = 1.0, list(range(100, -1, -2))
    truth = abar("cosine", 100)
    for now, then in pairwise(steps):
        a, b = truth[now], truth[then]
        fresh = (1 - b) / (1 - a) * (1 - a / b)
        kept = math.sqrt(a * b) + math.sqrt(max(1 - b - fresh, 0.0) * (1 - a))
        variance = kept**2 * variance + fresh
    # 1e4 numbers: a standard error of 1.4 % of the variance.
    assert samples.var().item() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_an_untrained_network_costs_the_variance_of_its_target(prediction: str) -> None:
    diffusion = small(prediction=prediction)
    latents = torch.randn(20_000, 2, generator=seeded())
    # A mean of 4e4 squares of unit variance: standard error 0.7 %.
    assert diffusion.loss(latents, generator=seeded(1)).item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("shape", [(8, 2), (8, 5, 2)])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_a_seed_decides_loss_and_samples_bit_for_bit(
    shape: tuple[int, ...], sampler: str, prediction: str
) -> None:
    diffusion = perturbed(prediction=prediction)
    x = torch.randn(shape, generator=seeded())
    first, again = (diffusion.loss(x, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, diffusion.loss(x, generator=seeded(4)))
    one, same, other = (
        diffusion.sample(shape, 10, sampler, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert one.shape == shape
    assert torch.isfinite(one).all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_without_a_generator_torch_decides() -> None:
    diffusion = perturbed()
    torch.manual_seed(5)
    first = diffusion.sample((4, 2), 5)
    torch.manual_seed(5)
    assert torch.equal(first, diffusion.sample((4, 2), 5))


def test_one_latent_is_a_grid_of_one() -> None:
    diffusion, x = perturbed(), torch.randn(6, 2, generator=seeded())
    flat, grid = diffusion.loss(x, generator=seeded()), diffusion.loss(x[:, None], None, seeded())
    assert torch.equal(flat, grid)
    samples = diffusion.sample((6, 1, 2), 5, generator=seeded())
    assert torch.equal(diffusion.sample((6, 2), 5, generator=seeded()), samples[:, 0])


def test_latents_of_a_grid_see_each_other_and_their_distance() -> None:
    torch.manual_seed(0)
    diffusion = perturbed()
    x = torch.randn(1, 4, 2, generator=seeded())
    t = torch.tensor([500])

    def answer(latents: Tensor) -> Tensor:
        return diffusion.denoiser(latents, t / 1000, None)

    changed = x.clone()
    changed[:, 3] += 1
    assert not torch.allclose(answer(changed)[:, 0], answer(x)[:, 0])
    swapped = answer(x[:, [1, 0, 2, 3]])[:, [1, 0, 2, 3]]
    assert not torch.allclose(swapped, answer(x), atol=1e-4)


def test_calibration_gives_samples_the_units_of_the_latents() -> None:
    diffusion = small()
    mean, deviation = torch.tensor([100.0, -3.0]), torch.tensor([20.0, 0.1])
    latents = mean + deviation * torch.randn(2_500, 4, 2, generator=seeded())
    diffusion.calibrate(latents)
    # A rotation by the whole quarter turn in 50 steps keeps 97.6 % of the standard deviation.
    samples = diffusion.sample((2_500, 4, 2), generator=seeded(1)).flatten(0, 1)
    # 1e4 draws: the mean is known to 1 % of the deviation, the deviation to 0.7 %.
    assert ((samples.mean(0) - mean).abs() < 0.05 * deviation).all()
    torch.testing.assert_close(samples.std(0), 0.976 * deviation, rtol=0.04, atol=0)
    assert diffusion.loss(latents, generator=seeded()).item() == pytest.approx(1.0, abs=0.05)
    again = small()
    again.load_state_dict(diffusion.state_dict())
    assert torch.equal(again.shift, diffusion.shift)


def test_gradients_reach_the_network_the_latents_and_the_condition() -> None:
    diffusion = perturbed(cond_dim=3)
    latents = torch.randn(4, 5, 2, generator=seeded(), requires_grad=True)
    cond = torch.randn(4, 3, generator=seeded(), requires_grad=True)
    diffusion.loss(latents, cond, seeded()).backward()
    for x in (latents, cond, *diffusion.parameters()):
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert (x.grad != 0).any()


def test_the_condition_steers_the_samples() -> None:
    diffusion = perturbed(cond_dim=1)
    low, high = (
        diffusion.sample((4, 2), 5, cond=torch.full((4, 1), value), generator=seeded())
        for value in (-1.0, 1.0)
    )
    assert not torch.allclose(low, high)


def test_under_autocast_everything_is_computed_in_float32() -> None:
    diffusion, x = perturbed(), torch.randn(64, 3, 2, generator=seeded())
    plain = diffusion.loss(x, generator=seeded()), diffusion.sample((4, 2), generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        cast = diffusion.loss(x, generator=seeded()), diffusion.sample((4, 2), generator=seeded())
        half = diffusion.loss(x.bfloat16(), generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    assert half.dtype == torch.float32
    assert torch.isfinite(half)


def test_a_diffusion_in_float64_stays_in_float64() -> None:
    diffusion = perturbed().double()
    assert diffusion.loss(torch.randn(4, 2), generator=seeded()).dtype == torch.float64
    assert diffusion.sample((4, 2), 3, generator=seeded()).dtype == torch.float64


def test_repr_names_the_choices() -> None:
    assert "schedule='linear', prediction='eps'" in repr(small(schedule="linear", prediction="eps"))


def ring(n: int, generator: Generator) -> Tensor:
    """Eight Gaussians of deviation 0.1 on a circle of radius 2."""
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    centres = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return centres + 0.1 * torch.randn(n, 2, generator=generator)


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely & Rizzo 2013)."""

    def within(z: Tensor) -> Tensor:
        return torch.pdist(z.double()).mean()

    return float(2 * torch.cdist(x.double(), y.double()).mean() - within(x) - within(y))


# Training takes seconds: the claim is about a trained network, whatever it was asked to predict.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "prediction", "width", "depth", "rows", "n_steps"),
    [
        ("cosine", "v", 64, 2, 512, 400),
        # These two need the sharper network: errors at either end of the schedule weigh more.
        ("linear", "eps", 128, 1, 256, 700),
        ("cosine", "x0", 128, 1, 256, 700),
    ],
)
def test_eight_gaussians_on_a_ring_are_learned(
    schedule: str, prediction: str, width: int, depth: int, rows: int, n_steps: int
) -> None:
    generator = seeded()
    torch.manual_seed(0)
    diffusion = LatentDiffusion(2, 1000, schedule, prediction, width=width, depth=depth)
    data = ring(20_000, generator)
    diffusion.calibrate(data)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=4e-3 * 64 / width)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / n_steps)
    for _ in range(n_steps):
        chosen = data[torch.randint(len(data), (rows,), generator=generator)]
        optimizer.zero_grad()
        diffusion.loss(chosen, generator=generator).backward()
        optimizer.step()
        decay.step()
    truth = ring(1_200, generator)
    root = torch.linalg.cholesky(data.T.cov())
    gaussian = data.mean(0) + torch.randn(1_200, 2, generator=generator) @ root.T
    bar = 0.1 * energy_distance(gaussian, truth)
    for sampler in ("ddim", "ddpm")[: 2 if prediction == "v" else 1]:
        samples = diffusion.sample((1_200, 2), 50, sampler, generator=generator)
        assert energy_distance(samples, truth) <= bar, sampler


# Training takes about 2 s: what is tested is that a trained network knows the whole grid.
@pytest.mark.slow
def test_a_grid_is_modelled_jointly() -> None:
    """Every row is one number held for six latents: marginals are Gaussian, the joint is not."""
    generator, n_steps = seeded(), 120
    torch.manual_seed(0)
    diffusion = LatentDiffusion(1, width=32, depth=2)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=5e-3)
    for _ in range(n_steps):
        held = torch.randn(128, 1, 1, generator=generator)
        grid = held + 0.1 * torch.randn(128, 6, 1, generator=generator)
        optimizer.zero_grad()
        diffusion.loss(grid, generator=generator).backward()
        optimizer.step()
    samples = diffusion.sample((500, 6, 1), 30, generator=generator)[..., 0]
    assert samples.T.corrcoef().min() > 0.8
    assert 0.7 < samples.std() < 1.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "quadratic"}, "schedule must be one of cosine, linear, got 'quadratic'"),
        ({"prediction": "noise"}, "prediction must be one of v, eps, x0, got 'noise'"),
        ({"n_steps": 0}, "n_steps must be >= 1, got 0"),
        ({"latent_dim": 0}, "latent_dim must be >= 1, got 0"),
        ({"cond_dim": 0}, "cond_dim must be >= 1, got 0"),
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"width": 15}, "width 15 must be a multiple"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_latents_of_wrong_shape_or_value_are_refused() -> None:
    diffusion = small()
    for wrong in (torch.zeros(4, 3), torch.zeros(2), torch.zeros(0, 2), torch.zeros(1, 1, 1, 2)):
        with pytest.raises(ValueError, match=r"latents must be \(batch, latent, 2\)"):
            diffusion.loss(wrong)
    with pytest.raises(ValueError, match="latents needs finite values, got 1 NaN or infinite of 8"):
        diffusion.loss(torch.tensor([[math.nan, 0.0]] + [[0.0, 0.0]] * 3))


def test_a_constant_dimension_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="vary in every dimension, got 1 constant of 2 over 3"):
        small().calibrate(torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="got 2 constant of 2 over 1 vectors"):
        small().calibrate(torch.ones(1, 2))


def test_wrong_samplings_are_refused() -> None:
    diffusion = small(n_steps=10)
    with pytest.raises(ValueError, match="sampler must be one of ddim, ddpm, got 'euler'"):
        diffusion.sample((4, 2), 5, "euler")
    for n_steps in (0, 11):
        with pytest.raises(ValueError, match=rf"n_steps must lie in 1 \.\.\. 10.*got {n_steps}"):
            diffusion.sample((4, 2), n_steps)
    for shape in ((2,), (4, 3), (0, 2), (1, 1, 1, 2)):
        with pytest.raises(ValueError, match=r"shape must be \(batch, latent, 2\)"):
            diffusion.sample(shape, 5)


def test_wrong_conditions_are_refused() -> None:
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="takes no cond; build it with cond_dim"):
        small().loss(x, torch.zeros(4, 3))
    diffusion = small(cond_dim=3)
    with pytest.raises(ValueError, match=r"needs cond \(4, 3\), got none"):
        diffusion.sample((4, 2), 5)
    with pytest.raises(ValueError, match=r"cond must be \(4, 3\), got shape \(3, 3\)"):
        diffusion.loss(x, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="cond needs finite values"):
        diffusion.loss(x, torch.full((4, 3), math.inf))


def test_wrong_noise_steps_and_values_are_refused() -> None:
    diffusion, x, t = small(), torch.zeros(3, 2), torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match=r"noise must have the shape \(3, 2\), got \(3, 1\)"):
        diffusion.q_sample(x, t, torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"t must be \(batch,\) = \(3,\) integers, got shape"):
        diffusion.q_sample(x, t[:2])
    with pytest.raises(ValueError, match=r"t must be .* integers, got shape \(3,\), torch.float32"):
        diffusion.q_sample(x, t.float())
    with pytest.raises(ValueError, match=r"t must be .* integers, got shape \(3,\), torch.bool"):
        diffusion.q_sample(x, t > 1)
    with pytest.raises(ValueError, match=r"t must lie in 0 \.\.\. 1000, got -1 \.\.\. 3"):
        diffusion.q_sample(x, torch.tensor([-1, 2, 3]))
    with pytest.raises(ValueError, match=r"t must lie in 1 \.\.\. 1000, got 0 \.\.\. 3"):
        diffusion.convert(x, x, torch.tensor([0, 2, 3]), given="v", wanted="x0")
    with pytest.raises(ValueError, match=r"value must have the shape \(3, 2\), got \(2, 2\)"):
        diffusion.convert(x[:2], x, t, given="v", wanted="x0")
    with pytest.raises(ValueError, match="given must be one of v, eps, x0, got 'noise'"):
        diffusion.convert(x, x, t, given="noise", wanted="x0")
    with pytest.raises(ValueError, match="wanted must be one of v, eps, x0, got 'noise'"):
        diffusion.convert(x, x, t, given="v", wanted="noise")
