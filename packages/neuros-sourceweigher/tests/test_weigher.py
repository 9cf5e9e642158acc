"""Weights match the target's moments, and the diagnosis says what the means cannot tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_sourceweigher import SourceWeigher

CI = settings(max_examples=50, derandomize=True, deadline=None)


def domain(name: str, mean: list[float], *, n: int = 100, cov: object = None) -> DomainStatistics:
    return DomainStatistics(name, n, np.array(mean), cov)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_exact_population_moments_give_the_mixture(seed: int, K: int) -> None:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(K, K + 2))
    truth = rng.dirichlet(np.ones(K))
    sources = [DomainStatistics(f"s{k}", 2000, means[k], np.eye(K + 2)) for k in range(K)]
    target = DomainStatistics("t", 4000, truth @ means, np.eye(K + 2))
    weights = SourceWeigher().fit(sources, target)
    assert np.abs(weights.weights - truth).sum() <= 1e-9
    assert weights.names == tuple(f"s{k}" for k in range(K))
    assert weights.diagnosis.residual <= 1e-9
    assert weights.gap <= 1e-12


def test_objective_and_gap_are_those_of_the_stated_function() -> None:
    sources = [domain("a", [0.0, 0.0]), domain("b", [2.0, 0.0])]
    weigher = SourceWeigher(ridge=0.5, prior=[1.0, 0.0])
    got = weigher.fit(sources, domain("t", [1.0, 3.0]))
    # min over w_b of (2 w - 1)^2 + 9 + 0.5 (2 w^2): w = 4 / 10.
    np.testing.assert_allclose(got.weights, [0.6, 0.4], atol=1e-14)
    assert got.objective == pytest.approx(0.2**2 + 9 + 0.5 * 2 * 0.4**2, rel=1e-14)
    assert 0 <= got.gap <= 1e-11
    assert got.meta == {
        "moments": "mean",
        "metric": "identity",
        "ridge": 0.5,
        "space": "",
        "unique": True,
    }
    assert SourceWeights.from_json(got.to_json()).to_dict() == got.to_dict()


def test_residual_is_in_standard_errors_of_the_target() -> None:
    sources = [domain("a", [0.0, 0.0]), domain("b", [2.0, 0.0])]
    target = domain("t", [1.0, 3.0], n=50, cov=np.diag([1.0, 7.0]))
    diagnosis = SourceWeigher().fit(sources, target).diagnosis
    assert diagnosis.residual == pytest.approx(3.0 / np.sqrt(8.0 / 50), rel=1e-12)
    assert (diagnosis.j_stat, diagnosis.p_value, diagnosis.dof) == (None, None, None)
    assert diagnosis.in_hull is None
    for cov in (None, np.zeros((2, 2))):
        bare = domain("t", [1.0, 3.0], cov=cov)
        assert SourceWeigher().fit(sources, bare).diagnosis.residual is None


def test_equal_means_are_reported_as_indistinguishable() -> None:
    rng = np.random.default_rng(0)
    sources = [
        DomainStatistics.from_samples(
            rng.normal(size=(2000, 8)) * rng.uniform(0.5, 2, 8), name=f"s{k}"
        )
        for k in range(6)
    ]
    target = DomainStatistics.from_samples(rng.normal(size=(4000, 8)), name="t")
    weights = SourceWeigher().fit(sources, target)
    assert weights.diagnosis.identifiable is False
    assert set().union(*weights.diagnosis.ambiguous) <= set(weights.support)
    assert weights.diagnosis.ambiguous


def test_exact_copies_form_one_group_and_the_others_none() -> None:
    sources = [
        domain("a", [0.0, 0.0, 0.0]),
        domain("b", [3.0, 0.0, 0.0]),
        domain("a2", [0.0, 0.0, 0.0]),
        domain("c", [0.0, 4.0, 1.0]),
    ]
    got = SourceWeigher().fit(sources, domain("t", [1.0, 1.0, 0.25]))
    assert got.diagnosis.ambiguous == (("a", "a2"),)
    assert got.diagnosis.identifiable is False
    assert got["a"] == pytest.approx(got["a2"], abs=1e-12)
    assert got.meta["unique"] is False


def test_two_pairs_of_copies_form_two_groups() -> None:
    means = np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    rows = [0, 0, 1, 1, 2]
    sources = [domain(f"s{i}", means[k].tolist()) for i, k in enumerate(rows)]
    got = SourceWeigher().fit(sources, domain("t", [1.0, 1.0, 0.0]))
    assert got.diagnosis.ambiguous == (("s0", "s1"), ("s2", "s3"))


def test_sources_on_a_line_are_dependent_together() -> None:
    sources = [domain(n, [x, 2 * x]) for n, x in (("a", 0.0), ("b", 1.0), ("c", 2.0))]
    got = SourceWeigher().fit(sources, domain("t", [1.0, 2.0]))
    assert got.diagnosis.ambiguous == (("a", "b", "c"),)
    assert got.diagnosis.condition == pytest.approx(1 / np.finfo(float).eps, rel=1e-6)


def test_noise_decides_whether_close_means_are_apart() -> None:
    target = domain("t", [0.05, 0.0])
    for n, apart in ((100, False), (1_000_000, True)):
        sources = [
            domain("a", [0.0, 0.0], n=n, cov=np.eye(2)),
            domain("b", [0.1, 0.0], n=n, cov=np.eye(2)),
        ]
        diagnosis = SourceWeigher().fit(sources, target).diagnosis
        assert diagnosis.identifiable is apart
        assert diagnosis.ambiguous == (() if apart else (("a", "b"),))
        assert diagnosis.condition == pytest.approx(1.0)


# 200 fits on fresh samples, so that the rate is known to a few percent.
@pytest.mark.slow
def test_separated_sources_are_rarely_called_ambiguous_and_equal_ones_nearly_always() -> None:
    # One direction of d = 6 features: a false alarm needs a 6 sigma shift, and equal means exceed
    # mean + 3 sd of a chi2(6) / 6 with probability 2e-3 or so per run.
    rng = np.random.default_rng(1)
    flagged = 0
    for _ in range(200):
        shift = np.r_[0.6, np.zeros(5)]
        a, b = (DomainStatistics.from_samples(rng.normal(size=(500, 6)), name=n) for n in "ab")
        far = DomainStatistics.from_samples(rng.normal(size=(500, 6)) + shift, name="far")
        middle = DomainStatistics("t", 9, (a.mean + b.mean) / 2)
        flagged += SourceWeigher().fit([a, b], middle).diagnosis.identifiable is False
        middle = DomainStatistics("t", 9, (a.mean + far.mean) / 2)
        assert SourceWeigher().fit([a, far], middle).diagnosis.identifiable
    assert flagged >= 185


def test_a_single_supporting_source_is_identified() -> None:
    got = SourceWeigher().fit([domain("a", [0.0]), domain("b", [1.0])], domain("t", [-3.0]))
    assert got.support == ("a",)
    assert got.diagnosis.identifiable is True
    assert got.diagnosis.condition == 1.0


def test_order_of_sources_only_reorders_the_weights() -> None:
    rng = np.random.default_rng(3)
    sources = [DomainStatistics(f"s{k}", 10, rng.normal(size=4)) for k in range(7)]
    target = DomainStatistics("t", 10, 0.1 * rng.normal(size=4))
    one, two = SourceWeigher().fit(sources, target), SourceWeigher().fit(sources[::-1], target)
    assert one.as_dict() == pytest.approx(two.as_dict(), abs=1e-9)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_compute_broadcasts_and_equals_fit(seed: int, K: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    means, targets = rng.normal(size=(2, 1, K, p)), rng.normal(size=(3, p))
    weigher = SourceWeigher(ridge=0.1)
    got = weigher.compute(means, targets)
    assert got.shape == (2, 3, K)
    for i in range(2):
        sources = [DomainStatistics(f"s{k}", 5, means[i, 0, k]) for k in range(K)]
        for j in range(3):
            want = weigher.fit(sources, DomainStatistics("t", 5, targets[j])).weights
            np.testing.assert_allclose(got[i, j], want, atol=1e-9)


def test_compute_of_one_problem_has_one_axis() -> None:
    got = SourceWeigher().compute([[0.0], [2.0]], [0.5])
    np.testing.assert_allclose(got, [0.75, 0.25], atol=1e-15)


def test_configuration_is_shown() -> None:
    weigher = SourceWeigher(ridge=0.25, prior=[0.5, 0.5])
    assert (
        repr(weigher)
        == "SourceWeigher(moments='mean', metric='identity', ridge=0.25, prior=(0.5, 0.5))"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "efficient"}, "metric needs one of 'identity', got 'efficient'"),
        ({"moments": "mean+cov"}, r"moments needs one of 'mean', got 'mean\+cov'"),
        ({"ridge": -1.0}, "ridge needs a finite number >= 0, got -1.0"),
    ],
)
def test_unknown_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceWeigher(**change)


def test_unfit_domains_are_refused() -> None:
    a, target = domain("a", [0.0]), domain("t", [0.0])
    with pytest.raises(ValueError, match="sources needs at least one domain, got none"):
        SourceWeigher().fit([], target)
    with pytest.raises(ValueError, match="sources needs every name once, got repeated: 'a'"):
        SourceWeigher().fit([a, a], target)
    with pytest.raises(ValueError, match="source 'b' needs the feature space of target 't'"):
        SourceWeigher().fit([a, DomainStatistics("b", 1, [0.0], space="x")], target)
    with pytest.raises(ValueError, match="with d=1, got '' with d=2"):
        SourceWeigher().fit([domain("c", [0.0, 1.0])], target)
    with pytest.raises(ValueError, match="prior needs one entry per column = 1, got 2"):
        SourceWeigher(prior=[0.5, 0.5]).fit([a], target)


def test_unfit_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs shape \(..., K, p\) .* got \(2,\) and \(2,\)"):
        SourceWeigher().compute(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(4,\)"):
        SourceWeigher().compute(np.zeros((3, 2)), np.zeros(4))
