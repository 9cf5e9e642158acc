"""Weights match the target's moments, and the diagnosis says what the means cannot tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_sourceweigher import SourceWeigher

IDENTITY = SourceWeigher(metric="identity")
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
    weights = IDENTITY.fit(sources, target)
    assert np.abs(weights.weights - truth).sum() <= 1e-9
    assert weights.names == tuple(f"s{k}" for k in range(K))
    assert weights.diagnosis.residual <= 1e-9
    assert weights.gap <= 1e-12


def test_objective_and_gap_are_those_of_the_stated_function() -> None:
    sources = [domain("a", [0.0, 0.0]), domain("b", [2.0, 0.0])]
    weigher = SourceWeigher(metric="identity", ridge=0.5, prior=[1.0, 0.0])
    got = weigher.fit(sources, domain("t", [1.0, 3.0]))
    # min over w_b of (2 w - 1)^2 + 9 + 0.5 (2 w^2): w = 4 / 10.
    np.testing.assert_allclose(got.weights, [0.6, 0.4], atol=1e-14)
    assert got.objective == pytest.approx(0.2**2 + 9 + 0.5 * 2 * 0.4**2, rel=1e-14)
    assert 0 <= got.gap <= 1e-11
    assert got.meta == {
        "moments": "mean",
        "metric": "identity",
        "shrinkage": 0.0,
        "ridge": 0.5,
        "space": "",
        "unique": True,
    }
    assert SourceWeights.from_json(got.to_json()).to_dict() == got.to_dict()


def test_residual_is_in_standard_errors_of_the_target() -> None:
    sources = [domain("a", [0.0, 0.0]), domain("b", [2.0, 0.0])]
    target = domain("t", [1.0, 3.0], n=50, cov=np.diag([1.0, 7.0]))
    diagnosis = IDENTITY.fit(sources, target).diagnosis
    assert diagnosis.residual == pytest.approx(3.0 / np.sqrt(8.0 / 50), rel=1e-12)
    assert (diagnosis.j_stat, diagnosis.p_value, diagnosis.dof) == (None, None, None)
    assert diagnosis.in_hull is None
    for cov in (None, np.zeros((2, 2))):
        bare = domain("t", [1.0, 3.0], cov=cov)
        assert IDENTITY.fit(sources, bare).diagnosis.residual is None


def test_equal_means_are_reported_as_indistinguishable() -> None:
    rng = np.random.default_rng(0)
    sources = [
        DomainStatistics.from_samples(
            rng.normal(size=(2000, 8)) * rng.uniform(0.5, 2, 8), name=f"s{k}"
        )
        for k in range(6)
    ]
    target = DomainStatistics.from_samples(rng.normal(size=(4000, 8)), name="t")
    weights = IDENTITY.fit(sources, target)
    assert weights.diagnosis.identifiable is False
    assert set().union(*weights.diagnosis.ambiguous) >= set(weights.support)
    assert weights.diagnosis.ambiguous


def test_exact_copies_form_one_group_and_the_others_none() -> None:
    sources = [
        domain("a", [0.0, 0.0, 0.0]),
        domain("b", [3.0, 0.0, 0.0]),
        domain("a2", [0.0, 0.0, 0.0]),
        domain("c", [0.0, 4.0, 1.0]),
    ]
    got = IDENTITY.fit(sources, domain("t", [1.0, 1.0, 0.25]))
    assert got.diagnosis.ambiguous == (("a", "a2"),)
    assert got.diagnosis.identifiable is False
    assert got["a"] == pytest.approx(got["a2"], abs=1e-12)
    assert got.meta["unique"] is False


def test_two_pairs_of_copies_form_two_groups() -> None:
    means = np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    rows = [0, 0, 1, 1, 2]
    sources = [domain(f"s{i}", means[k].tolist()) for i, k in enumerate(rows)]
    got = IDENTITY.fit(sources, domain("t", [1.0, 1.0, 0.0]))
    assert got.diagnosis.ambiguous == (("s0", "s1"), ("s2", "s3"))


def test_sources_on_a_line_are_dependent_together() -> None:
    sources = [domain(n, [x, 2 * x]) for n, x in (("a", 0.0), ("b", 1.0), ("c", 2.0))]
    got = IDENTITY.fit(sources, domain("t", [1.0, 2.0]))
    assert got.diagnosis.ambiguous == (("a", "b", "c"),)
    assert got.diagnosis.condition == pytest.approx(1 / np.finfo(float).eps, rel=1e-6)


def test_noise_decides_whether_close_means_are_apart() -> None:
    target = domain("t", [0.05, 0.0])
    for n, apart in ((100, False), (1_000_000, True)):
        sources = [
            domain("a", [0.0, 0.0], n=n, cov=np.eye(2)),
            domain("b", [0.1, 0.0], n=n, cov=np.eye(2)),
        ]
        diagnosis = IDENTITY.fit(sources, target).diagnosis
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
        flagged += IDENTITY.fit([a, b], middle).diagnosis.identifiable is False
        middle = DomainStatistics("t", 9, (a.mean + far.mean) / 2)
        assert IDENTITY.fit([a, far], middle).diagnosis.identifiable
    assert flagged >= 185


def test_a_single_supporting_source_is_identified() -> None:
    got = IDENTITY.fit([domain("a", [0.0]), domain("b", [1.0])], domain("t", [-3.0]))
    assert got.support == ("a",)
    assert got.diagnosis.identifiable is True
    assert got.diagnosis.condition == 1.0


def test_order_of_sources_only_reorders_the_weights() -> None:
    rng = np.random.default_rng(3)
    sources = [DomainStatistics(f"s{k}", 10, rng.normal(size=4)) for k in range(7)]
    target = DomainStatistics("t", 10, 0.1 * rng.normal(size=4))
    one, two = IDENTITY.fit(sources, target), IDENTITY.fit(sources[::-1], target)
    assert one.as_dict() == pytest.approx(two.as_dict(), abs=1e-9)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_compute_broadcasts_and_equals_fit(seed: int, K: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    means, targets = rng.normal(size=(2, 1, K, p)), rng.normal(size=(3, p))
    weigher = SourceWeigher(metric="identity", ridge=0.1)
    got = weigher.compute(means, targets)
    assert got.shape == (2, 3, K)
    for i in range(2):
        sources = [DomainStatistics(f"s{k}", 5, means[i, 0, k]) for k in range(K)]
        for j in range(3):
            want = weigher.fit(sources, DomainStatistics("t", 5, targets[j])).weights
            np.testing.assert_allclose(got[i, j], want, atol=1e-9)


def test_compute_of_one_problem_has_one_axis() -> None:
    got = IDENTITY.compute([[0.0], [2.0]], [0.5])
    np.testing.assert_allclose(got, [0.75, 0.25], atol=1e-15)


def test_configuration_is_shown() -> None:
    weigher = SourceWeigher(metric="diagonal", ridge=0.25, prior=[0.5, 0.5], n_bootstrap=7)
    assert repr(weigher) == (
        "SourceWeigher(moments='mean', metric='diagonal', shrinkage='auto', ridge=0.25, "
        "prior=(0.5, 0.5), n_bootstrap=7, level=0.95, seed=0)"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"metric": "optimal"},
            "metric needs one of 'identity', 'diagonal', 'efficient', got 'optimal'",
        ),
        ({"moments": "cov"}, r"moments needs one of 'mean', 'mean\+cov', got 'cov'"),
        ({"ridge": -1.0}, "ridge needs a finite number >= 0 or 'auto', got -1.0"),
        ({"ridge": "best"}, "ridge needs a finite number >= 0 or 'auto', got 'best'"),
        ({"ridge": np.inf}, "ridge needs a finite number >= 0 or 'auto', got inf"),
        ({"shrinkage": 1.5}, r"shrinkage needs a number in \[0, 1\] or 'auto', got 1.5"),
        ({"n_bootstrap": 1}, "n_bootstrap needs 0 or a number >= 2, got 1"),
        ({"level": 1.0}, "level needs a number between 0 and 1, got 1.0"),
    ],
)
def test_unknown_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceWeigher(**change)


def test_unfit_domains_are_refused() -> None:
    a, target = domain("a", [0.0]), domain("t", [0.0])
    with pytest.raises(ValueError, match="sources needs at least one domain, got none"):
        IDENTITY.fit([], target)
    with pytest.raises(ValueError, match="sources needs every name once, got repeated: 'a'"):
        IDENTITY.fit([a, a], target)
    with pytest.raises(ValueError, match="source 'b' needs the feature space of target 't'"):
        IDENTITY.fit([a, DomainStatistics("b", 1, [0.0], space="x")], target)
    with pytest.raises(ValueError, match="with d=1, got '' with d=2"):
        IDENTITY.fit([domain("c", [0.0, 1.0])], target)
    with pytest.raises(ValueError, match="prior needs one entry per source = 1, got 2"):
        SourceWeigher(prior=[0.5, 0.5]).fit([a], target)


def test_unfit_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs shape \(..., K, p\) .* got \(2,\) and \(2,\)"):
        IDENTITY.compute(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(4,\)"):
        IDENTITY.compute(np.zeros((3, 2)), np.zeros(4))


@pytest.mark.parametrize("metric", ["identity", "diagonal", "efficient"])
@pytest.mark.parametrize("moments", ["mean", "mean+cov"])
def test_exact_population_moments_give_the_mixture_in_every_metric(
    metric: str, moments: str
) -> None:
    rng = np.random.default_rng(7)
    for _ in range(5):
        K, d = 5, 6
        means = rng.normal(size=(K, d))
        factors = rng.normal(size=(K, d, d)) / 2 + np.eye(d)
        covs = factors @ factors.transpose(0, 2, 1)
        truth = rng.dirichlet(np.ones(K))
        sources = [DomainStatistics(f"s{k}", 2000, means[k], covs[k]) for k in range(K)]
        mean = truth @ means
        second = np.einsum("k,kij->ij", truth, covs + means[:, :, None] * means[:, None, :])
        target = DomainStatistics("t", 4000, mean, second - np.outer(mean, mean))
        weights = SourceWeigher(metric=metric, moments=moments).fit(sources, target)
        assert np.abs(weights.weights - truth).sum() <= 1e-9
        if metric == "efficient":
            assert weights.diagnosis.in_hull


def test_equal_means_are_told_apart_by_second_moments() -> None:
    covs = [np.diag([1.0, 4.0]), np.diag([4.0, 1.0])]
    sources = [DomainStatistics(n, 1000, [0.0, 0.0], c) for n, c in zip("ab", covs, strict=True)]
    target = DomainStatistics("t", 1000, [0.0, 0.0], np.diag([1.75, 3.25]))
    for metric in ("identity", "diagonal", "efficient"):
        weights = SourceWeigher(moments="mean+cov", metric=metric).fit(sources, target)
        np.testing.assert_allclose(weights.weights, [0.75, 0.25], atol=1e-9)
        assert weights.diagnosis.identifiable
        assert SourceWeigher(metric=metric).fit(sources, target).diagnosis.identifiable is False


@CI
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "mean+cov"]))
def test_efficient_weights_do_not_depend_on_units_or_origin(seed: int, moments: str) -> None:
    rng = np.random.default_rng(seed)
    samples = [rng.normal(size=(300, 3)) + rng.normal(size=3) for _ in range(3)]
    goal = np.concatenate([samples[0][:150], samples[2][:80]]) + 0.01 * rng.normal(size=(230, 3))
    unit, origin = np.exp(rng.normal(size=3) * 3), 5 * rng.normal(size=3)
    fits = []
    for scale, shift in ((np.ones(3), np.zeros(3)), (unit, origin)):
        parts = [
            DomainStatistics.from_samples((x + shift) * scale, name=f"s{k}")
            for k, x in enumerate(samples)
        ]
        target = DomainStatistics.from_samples((goal + shift) * scale, name="t")
        # The first step has the identity metric, so only the fixed point is free of units.
        fits.append(SourceWeigher(moments=moments, shrinkage=0.0).fit(parts, target))
    np.testing.assert_allclose(fits[0].weights, fits[1].weights, atol=0.05)


def test_the_efficient_metric_trusts_the_quiet_feature() -> None:
    # The noisy feature says a, the quiet one says half: with variance 100 : 1 the answer is near
    # the optimum of the two residuals weighted by precision.
    cov = np.diag([100.0, 1.0])
    sources = [
        DomainStatistics("a", 10_000, [0.0, 0.0], cov),
        DomainStatistics("b", 10_000, [1.0, 1.0], cov),
    ]
    target = DomainStatistics("t", 10_000, [0.0, 0.5], cov)
    np.testing.assert_allclose(IDENTITY.fit(sources, target).weights, [0.75, 0.25], atol=1e-12)
    # min over w_b of w^2 / 100 + (w - 1/2)^2.
    diagonal = SourceWeigher(metric="diagonal").fit(sources, target)
    np.testing.assert_allclose(diagonal["b"], 0.5 / 1.01, rtol=1e-12)
    efficient = SourceWeigher(shrinkage=0.0).fit(sources, target)
    np.testing.assert_allclose(efficient["b"], 0.5 / 1.01, rtol=2e-2)
    assert efficient.meta["shrinkage"] == 0.0


def test_full_shrinkage_is_a_diagonal_metric() -> None:
    rng = np.random.default_rng(2)
    samples = [rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)) + k for k in range(3)]
    sources = [DomainStatistics.from_samples(x, name=f"s{k}") for k, x in enumerate(samples)]
    target = DomainStatistics.from_samples(np.concatenate(samples[:2]), name="t")
    got = SourceWeigher(shrinkage=1.0).fit(sources, target)
    scale = np.sqrt(np.diag(target.cov))
    means = np.stack([s.mean for s in sources]) / scale
    near = IDENTITY.compute(means, target.mean / scale)
    np.testing.assert_allclose(got.weights, near, atol=0.02)
    assert 0 < SourceWeigher().fit(sources, target).meta["shrinkage"] < 0.1


def test_a_feature_repeated_changes_nothing_but_the_rank() -> None:
    rng = np.random.default_rng(3)
    samples = [rng.normal(size=(500, 3)) + m for m in ([0, 0, 0], [2, 0, 0], [0, 2, 0])]
    goal = np.concatenate([samples[0][:300], samples[1][:200]])
    fits = []
    for columns in ([0, 1, 2], [0, 1, 2, 0, 1]):
        parts = [
            DomainStatistics.from_samples(x[:, columns], name=f"s{k}")
            for k, x in enumerate(samples)
        ]
        target = DomainStatistics.from_samples(goal[:, columns], name="t")
        fits.append(SourceWeigher(shrinkage=0.0).fit(parts, target))
    np.testing.assert_allclose(fits[0].weights, fits[1].weights, atol=1e-4)
    assert fits[0].diagnosis.dof == fits[1].diagnosis.dof
    assert fits[1].diagnosis.j_stat == pytest.approx(fits[0].diagnosis.j_stat, abs=0.05)


def test_a_feature_without_noise_is_matched_first() -> None:
    # The flag is 0 in a and 1 in b, without variance; the other feature says 0.9.
    cov = np.diag([1.0, 0.0])
    sources = [
        DomainStatistics("a", 100, [0.0, 0.0], cov),
        DomainStatistics("b", 100, [1.0, 1.0], cov),
    ]
    got = SourceWeigher(metric="diagonal").fit(sources, DomainStatistics("t", 9, [0.9, 0.3], cov))
    assert got["b"] == pytest.approx(0.3, abs=1e-9)
    # A feature that never differs has neither noise nor meaning.
    cov = np.diag([1.0, 0.0])
    sources = [
        DomainStatistics("a", 100, [0.0, 5.0], cov),
        DomainStatistics("b", 100, [1.0, 5.0], cov),
    ]
    got = SourceWeigher().fit(sources, DomainStatistics("t", 100, [0.3, 5.0], cov))
    assert got["b"] == pytest.approx(0.3, abs=1e-9)


def test_a_domain_without_covariance_is_named() -> None:
    a = domain("a", [0.0], cov=[[1.0]])
    bare = domain("bare", [1.0])
    with pytest.raises(ValueError, match="domain 'bare' needs a covariance here, got none"):
        SourceWeigher().fit([a, bare], domain("t", [0.0], cov=[[1.0]]))
    with pytest.raises(ValueError, match="domain 't' needs a covariance"):
        SourceWeigher(metric="identity", moments="mean+cov").fit([a], domain("t", [0.0]))
    with pytest.raises(ValueError, match="domain 'bare' needs a covariance"):
        SourceWeigher(metric="diagonal").fit([bare], a)
    with pytest.raises(ValueError, match="domain 't' needs a covariance"):
        SourceWeigher(n_bootstrap=10).fit([a], domain("t", [0.0]))


def test_too_many_products_are_refused() -> None:
    a = DomainStatistics("a", 300, np.zeros(129), np.eye(129))
    with pytest.raises(ValueError, match="needs at most 128 features, got d=129; match the means"):
        SourceWeigher(moments="mean+cov").fit([a], a)


def test_quality_scales_the_prior() -> None:
    sources = [domain("a", [0.0]), domain("b", [1.0])]
    target = domain("t", [0.5])
    weigher = SourceWeigher(metric="identity", ridge=1e9)
    got = weigher.fit(sources, target, quality={"a": 0.25})
    np.testing.assert_allclose(got.weights, [0.2, 0.8], atol=1e-6)
    leaning = SourceWeigher(metric="identity", ridge=1e9, prior=[0.6, 0.4])
    got = leaning.fit(sources, target, quality={"a": 0.5, "b": 1.0})
    np.testing.assert_allclose(got.weights, [3 / 7, 4 / 7], atol=1e-6)


@CI
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, "some"]))
def test_full_quality_changes_nothing(seed: int, prior: str | None) -> None:
    rng = np.random.default_rng(seed)
    sources = [domain(n, rng.normal(size=2).tolist()) for n in "abcd"]
    target = domain("t", rng.normal(size=2).tolist())
    near = None if prior is None else rng.dirichlet(np.ones(4))
    weigher = SourceWeigher(metric="identity", ridge=0.1, prior=near)
    one = weigher.fit(sources, target, quality=dict.fromkeys("abcd", 1.0))
    np.testing.assert_allclose(one.weights, weigher.fit(sources, target).weights, atol=1e-12)


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        ({"c": 1.0}, r"quality needs names of sources \['a', 'b'\], got \['c'\]"),
        ({"a": 1.5}, r"quality needs shares in \[0, 1\], got"),
        ({"a": 0.0, "b": 0.0}, "quality needs a source above 0 that the prior does not exclude"),
    ],
)
def test_unfit_quality_is_refused(quality: dict[str, float], message: str) -> None:
    sources = [domain("a", [0.0]), domain("b", [1.0])]
    with pytest.raises(ValueError, match=message):
        IDENTITY.fit(sources, domain("t", [0.5]), quality=quality)


def test_compute_takes_a_metric() -> None:
    means, target = [[0.0, 0.0], [1.0, 1.0]], [0.0, 0.5]
    got = SourceWeigher().compute(means, target, metric_matrix=np.diag([0.01, 1.0]))
    np.testing.assert_allclose(got, [1 - 0.5 / 1.01, 0.5 / 1.01], rtol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), r"metric_matrix needs shape \(2, 2\), got \(3, 3\)"),
        ([[1.0, 1.0], [0.0, 1.0]], "metric_matrix needs a symmetric matrix, got one that is not"),
        (np.diag([1.0, -2.0]), "metric_matrix needs eigenvalues > 0, got -2; add a small ridge"),
        ([[np.nan, 0.0], [0.0, 1.0]], "metric_matrix needs finite values"),
    ],
)
def test_unfit_metrics_are_refused(matrix: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceWeigher().compute([[0.0, 0.0], [1.0, 1.0]], [0.0, 0.5], metric_matrix=matrix)


def test_compute_needs_a_ridge_in_numbers() -> None:
    with pytest.raises(ValueError, match="compute needs a number as ridge, got 'auto'"):
        SourceWeigher(ridge="auto").compute([[0.0]], [0.0])
    with pytest.raises(ValueError, match="source_means needs finite values"):
        SourceWeigher().compute([[np.nan]], [0.0])


@pytest.mark.parametrize(
    ("moments", "size", "message"),
    [
        ("mean", 1e141, r"domain 'a' needs moments up to 1e\+140, got 1e\+141; rescale"),
        ("mean+cov", 1e71, r"domain 'a' needs moments up to 1e\+70, got 1e\+71; rescale"),
    ],
)
def test_moments_whose_squares_overflow_are_refused(
    moments: str, size: float, message: str
) -> None:
    a = DomainStatistics("a", 5, [size], [[1.0]])
    with pytest.raises(ValueError, match=message):
        SourceWeigher(moments=moments).fit([a], a)
    wide = DomainStatistics("a", 5, [0.0], [[size]])
    with pytest.raises(ValueError, match=message):
        SourceWeigher(moments=moments).fit([wide], wide)


@pytest.mark.parametrize("unit", [1e-150, 1e-20, 1e60])
@pytest.mark.parametrize("metric", ["identity", "diagonal", "efficient"])
def test_units_do_not_change_weights_or_diagnosis(metric: str, unit: float) -> None:
    rng = np.random.default_rng(4)
    means = np.eye(3, 5) + rng.normal(size=(3, 5)) / 30
    target = np.array([0.6, 0.3, 0.1]) @ means + rng.normal(size=5) / 30
    fits = []
    for scale in (1.0, unit):
        parts = [
            DomainStatistics(f"s{k}", 900, m * scale, np.eye(5) * scale**2)
            for k, m in enumerate(means)
        ]
        goal = DomainStatistics("t", 900, target * scale, np.eye(5) * scale**2)
        fits.append(SourceWeigher(metric=metric).fit(parts, goal))
    one, two = fits
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-9)
    assert one.diagnosis.ambiguous == two.diagnosis.ambiguous
    assert one.diagnosis.residual == pytest.approx(two.diagnosis.residual, rel=1e-6)
    if metric == "efficient":
        assert one.diagnosis.j_stat == pytest.approx(two.diagnosis.j_stat, rel=1e-6)


def test_a_target_of_boundless_noise_is_compatible_with_anything() -> None:
    parts = [DomainStatistics("a", 5, [0.0, 0.0], np.eye(2) * 1e-200)]
    target = DomainStatistics("t", 5, [1e-10, 1e-10], np.eye(2) * 1e139)
    diagnosis = SourceWeigher().fit(parts, target).diagnosis
    assert diagnosis.in_hull is True
    assert diagnosis.p_value > 0.9
