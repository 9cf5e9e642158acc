from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_neurofm.evaluation import balanced_accuracy, bits_per_spike, poisson_nll, r2_score


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_perfect_prediction_scores_one_and_the_mean_scores_zero() -> None:
    y = rng().normal(size=(50, 3))
    assert r2_score(y, y) == 1.0
    assert r2_score(y, np.broadcast_to(y.mean(axis=0), y.shape)) == pytest.approx(0.0, abs=1e-12)


def test_columns_are_averaged_or_returned() -> None:
    y = rng().normal(size=(50, 2))
    prediction = y + np.array([0.0, 1.0]) * rng(1).normal(size=y.shape)
    raw = r2_score(y, prediction, multioutput="raw_values")
    assert raw.shape == (2,)
    assert raw[0] == 1.0
    assert r2_score(y, prediction) == pytest.approx(raw.mean())


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=st.integers(0, 999), n_classes=st.integers(1, 6))
def test_a_constant_answer_has_the_balanced_accuracy_of_chance(seed: int, n_classes: int) -> None:
    draw = rng(seed)
    labels = np.r_[np.arange(n_classes), draw.integers(n_classes, size=40) ** 2 % n_classes]
    answer = np.full(len(labels), draw.integers(n_classes))
    assert balanced_accuracy(labels, answer) == pytest.approx(1 / n_classes)
    assert balanced_accuracy(labels, labels) == 1.0
    # How often a class occurs, and what has no label, changes nothing.
    again = np.r_[labels, labels[labels == 0], np.full(9, -1)]
    doubled = np.r_[answer, answer[labels == 0], np.zeros(9)]
    assert balanced_accuracy(again, doubled) == pytest.approx(1 / n_classes)


