"""Mutual information and silhouettes beside scikit-learn."""

import numpy as np
import pytest
import torch

from neuros_mechint.neurons import NeuronActivationAnalyzer
from neuros_mechint.neurons._information import continuous_information, discrete_information

feature_selection = pytest.importorskip("sklearn.feature_selection")
metrics = pytest.importorskip("sklearn.metrics")

pytestmark = pytest.mark.oracle
N, N_UNITS = 300, 12


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.normal(size=N)
    x = rng.normal(size=(N, N_UNITS)) + np.linspace(0, 2, N_UNITS) * y[:, None]
    # Unit variance and noise of 1e-6: the jitter that the peer adds changes nothing.
    x, y = (v + 1e-6 * rng.normal(size=v.shape) for v in (x, y))
    return x / x.std(0), y / y.std()


@pytest.mark.parametrize("k", [1, 3, 7])
def test_information_with_a_continuous_variable_is_the_peers(data, k: int) -> None:
    x, y = data
    peer = feature_selection.mutual_info_regression(x, y, n_neighbors=k, random_state=0)
    np.testing.assert_allclose(continuous_information(x, y, k), peer, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_information_with_classes_is_the_peers(data, k: int) -> None:
    x, y = data
    # The peer compares squared distances, whose rounding lets the neighbour at the radius in now
    # and then where a class has few members; these classes are large.
    classes = np.digitize(y, [-1.0, 0.0, 1.0])
    peer = feature_selection.mutual_info_classif(x, classes, n_neighbors=k, random_state=0)
    np.testing.assert_allclose(discrete_information(x, classes, k), peer, atol=1e-6)


def test_the_analyzer_scales_and_breaks_ties_as_the_peer(data) -> None:
    x, y = data
    analyzer = NeuronActivationAnalyzer(torch.nn.Identity())
    scaled = x * np.arange(1, N_UNITS + 1) - 5.0
    found = analyzer.behavior_information({"x": torch.from_numpy(scaled), "y": 3 * y}, "y")
    peer = feature_selection.mutual_info_regression(scaled, 3 * y, random_state=0)
    np.testing.assert_allclose(found.mi_scores, peer, atol=1e-6)


@pytest.mark.parametrize("n_groups", [2, 5])
def test_the_silhouette_is_the_peers(data, n_groups: int) -> None:
    x, y = data
    labels = np.argsort(np.argsort(y)) * n_groups // N
    labels[0] = n_groups  # a group of one row
    geometry = NeuronActivationAnalyzer(torch.nn.Identity()).analyze_population_geometry(
        torch.from_numpy(x), labels
    )
    assert geometry.silhouette_score == pytest.approx(metrics.silhouette_score(x, labels), abs=1e-6)
