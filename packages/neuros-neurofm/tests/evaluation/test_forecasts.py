from typing import Any

import numpy as np
import pytest

from neuros_neurofm.evaluation import ARForecaster, persistence_forecast


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def autoregression(coefficients: list[float], n: int, seed: int = 0) -> np.ndarray:
    noise, p = rng(seed).normal(size=n), len(coefficients)
    x = np.zeros(n)
    for t in range(p, n):
        x[t] = np.dot(coefficients, x[t - p : t][::-1]) + noise[t]
    return x[200:, None]


def test_persistence_repeats_the_last_sample_of_every_row() -> None:
    history = rng().normal(size=(4, 10, 3))
    forecast = persistence_forecast(history, 5)
    assert forecast.shape == (4, 5, 3)
    assert (forecast == history[:, -1:]).all()


def test_a_sine_is_forecast_by_two_lags() -> None:
    t = np.arange(400)
    x = np.sin(0.2 * t)[:, None]
    forecaster = ARForecaster(max_order=2).fit(x[:300])
    assert forecaster.orders == (2,)
    np.testing.assert_allclose(forecaster.forecast(x[:300], 100), x[300:], atol=1e-6)


def test_coefficients_of_an_autoregression_are_recovered() -> None:
    x = autoregression([0.6, -0.3], 20_000)
    forecaster = ARForecaster(max_order=2).fit(x)
    assert forecaster._weights is not None
    # Six asymptotic standard errors, sqrt(1 - 0.3^2) / sqrt(n) = 0.0068: false alarms 4e-9.
    np.testing.assert_allclose(forecaster._weights[:, 0], [0.6, -0.3], atol=0.041)


@pytest.mark.parametrize("criterion", ["aic", "validation"])
def test_the_order_is_large_enough_for_every_channel(criterion: str) -> None:
    x = np.concatenate(
        [autoregression([0.9], 4000), autoregression([0.0, 0.0, 0.8], 4000, 1)], axis=1
    )
    orders = ARForecaster(max_order=8, criterion=criterion).fit(x).orders
    assert orders[0] >= 1
    assert orders[1] >= 3


def test_aic_prefers_the_smallest_order_that_explains_everything() -> None:
    assert ARForecaster(max_order=1).fit(0.5 ** np.arange(20.0)[:, None]).orders == (1,)


def test_steps_ahead_are_fed_back() -> None:
    x = autoregression([0.5, 0.2], 2000) + 3.0
    forecaster = ARForecaster(max_order=5).fit(x)
    ahead = forecaster.forecast(x, 3)
    one = forecaster.forecast(x, 1)
    np.testing.assert_allclose(ahead[:1], one)
    np.testing.assert_allclose(forecaster.forecast(np.concatenate([x, one]), 2), ahead[1:])


def test_a_long_forecast_of_a_stationary_series_tends_to_its_mean() -> None:
    x = autoregression([0.5], 20_000) + 3.0
    forecast = ARForecaster(max_order=1).fit(x).forecast(x, 60)
    assert forecast[-1, 0] == pytest.approx(x.mean(), abs=0.01)


def test_many_histories_are_forecast_at_once() -> None:
    x = autoregression([0.5, 0.2], 2000).repeat(2, axis=1)
    forecaster = ARForecaster(max_order=3).fit(x)
    histories = np.stack([x[10:40], x[50:80]])
    batch = forecaster.forecast(histories, 4)
    for row, history in zip(batch, histories, strict=True):
        np.testing.assert_allclose(row, forecaster.forecast(history, 4))


def test_only_the_last_samples_of_the_history_matter() -> None:
    x = autoregression([0.5], 500)
    forecaster = ARForecaster(max_order=4).fit(x)
    n = max(forecaster.orders)
    assert np.array_equal(forecaster.forecast(x, 3), forecaster.forecast(x[-n:], 3))


def test_lags_do_not_cross_segments() -> None:
    parts = [0.5 ** np.arange(30.0)[:, None] * scale for scale in (1.0, 1e6)]
    forecaster = ARForecaster(max_order=1).fit(parts)
    np.testing.assert_allclose(forecaster.forecast(np.ones((1, 1)), 2).ravel(), [0.5, 0.25])


def fitted() -> ARForecaster:
    return ARForecaster(max_order=1).fit(rng().normal(size=(50, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ARForecaster(0), "max_order must be at least 1, got 0"),
        (lambda: ARForecaster(criterion="bic"), "criterion must be aic or validation, got 'bic'"),
        (lambda: ARForecaster(5).fit(np.ones((18, 1))), "x gives 13 samples with max_order = 5"),
        (lambda: ARForecaster(1).fit(np.full((50, 1), np.inf)), "x must be finite, got 50"),
        (
            lambda: fitted().forecast(np.ones((5, 3)), 1),
            "the 2 channels of the fit, got 3",
        ),
        (lambda: fitted().forecast(np.ones((0, 2)), 1), "with at least 1 samples, got shape"),
        (lambda: fitted().forecast(np.ones((5, 2)), 0), "horizon must be at least 1 sample, got 0"),
        (lambda: persistence_forecast(np.ones(4), 1), r"history must be \(..., time, channel\)"),
        (lambda: persistence_forecast(np.full((2, 1), np.nan), 1), "history must be finite, got 2"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_forecaster_must_be_fitted_first() -> None:
    with pytest.raises(RuntimeError, match="the forecaster is not fitted; call fit first"):
        ARForecaster().forecast(np.ones((30, 1)), 1)