def test_recalls_are_averaged() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 5]), np.array([0, 0, 0, 1, 1, 0, 5])
    assert balanced_accuracy(labels, predicted) == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        (np.zeros(3), np.zeros(2), "labels and predicted must have equal shapes"),
        (np.zeros((3, 1)), np.zeros((3, 1)), r"labels must be \(time,\), got shape \(3, 1\)"),
        (np.array([0.5, 1.0]), np.zeros(2), r"labels must be integers, got \[0\.5\]"),
        (np.zeros(2), np.array([0.0, np.nan]), "predicted must be integers"),
        (np.full(2, -1), np.zeros(2), "at least one label >= 0, got none"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Any, predicted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced_accuracy(labels, predicted)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_scale_shift_and_order_do_not_matter(seed: int, scale: float, shift: float) -> None:
    y, prediction = rng(seed).normal(size=(2, 40, 2))
    order = rng(seed).permutation(40)
    expected = pytest.approx(r2_score(y, prediction), rel=1e-7, abs=1e-7)
    assert r2_score(scale * y + shift, scale * prediction + shift) == expected
    assert r2_score(y[order], prediction[order]) == expected


def test_missing_targets_are_left_out_of_their_column() -> None:
    y, prediction = rng().normal(size=(2, 40, 2))
    y[:10, 0] = np.nan
    prediction[3, 0] = np.inf
    raw = r2_score(y, prediction, multioutput="raw_values")
    assert raw[0] == pytest.approx(r2_score(y[10:, 0], prediction[10:, 0]))
    assert raw[1] == pytest.approx(r2_score(y[:, 1], prediction[:, 1]))


@pytest.mark.parametrize(("prediction", "score"), [(3.0, 1.0), (4.0, 0.0)])
def test_a_constant_column_is_right_or_wrong(prediction: float, score: float) -> None:
    assert r2_score(np.full(9, 3.0), np.full(9, prediction)) == score


def test_torch_and_numpy_score_the_same() -> None:
    y, prediction = rng().normal(size=(2, 40, 2)).astype(np.float32)
    assert r2_score(torch.from_numpy(y), torch.from_numpy(prediction)) == r2_score(y, prediction)
    assert r2_score(torch.ones(3).bfloat16(), torch.ones(3)) == 1.0


@pytest.mark.parametrize(
    ("y", "prediction", "settings", "message"),
    [
        (np.ones(3), np.ones(4), {}, r"equal shapes, got \(3,\) and \(4,\)"),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), {}, r"y_true must be \(time,\) or \(time, dim\)"),
        (np.array([1.0, np.nan]), np.ones(2), {}, r"at least 2 entries .* got \[1\]"),
        (np.ones((3, 0)), np.ones((3, 0)), {}, "at least 2 entries"),
        (np.ones(2), np.array([1.0, np.nan]), {}, "y_pred must be finite .* got 1 NaN"),
        (np.array([1.0, np.inf]), np.ones(2), {}, "y_true must be finite"),
        (np.ones(2), np.ones(2), {"multioutput": "median"}, "multioutput must be uniform_average"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    y: Any, prediction: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        r2_score(y, prediction, **settings)


def test_complex_values_are_refused() -> None:
    with pytest.raises(TypeError, match="y_true must be real, got complex128"):
        r2_score(np.array([1j, 2j]), np.ones(2))


def test_the_likelihood_is_that_of_the_poisson_distribution() -> None:
    # -ln P(n = 2 | r = 3) = 3 - 2 ln 3 + ln 2
    expected = 3 - 2 * np.log(3) + np.log(2)
    assert poisson_nll(np.array([3.0]), np.array([2.0])) == pytest.approx(expected, rel=1e-12)


def test_probabilities_of_all_counts_sum_to_one() -> None:
    p = [np.exp(-poisson_nll(np.array([2.5]), np.array([float(n)]))) for n in range(60)]
    assert sum(p) == pytest.approx(1.0, abs=1e-12)


def test_a_rate_of_zero_counts_as_one_in_a_billion_and_inputs_stay() -> None:
    rates, counts = np.array([0.0, 1.0]), np.array([1.0, np.nan])
    assert poisson_nll(rates, counts) == pytest.approx(1e-9 - np.log(1e-9))
    assert rates.tolist() == [0.0, 1.0]
    assert np.isnan(counts[1])


@pytest.mark.parametrize(
    ("rates", "counts", "message"),
    [
        ([-1.0], [1.0], "rates must be >= 0, got -1.0"),
        ([1.0], [-2.0], "counts must be >= 0, got -2.0"),
        ([np.nan], [1.0], "rates must be finite where the target is not NaN"),
        ([1.0, 2.0], [1.0], "equal shapes"),
    ],
)
def test_impossible_rates_and_counts_are_refused(rates: Any, counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        poisson_nll(np.array(rates), np.array(counts))


def test_mean_rates_give_exactly_no_information() -> None:
    counts = rng().poisson(0.3, size=(20, 30, 7)).astype(float)
    counts[0, :, 2] = np.nan
    mean = np.broadcast_to(np.nanmean(counts, axis=(0, 1)), counts.shape)
    assert bits_per_spike(mean, counts) == pytest.approx(0.0, abs=1e-12)


def test_knowing_which_half_fires_gives_one_bit_per_spike() -> None:
    rates = np.repeat([2.0, 0.0], 50)[:, None]
    assert bits_per_spike(rates, rates) == pytest.approx(1.0)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_order_of_bins_and_neurons_does_not_matter(seed: int) -> None:
    counts = rng(seed).poisson(1.0, size=(30, 4)).astype(float)
    counts[0] = 1
    rates = rng(seed).uniform(0.5, 2, size=(30, 4))
    rows, columns = rng(seed).permutation(30), rng(seed).permutation(4)
    shuffled = bits_per_spike(rates[rows][:, columns], counts[rows][:, columns])
    assert shuffled == pytest.approx(bits_per_spike(rates, counts), rel=1e-9, abs=1e-12)


def test_a_single_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"counts must be \(..., unit\), got a single number"):
        bits_per_spike(np.array(2.0), np.array(2.0))


def test_no_spike_is_refused() -> None:
    with pytest.raises(ValueError, match="counts must hold at least one spike, got none"):
        bits_per_spike(np.ones((3, 2)), np.zeros((3, 2)))
