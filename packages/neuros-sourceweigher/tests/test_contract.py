"""What every weigher promises, whichever way it estimates."""

import copy

import numpy as np
import pytest

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_sourceweigher import (
    ClassifierWeigher,
    KernelMeanWeigher,
    OnlineWeigher,
    SourceWeigher,
)


class NearestMean:
    """A classifier without a library: softmax of distances to the means."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.means = np.stack([x[y == k].mean(axis=0) for k in range(y.max() + 1)])

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        raised = np.exp(-0.5 * np.square(x[:, None] - self.means).sum(axis=-1))
        return raised / raised.sum(axis=1, keepdims=True)


WEIGHERS = {
    "identity": SourceWeigher(metric="identity"),
    "diagonal": SourceWeigher(metric="diagonal"),
    "efficient": SourceWeigher(),
    "second moments": SourceWeigher(moments="mean+cov"),
    "bootstrap": SourceWeigher(n_bootstrap=20),
    "ridge": SourceWeigher(ridge="auto"),
    "kernel": KernelMeanWeigher(),
    "unbiased": KernelMeanWeigher(unbiased=True, bandwidth=2.0),
    "mlls": ClassifierWeigher(classifier=NearestMean(), folds=2),
    "bbse": ClassifierWeigher(classifier=NearestMean(), folds=2, estimator="bbse"),
    "rlls": ClassifierWeigher(classifier=NearestMean(), folds=2, estimator="rlls"),
}
MEANS = {"a": [0.0, 0.0, 0.0], "b": [3.0, 0.0, 0.0], "c": [0.0, 3.0, 0.0], "idle": [9.0, 9.0, 9.0]}
TRUTH = {"a": 0.5, "b": 0.3, "c": 0.2, "idle": 0.0}


def samples(names: str | list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=(300, 3)) + mean for name, mean in MEANS.items()}
    y = rng.choice(4, size=400, p=list(TRUTH.values()))
    return {name: parts[name] for name in names}, rng.normal(size=(400, 3)) + np.array(
        list(MEANS.values())
    )[y]


def fit(weigher: SourceWeigher, names: list[str]) -> SourceWeights:
    sources, target = samples(names)
    if isinstance(weigher, SourceWeigher):
        parts = [DomainStatistics.from_samples(x, name=name) for name, x in sources.items()]
        return weigher.fit(parts, DomainStatistics.from_samples(target, name="t"))
    return weigher.fit(sources, target)


@pytest.mark.parametrize("name", WEIGHERS)
def test_weights_are_near_the_truth_and_certified(name: str) -> None:
    got = fit(WEIGHERS[name], list(MEANS))
    # Over many draws the mean error is 0.07 to 0.1; this one is fixed.
    assert np.abs(got.weights - list(TRUTH.values())).sum() < 0.25
    assert got.gap <= 1e-6 * max(1.0, abs(got.objective))
    assert got.names == tuple(MEANS)
    assert SourceWeights.from_json(got.to_json()).to_dict() == got.to_dict()


@pytest.mark.parametrize("name", WEIGHERS)
def test_the_same_data_give_the_same_bits(name: str) -> None:
    weigher = WEIGHERS[name]
    one, two = fit(weigher, list(MEANS)), fit(copy.deepcopy(weigher), list(MEANS))
    assert one.to_json() == two.to_json()


@pytest.mark.parametrize("name", WEIGHERS)
def test_the_order_of_sources_only_reorders_weights(name: str) -> None:
    one, two = fit(WEIGHERS[name], list(MEANS)), fit(WEIGHERS[name], list(MEANS)[::-1])
    # The folds of a classifier, and of the ridge's path, are drawn source by source.
    loose = name in {"mlls", "bbse", "rlls", "ridge"}
    assert one.as_dict() == pytest.approx(two.as_dict(), abs=0.05 if loose else 1e-7)


@pytest.mark.parametrize("name", WEIGHERS)
def test_one_source_has_all_the_weight(name: str) -> None:
    got = fit(WEIGHERS[name], ["b"])
    assert got.weights.tolist() == [1.0]
    assert got.gap is not None


@pytest.mark.parametrize("name", WEIGHERS)
def test_a_weigher_keeps_nothing_from_a_fit(name: str) -> None:
    weigher = copy.deepcopy(WEIGHERS[name])
    before = repr(weigher)
    first = fit(weigher, list(MEANS)).to_json()
    fit(weigher, ["b", "c"])
    assert fit(weigher, list(MEANS)).to_json() == first
    assert repr(weigher) == before


def test_any_statistics_weigher_can_be_followed_online() -> None:
    sources, target = samples(list(MEANS))
    for name in ("identity", "diagonal", "efficient", "second moments"):
        online = OnlineWeigher(WEIGHERS[name], max_step=2.0)
        for half in (slice(0, 150), slice(150, 300)):
            got = online.update(
                [DomainStatistics.from_samples(x[half], name=n) for n, x in sources.items()],
                DomainStatistics.from_samples(target[half], name="t"),
            )
        want = WEIGHERS[name].fit(
            [DomainStatistics.from_samples(x, name=n) for n, x in sources.items()],
            DomainStatistics.from_samples(target[:300], name="t"),
        )
        np.testing.assert_allclose(got.weights, want.weights, atol=1e-9)
