from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_neurofm.evaluation import RidgeDecoder, WienerDecoder, r2_score
from neuros_neurofm.evaluation._arrays import lag_matrix


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_lags_are_stacked_from_now_backwards_and_zero_before_the_start() -> None:
    x = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    assert lag_matrix(x, 2).tolist() == [[1, 10, 0, 0], [2, 20, 1, 10], [3, 30, 2, 20]]
    assert lag_matrix(x, 1).tolist() == x.tolist()


def test_a_linear_code_is_found() -> None:
    x = rng().normal(size=(400, 5))
    weights = rng(1).normal(size=(5, 2))
    y = x @ weights + [3.0, -7.0]
    decoder = RidgeDecoder().fit(x[:300], y[:300])
    assert r2_score(y[300:], decoder.predict(x[300:])) > 1 - 1e-6


def test_a_small_penalty_is_least_squares() -> None:
    x, y = rng().normal(size=(100, 4)), rng(1).normal(size=(100, 2))
    design = np.concatenate([np.ones((100, 1)), x], axis=1)
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    decoder = RidgeDecoder(alphas=[1e-9]).fit(x, y)
    np.testing.assert_allclose(decoder.predict(x), expected, atol=1e-8)


def test_the_penalty_solves_the_ridge_equations() -> None:
    x, y = rng().normal(3.0, 2.0, size=(60, 4)), rng(1).normal(size=60)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    weights = np.linalg.solve(z.T @ z + 5.0 * np.eye(4), z.T @ (y - y.mean()))
    decoder = RidgeDecoder(alphas=[5.0]).fit(x, y)
    np.testing.assert_allclose(decoder.predict(x)[:, 0], z @ weights + y.mean(), rtol=1e-9)


def test_noise_is_given_the_largest_penalty_and_a_code_the_smallest() -> None:
    x = rng().normal(size=(300, 20))
    assert RidgeDecoder().fit(x, rng(1).normal(size=300)).alpha >= 1e2
    assert RidgeDecoder().fit(x, x[:, 0]).alpha == 1e-2


def test_the_penalty_is_chosen_as_a_loop_over_blocks_would() -> None:
    x = rng().normal(size=(90, 6))
    y = x[:, :1] + rng(1).normal(size=(90, 1))
    alphas, gap = (0.1, 10.0, 1000.0), 3
    errors = dict.fromkeys(alphas, 0.0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    for start in range(0, 90, 18):
        held = np.arange(start, start + 18)
        train = np.setdiff1d(np.arange(90), np.arange(start - gap, start + 18 + gap))
        mean_z, mean_y = z[train].mean(axis=0), y[train].mean(axis=0)
        a, b = z[train] - mean_z, y[train] - mean_y
        for alpha in alphas:
            w = np.linalg.solve(a.T @ a + alpha * np.eye(6), a.T @ b)
            errors[alpha] += ((mean_y + (z[held] - mean_z) @ w - y[held]) ** 2).sum()
    decoder = RidgeDecoder(alphas=alphas, gap=gap)
    scored = (x - x.mean(axis=0)) / x.std(axis=0)
    ours = decoder._errors(scored, y) * y.std() ** 2
    np.testing.assert_allclose(ours, list(errors.values()), rtol=1e-9)
    assert decoder.fit(x, y).alpha == min(errors, key=errors.__getitem__)


def test_a_delayed_code_needs_its_lags() -> None:
    x = rng().normal(size=(1000, 2))
    y = 0.7 * np.roll(x[:, 0], 3) - 0.2 * np.roll(x[:, 1], 1)
    train, test = slice(10, 700), slice(700, None)
    wiener = WienerDecoder(n_lags=4).fit(x[train], y[train])
    short = WienerDecoder(n_lags=3).fit(x[train], y[train])
    assert r2_score(y[test], wiener.predict(x)[test, 0]) > 0.999
    assert r2_score(y[test], short.predict(x)[test, 0]) < 0.3


def test_predictions_are_causal() -> None:
    x = rng().normal(size=(200, 3))
    decoder = WienerDecoder(n_lags=5).fit(x, rng(1).normal(size=200))
    changed = x.copy()
    changed[120:] += 10
    assert np.array_equal(decoder.predict(changed)[:120], decoder.predict(x)[:120])


def test_lags_do_not_cross_segments() -> None:
    parts = [rng(k).normal(size=(100, 2)) for k in range(3)]
    delayed = [np.roll(part[:, :1], 1, axis=0) for part in parts]
    for part, y in zip(parts, delayed, strict=True):
        y[0] = part.mean()
    together = WienerDecoder(n_lags=2, alphas=[1e-6]).fit(parts, delayed)
    np.testing.assert_allclose(together.predict(parts[1])[1:], delayed[1][1:], atol=0.1)
    alone = together.predict(parts[1][:1])
    assert np.array_equal(alone, together.predict(parts[1])[:1])


@settings(max_examples=50, derandomize=True, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 99))
def test_the_units_of_the_input_do_not_matter(scale: float, shift: float, seed: int) -> None:
    x = rng(seed).normal(size=(60, 3))
    y = x[:, 0] + 0.1 * rng(seed).normal(size=60)
    plain = RidgeDecoder(alphas=[1.0]).fit(x, y).predict(x)
    other = RidgeDecoder(alphas=[1.0]).fit(scale * x + shift, y).predict(scale * x + shift)
    np.testing.assert_allclose(other, plain, rtol=1e-6, atol=1e-6)


