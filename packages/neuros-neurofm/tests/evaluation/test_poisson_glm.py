"""Poisson regression."""

import numpy as np
import pytest
from scipy.special import gammaln

from neuros_neurofm.evaluation._poisson_glm import PoissonGLM


def test_planted_weights_are_found() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(20_000, 3)) * [1.0, 5.0, 0.2]
    weights = np.array([[0.5, -0.3], [0.1, 0.0], [0.0, 2.0]])
    rates = np.exp(x @ weights - 0.5)
    model = PoissonGLM(0.0).fit([x[:9000], x[9000:]], np.split(draw.poisson(rates) * 1.0, [9000]))
    # Standard errors of log rates here are about 1 / sqrt(n * rate) = 0.01.
    np.testing.assert_allclose(np.log(model.predict(x[:100])), np.log(rates[:100]), atol=0.08)


def test_without_inputs_that_vary_the_rate_is_the_mean() -> None:
    counts = np.random.default_rng(1).poisson(2.0, size=(300, 2)) * 1.0
    model = PoissonGLM(0.1).fit([np.ones((300, 1))], [counts])
    np.testing.assert_allclose(model.predict(np.ones((1, 1)))[0], counts.mean(axis=0), rtol=1e-5)


def test_the_gradient_vanishes_at_the_solution() -> None:
    draw = np.random.default_rng(2)
    x, alpha = draw.normal(size=(400, 4)), 0.05
    counts = draw.poisson(np.exp(0.4 * x[:, :1])) * 1.0
    model = PoissonGLM(alpha).fit([x], [counts])
    z = (x - x.mean(axis=0)) / x.std(axis=0)

    def loss(step: float, direction: np.ndarray) -> float:
        weights = model._weights + step * direction
        log_rates = weights[0] + z @ weights[1:]
        fit = (np.exp(log_rates) - counts * log_rates + gammaln(counts + 1)).mean()
        return float(fit + 0.5 * alpha * (weights[1:] ** 2).sum())

    for seed in range(5):
        direction = np.random.default_rng(seed).normal(size=model._weights.shape)
        assert loss(0.0, direction) < min(loss(0.02, direction), loss(-0.02, direction))


@pytest.mark.parametrize("alpha", [1.0, 100.0])
def test_a_large_penalty_shrinks_towards_the_mean(alpha: float) -> None:
    draw = np.random.default_rng(3)
    x = draw.normal(size=(500, 1))
    counts = draw.poisson(np.exp(x)) * 1.0
    spread = [np.log(PoissonGLM(a).fit([x], [counts]).predict(x)).std() for a in (0.0, alpha)]
    assert spread[1] < spread[0] / (1 + alpha / 4)


def test_a_silent_unit_has_a_finite_rate_near_zero() -> None:
    x = np.random.default_rng(4).normal(size=(200, 2))
    rate = PoissonGLM(0.1).fit([x], [np.zeros((200, 1))]).predict(x)
    assert np.isfinite(rate).all()
    assert rate.max() < 1e-6
