"""Optimal stimuli with known answers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuros_mechint.activations import run
from neuros_mechint.circuits.feature_viz import (
    L2,
    ActivationMaximization,
    Blur,
    Box,
    FeatureVisualizer,
    Match,
    Minimize,
    Naturalistic,
    NonNegative,
    NormBall,
    OptimalStimulus,
    TotalVariation,
)

REPRODUCIBLE = settings(max_examples=20, derandomize=True, deadline=None)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def linear(*weights: torch.Tensor) -> nn.Linear:
    net = nn.Linear(len(weights[0]), len(weights), bias=False, dtype=weights[0].dtype)
    net.weight.data = torch.stack(weights)
    return net


# Known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [0.3, 20.0])
def test_a_linear_unit_prefers_its_weights_at_full_length(dtype, radius: float) -> None:
    w = normal(40).to(dtype)
    found = FeatureVisualizer(linear(normal(40, seed=1).to(dtype), w), None, 1).optimize(
        (40,), constraint=NormBall(radius), n_stimuli=3, generator=gen()
    )
    assert found.x.shape == (3, 40)
    assert found.x.dtype == dtype
    for x in found.x:
        assert cosine(x, w) >= 0.9999
        assert x.norm().item() == pytest.approx(radius, rel=1e-5)
    torch.testing.assert_close(found.activation, (radius * w.norm()).expand(3), rtol=1e-5, atol=0.0)
    assert found.history.shape[1] == 3
    assert found.history[0].max() < found.history[-1].min()


def test_a_quadratic_unit_prefers_its_centre() -> None:
    c, A = normal(12), normal(12, 12, seed=1)
    A = A @ A.T / 12 + 0.1 * torch.eye(12, dtype=torch.float64)
    unit = OptimalStimulus(lambda x: -((x - c) @ A * (x - c)).sum(1))
    found = unit.optimize((12,), constraint=NormBall(100.0), start=torch.zeros_like(c))
    torch.testing.assert_close(found.x[0], c, atol=1e-4, rtol=0.0)
    assert found.activation.item() == pytest.approx(0.0, abs=1e-8)


def test_a_quadratic_unit_outside_of_a_ball_prefers_its_boundary() -> None:
    c = torch.tensor([3.0, 4.0], dtype=torch.float64)
    unit = OptimalStimulus(lambda x: -(x - c).square().sum(1))
    found = unit.optimize((2,), start=torch.zeros_like(c))
    torch.testing.assert_close(found.x[0], c / 5, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(128,), (64, 3), (2, 16, 12)])
def test_a_naturalistic_optimum_is_the_weights_filtered_twice(beta: float, shape) -> None:
    w, prior = normal(*shape), Naturalistic(beta=beta)
    unit = OptimalStimulus(lambda x: (x * w).flatten(1).sum(1))
    found = unit.optimize(
        shape, regularizers=[prior], constraint=NormBall(2.0), start=normal(*shape, seed=1)
    )
    # In the coordinates z the unit is linear with weights S w, so that x = S z is S S w.
    twice = prior.shape_spectrum(prior.shape_spectrum(w[None]))[0]
    assert cosine(found.x[0], twice) >= 0.999
    if beta == 0.0:
        torch.testing.assert_close(found.x[0].norm().item(), 2.0)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_the_spectrum_of_a_naturalistic_optimum_falls_with_twice_beta(beta: float) -> None:
    # An impulse has an exactly white spectrum.
    w = torch.zeros(512, dtype=torch.float64)
    w[100] = 1.0
    found = OptimalStimulus(lambda x: x @ w).optimize(
        (512,), regularizers=[Naturalistic(beta=beta)], start=0.1 * normal(512)
    )
    freq = torch.fft.rfftfreq(512, dtype=torch.float64)[1:256].log()
    power = torch.fft.rfft(found.x[0])[1:256].abs().square().log()
    slope = torch.cov(torch.stack([freq, power]))
    assert (slope[0, 1] / slope[0, 0]).item() == pytest.approx(-2 * beta, abs=0.1)


def test_white_coordinates_get_the_spectrum_of_the_prior() -> None:
    x = Naturalistic(beta=1.5).shape_spectrum(normal(400, 256))
    freq = torch.fft.rfftfreq(256, dtype=torch.float64)[1:128].log()
    power = torch.fft.rfft(x)[:, 1:128].abs().square().mean(0).log()
    slope = torch.cov(torch.stack([freq, power]))
    # 400 series give each of 127 bins 5 %, the slope about 1 %.
    assert (slope[0, 1] / slope[0, 0]).item() == pytest.approx(-1.5, abs=0.05)
    assert x.var().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("seed", range(8))
def test_diverse_stimuli_find_both_optima(seed: int) -> None:
    unit = OptimalStimulus(lambda x: x.amax(1))
    found = unit.optimize((2,), n_stimuli=2, diversity=1.0, generator=gen(seed))
    best = found.x.abs().argmax(1)
    assert sorted(best.tolist()) == [0, 1]
    torch.testing.assert_close(found.activation, torch.ones(2), atol=1e-3, rtol=0.0)


def test_stimuli_that_repel_each_other_are_searched_per_unit() -> None:
    class Maxima(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, :2].amax(1), 3 * x[:, 2:].amax(1)], 1)

    found = ActivationMaximization(Maxima(), None, [0, 1]).optimize(
        (4,), constraint=NormBall(1.0), n_stimuli=2, diversity=2.0, generator=gen()
    )
    best = found.x.abs().argmax(1).tolist()
    assert sorted(best[:2]) == [0, 1]
    assert sorted(best[2:]) == [2, 3]
    torch.testing.assert_close(
        found.activation, torch.tensor([1.0, 1.0, 3.0, 3.0]), atol=1e-3, rtol=0.0
    )


def test_several_units_are_searched_at_once() -> None:
    rows = [normal(6, seed=k) for k in range(5)]
    net = linear(*rows)
    found = ActivationMaximization(net, "", [4, 0, (2,)]).optimize(
        (6,), constraint=NormBall(1.0), generator=gen()
    )
    for x, k in zip(found.x, (4, 0, 2), strict=True):
        assert cosine(x, rows[k]) > 0.9999
    single = ActivationMaximization(net, "", 4).optimize(
        (6,), constraint=NormBall(1.0), start=torch.zeros(6, dtype=torch.float64)
    )
    torch.testing.assert_close(single.x[0], found.x[0], atol=1e-5, rtol=0.0)


# Objectives, penalties, constraints ------------------------------------------------------------


def test_objectives_say_which_activation_is_wanted() -> None:
    w = normal(5)
    visualizer, ball = FeatureVisualizer(linear(w), None, 0), NormBall(1.0)
    low = visualizer.optimize((5,), objective=Minimize(), constraint=ball, generator=gen())
    assert cosine(low.x[0], w) < -0.9999
    some = visualizer.optimize((5,), objective=Match(0.25), constraint=ball, generator=gen())
    assert some.activation.item() == pytest.approx(0.25, abs=1e-5)


def test_a_box_is_filled_to_its_corner() -> None:
    w = torch.tensor([1.0, -2.0, 0.5])
    found = FeatureVisualizer(linear(w), None, 0).optimize(
        (3,), constraint=Box(-1.0, 3.0), generator=gen()
    )
    torch.testing.assert_close(found.x[0], torch.tensor([3.0, -1.0, 3.0]))


def test_rates_stay_above_zero() -> None:
    c = torch.tensor([2.0, -1.0, 0.5])
    unit = OptimalStimulus(lambda x: -(x - c).square().sum(1))
    found = unit.optimize((3,), constraint=NonNegative(), start=torch.ones(3))
    torch.testing.assert_close(found.x[0], torch.tensor([2.0, 0.0, 0.5]), atol=1e-4, rtol=0.0)


def test_an_l2_penalty_bounds_a_linear_unit() -> None:
    # w.x - a |x|^2 is largest at w / (2 a).
    w = normal(5)
    found = FeatureVisualizer(linear(w), None, 0).optimize(
        (5,), regularizers=[L2(0.25)], generator=gen()
    )
    torch.testing.assert_close(found.x[0], 2 * w, atol=1e-5, rtol=1e-5)


def test_total_variation_removes_what_is_rough() -> None:
    w = normal(32)
    unit, ball = OptimalStimulus(lambda x: x @ w), NormBall(1.0)
    plain = unit.optimize((32,), constraint=ball, start=0.1 * normal(32, seed=1)).x
    smooth = unit.optimize(
        (32,),
        regularizers=[TotalVariation(0.5)],
        constraint=ball,
        start=0.1 * normal(32, seed=1),
        steps=60,
    ).x
    assert smooth.diff().abs().sum() < 0.5 * plain.diff().abs().sum()
    penalty = TotalVariation(2.0, epsilon=1e-9)
    flat = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    flat[0, 0, 1, 1] = 1.0
    # One pixel of an image differs from two neighbours in each of two directions.
    assert penalty(flat).item() == pytest.approx(8.0, abs=1e-6)
    assert TotalVariation(1.0, axes=(-1,), epsilon=1e-9)(flat).item() == pytest.approx(
        2.0, abs=1e-6
    )
    assert TotalVariation(1.0, epsilon=1e-9)(normal(1, 1)).item() == 0.0


def test_a_blur_is_a_gaussian_of_its_width() -> None:
    x = torch.zeros(1, 65, 2, dtype=torch.float64)
    x[0, 32, 0] = 1.0
    y = Blur(3.0, every=1).apply(x)[0]
    t = torch.arange(65, dtype=torch.float64) - 32
    expected = (-(t**2) / 18).exp() / (3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(y[:, 0], expected, atol=1e-9, rtol=0.0)
    assert torch.equal(y[:, 1], torch.zeros(65, dtype=torch.float64))


def test_a_blur_now_and_then_leaves_a_smoother_stimulus() -> None:
    w = normal(32)
    unit = OptimalStimulus(lambda x: x @ w - 0.1 * (x**4).sum(1))
    options = {"start": 0.1 * normal(32, seed=1), "steps": 12}
    plain = unit.optimize((32,), **options)
    blurred = unit.optimize((32,), regularizers=[Blur(2.0, every=2)], **options)
    assert len(blurred.history) == 13
    # The history shows the activation falling at every blur.
    falls = blurred.history.diff(dim=0) < 0
    assert falls[1::2].any()
    assert not (plain.history.diff(dim=0) < -1e-9).all()
    assert torch.isfinite(blurred.x).all()


@REPRODUCIBLE
@given(seed=st.integers(0, 10_000), radius=st.floats(0.01, 5))
def test_projections_are_the_nearest_points_of_their_sets(seed: int, radius: float) -> None:
    x = normal(4, 3, 2, seed=seed)
    for constraint in (NormBall(radius), Box(-radius, radius / 2), NonNegative()):
        near = constraint.project(x)
        torch.testing.assert_close(constraint.project(near), near)
        # No other point of the convex set lies closer: the angle at the projection is obtuse.
        other = constraint.project(normal(4, 3, 2, seed=seed + 1))
        angle = ((x - near) * (other - near)).flatten(1).sum(1)
        assert (angle <= 1e-9).all()


# Models and sites ------------------------------------------------------------------------------


def test_a_channel_of_an_image_model_is_averaged_over_space() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)).eval()
    image = FeatureVisualizer(net, "0", 2).optimize(
        (1, 8, 8), constraint=NormBall(1.0), n_stimuli=2, generator=gen()
    )
    assert image.x.shape == (2, 1, 8, 8)
    value = run(net, image.x, capture=["0"]).cache["0"][:, 2].mean((1, 2))
    torch.testing.assert_close(image.activation, value.detach())
    # The mean over space is linear in the image, and so has one optimum.
    assert cosine(image.x[0], image.x[1]) > 0.999
    assert (image.history[-1] > image.history[0]).all()


def test_a_time_series_is_optimised_for_one_unit_at_one_time() -> None:
    torch.manual_seed(0)
    net = nn.GRU(2, 3, batch_first=True).double().eval()
    found = FeatureVisualizer(net, "", (-1, 1)).optimize(
        (10, 2), constraint=NormBall(4.0), generator=gen(), steps=60
    )
    with torch.no_grad():
        value = net(found.x)[0][:, -1, 1]
    torch.testing.assert_close(found.activation, value)
    assert found.activation.item() > found.history[0].item() + 0.3
    # What comes late matters more to the last state.
    assert found.x[0, 5:].square().sum() > found.x[0, :5].square().sum()


def test_an_embedding_takes_the_stimulus_of_a_model_of_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    visualizer = FeatureVisualizer(
        model, None, 1, at="0", inputs=torch.zeros(1, 3, dtype=torch.long)
    )
    found = visualizer.optimize((3, 4), constraint=NormBall(1.0), n_stimuli=2, generator=gen())
    assert cosine(found.x[1], model[2].weight[1].detach()) > 0.9999
    with pytest.raises(ValueError, match="at and inputs belong together"):
        FeatureVisualizer(model, None, 1, at="0")
    with pytest.raises(ValueError, match="inputs needs one row, got 2"):
        FeatureVisualizer(model, None, 1, at="0", inputs=torch.zeros(2, 3, dtype=torch.long))


def test_the_model_and_the_start_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    start = torch.ones(2, 3)
    with torch.no_grad():
        found = FeatureVisualizer(net, "1", 0).optimize(
            (3,), constraint=NormBall(9.0), n_stimuli=2, start=start * torch.tensor([[1.0], [2.0]])
        )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not found.x.requires_grad
    assert torch.equal(start, torch.ones(2, 3))


def test_the_same_generator_finds_the_same_stimuli() -> None:
    unit = OptimalStimulus(lambda x: x.sin().sum(1))
    one, two = (unit.optimize((4,), n_stimuli=3, generator=gen(7)) for _ in range(2))
    assert torch.equal(one.x, two.x)


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_stimuli": 0}, "n_stimuli and steps need at least 1, got 0 and 256"),
        ({"steps": 0}, "n_stimuli and steps need at least 1, got 1 and 0"),
        ({"diversity": 1.0}, "diversity needs a number of at least 0 and n_stimuli of at least 2"),
        ({"diversity": -1.0, "n_stimuli": 2}, "diversity needs a number of at least 0"),
        ({"regularizers": [Naturalistic(), Naturalistic()]}, "one Naturalistic can hold at a time"),
        (
            {"regularizers": [Naturalistic()], "constraint": Box(0.0, 1.0)},
            "Naturalistic moves the coordinates of a filter",
        ),
        ({"generator": None}, r"pass generator=torch.Generator\(\) for a random start, or start="),
        ({"start": torch.zeros(2, 3)}, r"start of shape \(2, 3\) does not fit 1 stimuli of shape"),
        ({"constraint": None, "steps": 30}, "the stimulus grows without bound; give constraint="),
        ({"regularizers": [TotalVariation(1.0, axes=(3,))]}, r"axes \(3,\) do not exist"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message: str) -> None:
    chosen = {"constraint": NormBall(1.0), "generator": gen(), **options}
    with pytest.raises(ValueError, match=message):
        FeatureVisualizer(linear(normal(4).float()), None, 0).optimize((4,), **chosen)


def test_units_and_shapes_that_do_not_exist_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"unit 7 does not fit site '0' of shape \(1, 3\)"):
        FeatureVisualizer(net, "0", 7).optimize((4,), generator=gen())
    with pytest.raises(ValueError, match=r"shape needs positive sizes of one stimulus, got \(0,\)"):
        FeatureVisualizer(net, "0", 0).optimize((0,), generator=gen())
    with pytest.raises(ValueError, match="unit needs an index or a list of at least one"):
        ActivationMaximization(net, "0", [])
    with pytest.raises(ValueError, match="site 'output' needs one row per stimulus, 1 in"):
        OptimalStimulus(lambda x: x.sum()).optimize((4,), generator=gen())
    with pytest.raises(ValueError, match="the activation does not depend on the stimulus"):
        OptimalStimulus(lambda x: torch.zeros(len(x))).optimize((4,), generator=gen())
    with pytest.raises(ValueError, match="the objective or its gradient is not finite on the way"):
        OptimalStimulus(lambda x: x.sum(1).log()).optimize((4,), start=-torch.ones(4))
    with pytest.raises(TypeError, match=r"model needs a module or a function, got int|Type-check"):
        OptimalStimulus(3)
    assert repr(FeatureVisualizer(net, "0", 1)) == "FeatureVisualizer(Sequential, '0', unit=[1])"
    assert repr(ActivationMaximization(net, None, [1, 2])) == (
        "ActivationMaximization(Sequential, 'output', unit=[1, 2])"
    )
    assert repr(OptimalStimulus(net)) == "OptimalStimulus(Sequential, 'output', unit=[None])"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: L2(-1.0), "weight needs a number of at least 0, got -1.0"),
        (lambda: TotalVariation(1.0, epsilon=0.0), "epsilon needs a number above 0, got 0.0"),
        (lambda: Blur(0.0, every=1), "sigma needs a number above 0, got 0.0"),
        (lambda: Blur(1.0, every=0), "every needs at least 1 step, got 0"),
        (lambda: NormBall(0.0), "radius needs a number above 0, got 0.0"),
        (lambda: Box(1.0, 1.0), "a box needs low < high, got low=1.0 and high=1.0"),
    ],
)
def test_terms_without_meaning_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
