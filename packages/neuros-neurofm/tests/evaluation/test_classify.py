"""Trials, their linear classifiers, and the model trained on top of them."""

import numpy as np
import pytest
import torch
from torch import Generator

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.augmentation import UnitDropout
from neuros_neurofm.evaluation._classify import classify, fit_classifier, start_at_zero
from neuros_neurofm.evaluation._trials import (
    LinearClassifier,
    Trials,
    cross_entropy,
    log_band_power,
    log_covariance,
    reference_correlation,
)

_RATE = 100.0


def _noise(n: int, *, seed: int = 0) -> Trials:
    """Two classes: the first or the second of two channels is the louder one."""
    draws = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = draws.normal(size=(n, 20, 2))
    x[np.arange(n), :, labels] *= 3.0
    groups = np.arange(n) // 2 % 4
    return Trials("emg", x, labels, groups, _RATE, ("a", "b"))


def _model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16,
        1,
        2,
        16,
        modalities=("emg",),
        behavior_dim=2,
        window=0.2,
        sampling_rates={"emg": _RATE},
        patches={"emg": 0.1},
        perceiver_depth=1,
        popt_depth=1,
    )


def test_log_covariance_of_independent_channels_is_their_log_variance() -> None:
    time = np.arange(100) * 2 * np.pi / 100
    x = np.stack([2.0 * np.sin(time), np.cos(time)], axis=1)[None]
    # Variances 2 and 1/2; a thousandth of their mean is added to each.
    wanted = [np.log(2.0 + 1.25e-3), 0.0, np.log(0.5 + 1.25e-3)]
    np.testing.assert_allclose(log_covariance(x)[0], wanted, atol=1e-9)


def test_log_covariance_of_a_scaled_signal_moves_the_diagonal_alone() -> None:
    x = np.random.default_rng(0).normal(size=(3, 50, 3))
    moved = log_covariance(10.0 * x) - log_covariance(x)
    diagonal = np.array([1, 0, 0, 1, 0, 1]) * np.log(100.0)
    np.testing.assert_allclose(moved, np.tile(diagonal, (3, 1)), atol=1e-6)


def test_power_of_a_sine_lies_in_its_band() -> None:
    x = np.sin(2 * np.pi * 13.0 * np.arange(500) / _RATE)[None, :, None]
    low, high = log_band_power(x, _RATE, [(12.0, 14.0), (16.0, 18.0)])[0]
    assert low - high > 5


def test_a_band_between_two_frequencies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the band 1\.2-1\.3 Hz holds no frequency of 100 samp"):
        log_band_power(np.ones((1, 100, 1)), _RATE, [(1.2, 1.3)])


def test_a_sine_of_any_phase_has_canonical_correlation_one_with_its_frequency() -> None:
    seconds = np.arange(500) / _RATE
    x = np.sin(2 * np.pi * 13.0 * seconds + 1.0)[None, :, None]
    found = reference_correlation(x, _RATE, (13.0, 17.0))[0]
    np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-6)


def test_cross_entropy_of_equal_logits_is_that_of_a_fair_coin() -> None:
    found = cross_entropy(np.full((4, 2), 1e3), np.array([0, 1, 1, 0]))
    assert found == pytest.approx(np.log(2.0))


def test_the_linear_classifier_tells_loud_channels_apart_in_groups_it_has_not_seen() -> None:
    trials = _noise(80)
    fit = LinearClassifier(log_covariance, 2).fit(trials.x, trials.labels, trials.groups)
    new = _noise(80, seed=1)
    assert (fit.logits(new.x).argmax(axis=1) == new.labels).mean() > 0.95
    assert (fit.held_out.argmax(axis=1) == trials.labels).mean() > 0.95
    assert fit.loss == pytest.approx(cross_entropy(fit.held_out, trials.labels))
    assert fit.n_parameters == 2 * (3 + 1)


