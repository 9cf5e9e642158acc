"""What depends on one source, and weights that follow a stream without jumps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher import (
    KernelMeanWeigher,
    OnlineWeigher,
    SourceWeigher,
    leave_one_source_out,
)

CI = settings(max_examples=25, derandomize=True, deadline=None)
IDENTITY = SourceWeigher(metric="identity")


def batch(name: str, mean: list[float], n: int, rng: np.random.Generator) -> DomainStatistics:
    return DomainStatistics.from_samples(rng.normal(size=(n, len(mean))) + mean, name=name)


def test_the_source_that_matters_is_named() -> None:
    rng = np.random.default_rng(0)
    means = {"a": [0.0, 0.0, 0.0], "b": [3.0, 0.0, 0.0], "idle": [0.0, 9.0, 0.0]}
    sources = [batch(name, mean, 1000, rng) for name, mean in means.items()]
    mixed = rng.normal(size=(1000, 3)) + rng.choice([0.0, 3.0], size=(1000, 1)) * [1, 0, 0]
    target = DomainStatistics.from_samples(mixed, name="t")
    report = leave_one_source_out(SourceWeigher(), sources, target)
    assert report.full.diagnosis.in_hull
    assert report.without["b"].names == ("a", "idle")
    assert set(report.decisive) == {"a", "b"}
    assert report.largest in {"a", "b"}
    assert report.change[2] == pytest.approx(0.0, abs=0.02)
    for k, name in enumerate(means):
        assert report.change[k] >= report.full[name] - 1e-12
    np.testing.assert_allclose(report.change[:2], 0.5, atol=0.05)


def test_samples_are_left_out_by_name_too() -> None:
    rng = np.random.default_rng(1)
    sources = {n: rng.normal(size=(40, 2)) + m for n, m in (("a", 0.0), ("b", 2.0), ("c", 4.0))}
    report = leave_one_source_out(KernelMeanWeigher(bandwidth=2.0), sources, sources["b"])
    assert report.largest == "b"
    assert report.decisive == ()
    assert report.without["a"].names == ("b", "c")


def test_one_source_cannot_be_left_out() -> None:
    a = DomainStatistics("a", 1, [0.0])
    with pytest.raises(ValueError, match="sources needs two or more domains to leave one out"):
        leave_one_source_out(IDENTITY, [a], a)


@CI
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 2.0))
def test_steps_are_bounded_and_stay_on_the_simplex(seed: int, max_step: float) -> None:
    rng = np.random.default_rng(seed)
    online = OnlineWeigher(IDENTITY, max_step=max_step)
    before = None
    for _ in range(6):
        shift = 3 * rng.normal(size=2)
        now = online.update(
            [batch(name, [k, -k], 20, rng) for k, name in enumerate("abc")],
            batch("t", shift.tolist(), 30, rng),
        )
        assert now.weights.min() >= 0
        assert now.weights.sum() == pytest.approx(1.0, abs=1e-12)
        if before is not None:
            assert np.abs(now.weights - before.weights).sum() <= max_step + 1e-12
        fitted = IDENTITY.fit(online.sources, online.target)
        left = np.abs(now.weights - fitted.weights).sum()
        assert now.meta["distance"] == pytest.approx(left, abs=1e-9)
        before = now


# Two hundred updates, each a fit.
@pytest.mark.slow
def test_stationary_data_reach_the_offline_fit() -> None:
    rng = np.random.default_rng(2)
    means, truth = {"a": [0.0, 0.0], "b": [2.0, 0.0], "c": [0.0, 2.0]}, [0.5, 0.3, 0.2]
    online, offline = [], []
    for _ in range(5):
        weigher = OnlineWeigher(SourceWeigher(), max_step=0.1)
        for _ in range(40):
            y = rng.choice(3, size=25, p=truth)
            mixed = rng.normal(size=(25, 2)) + np.array(list(means.values()))[y]
            now = weigher.update(
                [batch(name, mean, 25, rng) for name, mean in means.items()],
                DomainStatistics.from_samples(mixed, name="t"),
            )
        full = SourceWeigher().fit(weigher.sources, weigher.target)
        assert full.weights.shape == now.weights.shape
        online.append(np.abs(now.weights - truth).sum())
        offline.append(np.abs(full.weights - truth).sum())
    assert np.mean(online) <= 1.2 * np.mean(offline)
    assert now.gap is not None
    assert now.method == "moment-matching"


def test_a_new_source_starts_from_zero() -> None:
    online = OnlineWeigher(IDENTITY, max_step=0.25)
    online.update([DomainStatistics("a", 5, [0.0])], DomainStatistics("t", 5, [1.0]))
    got = online.update([DomainStatistics("b", 5, [1.0])])
    assert got.as_dict() == pytest.approx({"a": 0.875, "b": 0.125})
    assert got.method == "online(moment-matching)"
    assert (got.objective, got.gap) == (None, None)
    assert [s.name for s in online.sources] == ["a", "b"]


def test_a_refused_update_changes_nothing() -> None:
    online = OnlineWeigher(IDENTITY)
    with pytest.raises(ValueError, match="update needs a source and a target first, got 0 sources"):
        online.update(target=DomainStatistics("t", 5, [1.0]))
    assert online.target is None
    online.update([DomainStatistics("a", 5, [0.0])], DomainStatistics("t", 5, [1.0]))
    with pytest.raises(ValueError, match="same feature space"):
        online.update([DomainStatistics("a", 5, [0.0, 1.0])], DomainStatistics("t", 5, [9.0]))
    assert online.target.mean.tolist() == [1.0]
    assert online.sources[0].n == 5


def test_unfit_steps_are_refused() -> None:
    for step in (0.0, 2.5):
        with pytest.raises(ValueError, match=r"max_step needs a number in \(0, 2\], got"):
            OnlineWeigher(IDENTITY, max_step=step)
    assert repr(OnlineWeigher(IDENTITY)).endswith("max_step=0.1)")
