"""Weights by a classifier: it is calibrated, and the label shift is solved to its optimum."""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_sourceweigher import ClassifierWeigher
from neuros_sourceweigher._calibration import calibrated, fit_calibration, logits_of
from neuros_sourceweigher._label_shift import (
    em_step,
    fisher_stderr,
    likelihood,
    match_predictions,
    match_predictions_regularised,
    maximise_likelihood,
)

CI = settings(max_examples=40, derandomize=True, deadline=None)


class NormalClassifier:
    """Bayes' rule for normal sources of unit variance; `sharp` makes it over-confident."""

    def __init__(self, sharp: float = 1.0) -> None:
        self.sharp = sharp

    def fit(self, x: np.ndarray, y: np.ndarray) -> "NormalClassifier":
        self.means = np.stack([x[y == k].mean(axis=0) for k in range(y.max() + 1)])
        self.share = np.bincount(y) / len(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        log = -0.5 * np.square(x[:, None] - self.means).sum(axis=-1) + np.log(self.share)
        raised = np.exp(self.sharp * (log - log.max(axis=1, keepdims=True)))
        return raised / raised.sum(axis=1, keepdims=True)


def domains(seed: int, n: int = 800) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    truth = np.array([0.6, 0.3, 0.1])
    # Sources of unequal size: the estimate must not confuse their shares with those of the target.
    sources = {f"s{k}": rng.normal(size=(n * (k + 1) // 2, 2)) + m for k, m in enumerate(means)}
    target = rng.normal(size=(4 * n, 2)) + means[rng.choice(3, size=4 * n, p=truth)]
    return sources, target, truth


@pytest.mark.parametrize("estimator", ["mlls", "bbse", "rlls"])
@pytest.mark.parametrize("sharp", [1.0, 4.0])
def test_shares_are_recovered(estimator: str, sharp: float) -> None:
    sources, target, truth = domains(0)
    weigher = ClassifierWeigher(classifier=NormalClassifier(sharp), estimator=estimator)
    got = weigher.fit(sources, target)
    # Standard errors are near 0.015 each.
    assert np.abs(got.weights - truth).sum() < 0.1
    assert got.method == f"classifier-{estimator}"
    assert got.gap < 1e-5
    assert got.names == ("s0", "s1", "s2")
    assert got.meta["temperature"] == pytest.approx(sharp, rel=0.15)
    assert 0.7 < got.meta["accuracy"] < 0.95


def test_calibration_mends_an_overconfident_classifier() -> None:
    errors = {}
    for calibration in ("none", "temperature", "bias-corrected"):
        weigher = ClassifierWeigher(classifier=NormalClassifier(8.0), calibration=calibration)
        fits = [weigher.fit(*domains(seed)[:2]).weights for seed in range(4)]
        errors[calibration] = np.abs(np.mean(fits, axis=0) - domains(0)[2]).sum()
    # Three quarters of the error of wrong probabilities go.
    assert errors["temperature"] < 0.06
    assert errors["bias-corrected"] < 0.06
    assert errors["none"] > 2 * errors["temperature"]


# Forty cross-fitted classifiers.
@pytest.mark.slow
def test_standard_errors_are_those_of_the_target_sample() -> None:
    fits = [
        ClassifierWeigher(classifier=NormalClassifier(), folds=2).fit(*domains(seed)[:2])
        for seed in range(40)
    ]
    spread = np.std([fit.weights for fit in fits], axis=0)
    # 40 fits give a standard deviation to 11%; the classifier's own noise adds to it.
    ratio = spread / np.mean([fit.stderr for fit in fits], axis=0)
    assert (ratio > 0.65).all()
    assert (ratio < 1.8).all()


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_likelihood_is_maximal_and_em_never_lowers_it(seed: int, K: int) -> None:
    rng = np.random.default_rng(seed)
    ratios = rng.gamma(0.5, size=(60, K)) + 1e-9
    found = maximise_likelihood(ratios)
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.gap <= 1e-9
    assert found.objective == pytest.approx(-likelihood(ratios, found.weights), abs=1e-15)
    pi = np.full(K, 1 / K)
    value = likelihood(ratios, pi)
    for _ in range(30):
        pi = em_step(ratios, pi)
        assert likelihood(ratios, pi) >= value - 1e-14
        value = likelihood(ratios, pi)
    assert -found.objective >= value - 1e-12
    # The certificate in words of Karush, Kuhn and Tucker.
    gradient = (ratios / (ratios @ found.weights)[:, None]).mean(axis=0)
    np.testing.assert_allclose(gradient[found.weights > 1e-9], 1.0, atol=1e-6)


def test_disjoint_sources_are_counted() -> None:
    ratios = np.repeat(np.eye(3), [5, 3, 2], axis=0) + 1e-300
    found = maximise_likelihood(ratios)
    np.testing.assert_allclose(found.weights, [0.5, 0.3, 0.2], atol=1e-12)
    # Standard errors of counting: sqrt(p (1 - p) / n).
    want = np.sqrt([0.5 * 0.5 / 10, 0.3 * 0.7 / 10, 0.2 * 0.8 / 10])
    np.testing.assert_allclose(fisher_stderr(ratios, found.weights), want, rtol=1e-9)
    assert (fisher_stderr(ratios, np.array([1.0, 0.0, 0.0])) == 0).all()


def test_exact_predictions_give_the_shares() -> None:
    confusion = np.array([[0.8, 0.1, 0.2], [0.1, 0.7, 0.2], [0.1, 0.2, 0.6]])
    truth = np.array([0.2, 0.5, 0.3])
    found = match_predictions(confusion, confusion @ truth)
    np.testing.assert_allclose(found.weights, truth, atol=1e-9)
    assert found.objective <= 1e-15


def test_the_penalty_on_the_shift_fades_with_samples() -> None:
    # Two sources are nearly confused, which plain matching answers with a wild shift.
    confusion = np.array([[0.8, 0.105, 0.1], [0.1, 0.445, 0.45], [0.1, 0.45, 0.45]])
    q = np.array([0.3, 0.3, 0.4])
    predicted = confusion @ np.array([0.2, 0.4, 0.4]) + np.array([0.004, -0.004, 0.0])
    plain = match_predictions(confusion, predicted).weights
    found = [match_predictions_regularised(confusion, predicted, q, n) for n in (30, 10**9)]
    np.testing.assert_allclose(found[1].weights, plain, atol=1e-2)
    shift = [np.linalg.norm(f.weights / q - 1) for f in found]
    assert shift[0] < 0.9 * shift[1]
    # The gap bounds the distance to the optimum of the stated function.
    rng = np.random.default_rng(0)
    log = np.log(2 * 3 / 0.05)
    delta = 0.03 * (2 * log / 90 + np.sqrt(2 * log / 30))
    for pi in rng.dirichlet(np.ones(3), size=2000):
        value = np.linalg.norm(confusion @ pi - predicted) + delta * np.linalg.norm(pi / q - 1)
        assert value >= found[0].objective - 1e-9
    assert found[0].gap < 1e-6


def test_no_shift_is_left_alone() -> None:
    q = np.array([0.5, 0.5])
    found = match_predictions_regularised(np.eye(2), q, q, 100)
    np.testing.assert_allclose(found.weights, q, atol=1e-12)
    assert found.objective == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("method", ["temperature", "bias-corrected"])
def test_calibration_finds_the_distortion(method: str) -> None:
    rng = np.random.default_rng(0)
    true = 2 * rng.normal(size=(20_000, 3))
    bias = np.array([0.5, 0.0, -0.5]) * (method == "bias-corrected")
    p = calibrated(true, 1.0, bias)
    y = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    temperature, found = fit_calibration(3 * true, y, method)
    assert temperature == pytest.approx(3.0, rel=0.05)
    np.testing.assert_allclose(found, bias, atol=0.08)
    assert fit_calibration(true, y, "none") == (1.0, pytest.approx(np.zeros(3)))


def test_probabilities_of_zero_stay_finite() -> None:
    assert np.isfinite(logits_of(np.array([[0.0, 1.0]]))).all()


# Importing scikit-learn takes seconds.
@pytest.mark.slow
def test_default_classifier_tells_sources_of_equal_mean_apart() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    sources = {"wide": 2 * rng.normal(size=(600, 2)), "narrow": rng.normal(size=(600, 2))}
    target = np.concatenate([2 * rng.normal(size=(900, 2)), rng.normal(size=(300, 2))])
    got = ClassifierWeigher(folds=3).fit(sources, target)
    assert abs(got["wide"] - 0.75) < 5 * got.stderr[0]


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    x = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(ImportError, match=r"neuros-sourceweigher\[classifier\]', or pass class"):
        ClassifierWeigher().fit({"a": x, "b": x}, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": "platt"}, "calibration needs one of 'none', 'temperature', 'bias"),
        ({"estimator": "em"}, "estimator needs one of 'mlls', 'bbse', 'rlls', got 'em'"),
        ({"folds": 1}, "folds needs a number >= 2, got 1"),
    ],
)
def test_unknown_configuration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierWeigher(**change)


def test_unfit_probabilities_are_refused() -> None:
    class Wrong(NormalClassifier):
        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return super().predict_proba(x)[:, :1]

    sources, target, _ = domains(0, n=50)
    with pytest.raises(ValueError, match="classifier needs finite probabilities of shape"):
        ClassifierWeigher(classifier=Wrong()).fit(sources, target)
    with pytest.raises(ValueError, match=r"source 's0' needs shape \(n, 2\) with n >= 5, got"):
        ClassifierWeigher(classifier=Wrong()).fit({"s0": target[:4]}, target)
    assert repr(ClassifierWeigher(folds=3)) == (
        "ClassifierWeigher(classifier=None, calibration='temperature', estimator='mlls', "
        "folds=3, seed=0)"
    )
