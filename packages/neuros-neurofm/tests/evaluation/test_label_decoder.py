"""Linear classifiers of every sample."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_neurofm.evaluation import LabelDecoder, balanced_accuracy
from neuros_neurofm.evaluation._discriminant import cross_entropy, solve_logistic

METHODS = pytest.mark.parametrize("method", ["lda", "logistic"])


def clouds(seed: int = 0, n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Three normal clouds at a distance of 4 deviations, and their rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 3.4]])
    return centres[labels] + rng.normal(size=(n, 2)), np.eye(3)[labels]


@METHODS
def test_three_clouds_are_told_apart_as_well_as_they_can_be(method: str) -> None:
    decoder = LabelDecoder(method).fit(*clouds())
    x, y = clouds(1, 4000)
    found = balanced_accuracy(y.argmax(axis=1), decoder.predict(x).argmax(axis=1))
    # The nearest centre is the best rule. Each border lies 2 deviations away, two of them make
    # 2 * 0.0228 less what lies beyond both; 4000 draws have a deviation of 0.0033.
    assert 0.94 < found < 0.97
    assert decoder.penalty is not None


@METHODS
def test_the_past_is_read_where_lags_are_allowed(method: str) -> None:
    x = np.random.default_rng(0).normal(size=(500, 1))
    y = np.eye(2)[(np.roll(x[:, 0], 2) > 0).astype(int)]
    right = {}
    for n_lags in (2, 3):
        decoder = LabelDecoder(method, n_lags=n_lags).fit(x[:300], y[:300])
        assert decoder.gap == n_lags - 1
        right[n_lags] = (decoder.predict(x[300:]).argmax(1) == y[300:].argmax(1)).mean()
    assert right[3] > 0.9
    # 200 fair coins lie below 0.67 but once in a million.
    assert right[2] < 0.67


@METHODS
def test_a_class_that_was_not_seen_is_never_the_answer(method: str) -> None:
    x, y = clouds()
    wide = np.column_stack([y[:, 0], np.zeros(len(y)), y[:, 1:]])
    logits = LabelDecoder(method).fit(x, wide).predict(x)
    assert logits.shape == (600, 4)
    assert not (logits.argmax(axis=1) == 1).any()
    assert np.isfinite(logits).all()


@METHODS
def test_a_class_of_one_stretch_alone_is_left_out_of_the_choice(method: str) -> None:
    x, y = clouds()
    order = np.argsort(y.argmax(axis=1), kind="stable")
    # Held out, each third is a class that the rest has never seen but at its edge.
    decoder = LabelDecoder(method, gap=0).fit(x[order], y[order])
    assert balanced_accuracy(y.argmax(axis=1), decoder.predict(x).argmax(axis=1)) > 0.93


@METHODS
@settings(max_examples=4, derandomize=True, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_units_of_the_input_do_not_matter(method: str, scale: float, shift: float) -> None:
    x, y = clouds(n=90)
    first = LabelDecoder(method).fit(x, y).predict(x)
    second = LabelDecoder(method).fit(scale * x + shift, y).predict(scale * x + shift)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_strong_penalty_leaves_the_shares_of_the_classes() -> None:
    x, y = clouds()
    labels = y.argmax(axis=1)
    weights, offset = solve_logistic(x, labels, 1e6)
    assert np.abs(weights).max() < 1e-5
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(offset - offset[0], np.log(shares / shares[0]), atol=1e-3)
    entropy = -(shares * np.log(shares)).sum()
    assert cross_entropy(x @ weights + offset, labels) == pytest.approx(entropy, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svm"}, "method must be one of lda, logistic, got 'svm'"),
        ({"n_lags": 0}, "n_lags must be at least 1, got 0"),
        ({"n_folds": 1}, "n_folds must be at least 2, got 1"),
        ({"gap": -1}, "gap must be >= 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(options: Any, message: str) -> None:
    chosen = {"method": "lda"} | options
    with pytest.raises(ValueError, match=message):
        LabelDecoder(chosen.pop("method"), **chosen)


def test_what_cannot_be_classified_is_refused() -> None:
    x, y = clouds(n=12)
    with pytest.raises(RuntimeError, match="call fit first"):
        LabelDecoder("lda").predict(x)
    with pytest.raises(ValueError, match="each row one 1 and else 0, got shape"):
        LabelDecoder("lda").fit(x, 0.5 * y)
    with pytest.raises(ValueError, match=r"at least 2 \* n_folds = 6 samples, got 5"):
        LabelDecoder("lda").fit(x[:5], y[:5])
    with pytest.raises(ValueError, match="gap = 9 leaves 0 samples to train on around a held-out"):
        LabelDecoder("lda", gap=9).fit(x, y)
    with pytest.raises(ValueError, match="the 2 channels of the fit, got 1"):
        LabelDecoder("lda").fit(x, y).predict(x[:, :1])
