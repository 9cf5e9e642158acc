"""The estimator on top of a linear part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuros_neurofm.estimator import NeuroFMEstimator
from neuros_neurofm.evaluation import RidgeDecoder, r2_score
from neuros_neurofm.models._linear_file import read_linear_parts

SIZE = {"d_model": 16, "n_mamba_blocks": 1, "latent_dim": 16, "perceiver_depth": 1, "popt_depth": 1}


def estimator(**options: Any) -> NeuroFMEstimator:
    chosen: dict[str, Any] = {
        "modality": "lfp",
        "size": SIZE,
        "sampling_rate": 50.0,
        "window": 0.4,
        "max_steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-9,
        "linear_skip": True,
        "device": "cpu",
        "random_state": 0,
        "progress": False,
    }
    return NeuroFMEstimator(**(chosen | options))


def recording(
    n: int = 300, channels: int = 5, lag: int = 0, noise: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    x = 3.0 + rng.normal(size=(n, channels))
    y = np.roll(x @ rng.normal(size=(channels, 2)), lag, axis=0) + noise * rng.normal(size=(n, 2))
    return x, 10.0 + 5.0 * y


def test_without_training_the_estimator_is_ridge_regression() -> None:
    x, y = recording()
    fitted = estimator().fit(x[:200], y[:200])
    ridge = RidgeDecoder(gap=1).fit(x[:200], y[:200])
    ours = fitted.score(x[200:], y[200:])
    theirs = r2_score(y[200:], ridge.predict(x[200:]))
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours > 0.7
    assert estimator(linear_skip=False).fit(x[:200], y[:200]).score(x[200:], y[200:]) < 0.2


# Training takes 2 s.
@pytest.mark.slow
def test_the_model_learns_what_the_linear_part_leaves_over() -> None:
    rng = np.random.default_rng(0)
    slow = np.convolve(rng.normal(size=1500), np.hanning(25) / 3, "same")
    x = rng.poisson(np.exp(np.outer(slow, rng.normal(size=8))))
    # The absolute value of a symmetric signal is no linear function of it.
    y = slow + 2.0 * np.abs(slow)
    options: dict[str, Any] = {"modality": "spike", "window": 0.5, "mask_ratio": 0.0}
    options["size"] = SIZE | {"d_model": 32, "latent_dim": 32}
    alone = estimator(**options).fit(x[:1200], y[:1200]).score(x[1200:], y[1200:])
    options |= {"max_steps": 60, "learning_rate": 1e-2, "batch_size": 16}
    both = estimator(**options).fit(x[:1200], y[:1200]).score(x[1200:], y[1200:])
    assert both > alone + 0.1


def test_lags_are_found_and_missing_samples_stand_for_their_mean() -> None:
    x, y = recording(lag=2, noise=0.01)
    holes = x.copy()
    holes[220:230] = np.nan
    fitted = estimator().fit(x[:200], y[:200])
    assert fitted.score(x[200:], y[200:]) > 0.95
    (part,) = fitted._fitted().linear.values()  # type: ignore[union-attr]
    assert part.n_lags >= 3
    mean = fitted.predict(np.tile(fitted._fitted().scales["0"].mean, (20, 1)))[-1]
    np.testing.assert_allclose(fitted.predict(holes)[229], mean, atol=1e-3)


def test_a_prediction_rests_on_no_later_row() -> None:
    x, y = recording()
    fitted = estimator(max_steps=5, learning_rate=1e-3).fit(x, y)
    changed = x.copy()
    changed[150:] += 4.0
    np.testing.assert_allclose(fitted.predict(changed)[:150], fitted.predict(x)[:150], atol=1e-4)


def test_a_saved_estimator_predicts_the_same_bits(tmp_path: Path) -> None:
    x, y = recording()
    other = recording(channels=3, seed=1)
    fitted = estimator().fit([x, other[0]], [y, other[1]], sessions=["a", "b"])
    fitted.save(tmp_path / "saved")
    loaded = NeuroFMEstimator.load(tmp_path / "saved")
    assert loaded.linear_skip
    np.testing.assert_array_equal(loaded.predict(x, sessions="a"), fitted.predict(x, sessions="a"))
    assert list(read_linear_parts(tmp_path / "saved" / "model")[0]) == ["a", "b"]
    # Saved over by one without, nothing of it stays.
    estimator(linear_skip=False).fit(x, y).save(tmp_path / "saved")
    assert read_linear_parts(tmp_path / "saved" / "model")[0] == {}
    assert not NeuroFMEstimator.load(tmp_path / "saved").linear_skip


def test_a_new_session_gets_a_linear_part_of_its_own() -> None:
    x, y = recording()
    new, target = recording(channels=3, seed=1)
    fitted = estimator().fit(x, y)
    fitted.adapt(new[:200], target[:200], sessions="new", max_steps=1, learning_rate=1e-9)
    assert fitted.score(new[200:], target[200:]) > 0.7
    assert fitted.score(x, y, sessions="0") > 0.7


def test_more_of_a_known_session_keeps_its_linear_part() -> None:
    x, y = recording()
    fitted = estimator().fit(x[:150], y[:150])
    (before,) = fitted._fitted().linear.values()  # type: ignore[union-attr]
    fitted.partial_fit(x[150:], y[150:], sessions="0")
    (after,) = fitted._fitted().linear.values()  # type: ignore[union-attr]
    assert torch.equal(before.weights, after.weights)
    assert fitted.score(x, y) > 0.7


def test_a_session_without_targets_is_embedded_and_not_decoded() -> None:
    x, y = recording()
    new, target = recording(channels=3, seed=1)
    fitted = estimator().fit([x, new], [y, None], sessions=["a", "b"])
    assert fitted.transform(new, sessions="b").shape == (300, 16)
    with pytest.raises(ValueError, match=r"session 'b' has no linear part, only \['a'\] have"):
        fitted.predict(new, sessions="b")
    fitted.partial_fit(new, target, sessions="b")
    assert fitted.score(new, target, sessions="b") > 0.7


def test_unknown_units_are_not_decoded() -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, size=(200, 4))
    fitted = estimator(modality="spike").fit(x, 1.0 * x[:, 0])
    assert fitted.transform(x[:, :3], infer_units=True).shape == (200, 16)
    with pytest.raises(ValueError, match="infer_units does not decode with linear_skip"):
        fitted.predict(x[:, :3], infer_units=True)


@pytest.mark.parametrize("y", [None, np.arange(300) % 2])
def test_a_linear_part_needs_continuous_targets(y: Any) -> None:
    with pytest.raises(ValueError, match="linear_skip needs continuous y"):
        estimator().fit(recording()[0], y)


def test_too_few_targets_are_refused() -> None:
    x, y = recording()
    with pytest.raises(ValueError, match=r"at least 2 \* n_folds = 10 training samples"):
        estimator().fit(x[:9], y[:9])