def test_a_constant_channel_is_carried_along() -> None:
    x = np.concatenate([np.ones((50, 1)), rng().normal(size=(50, 1))], axis=1)
    assert r2_score(x[:, 1], RidgeDecoder().fit(x, x[:, 1]).predict(x)[:, 0]) > 0.999


def test_torch_tensors_are_decoded_too() -> None:
    x = torch.from_numpy(rng().normal(size=(50, 2)))
    decoder = RidgeDecoder().fit(x, x[:, :1])
    np.testing.assert_allclose(decoder.predict(x), x[:, :1].numpy(), atol=1e-3)


def fitted() -> RidgeDecoder:
    return RidgeDecoder().fit(rng().normal(size=(20, 2)), np.arange(20.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WienerDecoder(0), "n_lags must be at least 1, got 0"),
        (lambda: RidgeDecoder(alphas=[0.0]), r"alphas must be finite and > 0, got \[0.0\]"),
        (lambda: RidgeDecoder(alphas=[]), r"alphas must be finite and > 0, got \[\]"),
        (lambda: RidgeDecoder(n_folds=1), "n_folds must be at least 2, got 1"),
        (lambda: RidgeDecoder(gap=-1), "gap must be >= 0, got -1"),
        (lambda: RidgeDecoder().fit([], []), "x must hold at least one segment, got none"),
        (
            lambda: RidgeDecoder().fit(np.ones((9, 1)), np.ones(8)),
            r"equal lengths > 0, got \[9\] and",
        ),
        (lambda: RidgeDecoder().fit(np.ones((9, 1)), np.ones(9)), r"2 \* n_folds = 10 samples"),
        (lambda: RidgeDecoder().fit(np.full((20, 1), np.nan), np.ones(20)), "x must be finite"),
        (
            lambda: RidgeDecoder().fit(np.ones((2, 3, 4)), np.ones(2)),
            r"x must be \(time, chan",
        ),
        (
            lambda: RidgeDecoder(gap=99).fit(np.ones((20, 1)), np.ones(20)),
            "gap = 99 leaves 0 samples to train on around a held-out block",
        ),
        (lambda: fitted().predict(np.ones((3, 5))), "x must have the 2 channels of the fit, got 5"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_decoder_must_be_fitted_first() -> None:
    with pytest.raises(RuntimeError, match="the decoder is not fitted; call fit first"):
        RidgeDecoder().predict(np.ones((2, 2)))