def test_held_out_logits_know_nothing_of_their_own_labels() -> None:
    # Pure noise with more features than trials: only a leak could tell the classes apart.
    draws = np.random.default_rng(0)
    x, labels = draws.normal(size=(200, 12, 8)), np.arange(200) % 2
    fit = LinearClassifier(log_covariance, 2).fit(x, labels, np.arange(200) // 10)
    right = (fit.held_out.argmax(axis=1) == labels).mean()
    # 200 fair coins lie below 0.67 but once in a million.
    assert right < 0.67


def test_a_single_group_cannot_be_held_out() -> None:
    trials = _noise(8)
    with pytest.raises(ValueError, match="groups must hold at least two groups"):
        LinearClassifier(log_covariance, 2).fit(trials.x, trials.labels, np.zeros(8, dtype=int))


def test_a_class_that_lies_in_one_group_alone_is_refused() -> None:
    trials = _noise(8)
    with pytest.raises(ValueError, match="every class needs trials outside a held-out fold"):
        LinearClassifier(log_covariance, 2).fit(trials.x, trials.labels, trials.labels)


def test_an_unfitted_classifier_says_so() -> None:
    fit = LinearClassifier(log_covariance, 2)
    assert fit.n_parameters == 0
    with pytest.raises(RuntimeError, match="the classifier is not fitted; call fit first"):
        fit.logits(np.zeros((1, 4, 2)))


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.zeros((2, 5)), [0, 1], "x must be"),
        (np.zeros((2, 5, 1)), [0, 1, 1], "one label and one group per trial"),
        (np.full((2, 5, 1), np.nan), [0, 1], "x must be finite"),
        (np.zeros((2, 5, 1)), [0, -1], "labels must be >= 0, got -1"),
    ],
)
def test_trials_that_do_not_belong_together_are_refused(
    x: np.ndarray, labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Trials("emg", x, np.array(labels), np.zeros(2, dtype=int), _RATE)


def test_the_model_begins_as_the_classifier_it_adds_to() -> None:
    model, trials = _model(), _noise(12)
    start_at_zero(model)
    offset = np.random.default_rng(0).normal(size=(12, 2))
    np.testing.assert_allclose(classify(model, trials, offset), offset, atol=1e-6)


# The model is trained for 30 steps.
@pytest.mark.slow
def test_the_model_alone_learns_which_channel_is_loud() -> None:
    model, trials, new = _model(), _noise(80), _noise(40, seed=1)
    model.add_units("emg", trials.units, generator=Generator().manual_seed(0))
    model.calibrate("emg", torch.as_tensor(trials.x, dtype=torch.float32), units=trials.units)
    fit = fit_classifier(
        model,
        [trials.take(trials.groups != 0)],
        [trials.take(trials.groups == 0)],
        steps=30,
        batch_size=16,
        learning_rate=2e-2,
        masker=UnitDropout(0.05),
        generator=Generator().manual_seed(0),
    )
    assert fit.history[0][0] == 0
    assert fit.validation_loss == min(loss for _, loss in fit.history)
    assert (classify(model, new).argmax(axis=1) == new.labels).mean() > 0.9


def test_training_keeps_the_linear_start_where_nothing_is_left_to_learn() -> None:
    model, trials = _model(), _noise(16)
    start_at_zero(model)
    # The offsets are sure of the right class: every change is for the worse or of no use.
    offset = 40.0 * np.eye(2)[trials.labels]
    fit = fit_classifier(
        model,
        [trials],
        [trials],
        train_offsets=[offset],
        validation_offsets=[offset],
        steps=2,
        validate_every=1,
    )
    assert fit.best_step == 0
    np.testing.assert_allclose(classify(model, trials, offset), offset, atol=1e-6)


def test_labels_beyond_the_classes_and_offsets_of_another_shape_are_refused() -> None:
    model, trials = _model(), _noise(4)
    with pytest.raises(ValueError, match=r"offsets must be \(4, 2\), one row per trial"):
        classify(model, trials, np.zeros((4, 3)))
    many = Trials("emg", trials.x, trials.labels + 1, trials.groups, _RATE)
    with pytest.raises(ValueError, match="labels reach 2, the network has 2 classes"):
        classify(model, many)
    with pytest.raises(ValueError, match="at least one set, each with at least one trial"):
        fit_classifier(model, [], [trials])


def test_a_model_without_a_decoder_is_refused() -> None:
    model = MultiModalNeuroFMX(
        16,
        1,
        2,
        16,
        modalities=("emg",),
        behavior_dim=0,
        window=0.2,
        sampling_rates={"emg": _RATE},
        patches={"emg": 0.1},
        perceiver_depth=1,
        popt_depth=1,
    )
    empty = Trials(
        "emg", np.zeros((1, 20, 2)), np.zeros(1, dtype=int), np.zeros(1, dtype=int), _RATE
    )
    with pytest.raises(ValueError, match="labels reach 0, the network has 0 classes"):
        classify(model, empty)
