"""Intervals by the bootstrap, the path of ridges, and the parts of the diagnosis."""

import numpy as np
import pytest
from scipy.stats import norm

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_sourceweigher import SourceWeigher, bootstrap_weights, regularization_path

A = DomainStatistics("a", 400, [0.0], [[1.0]])
B = DomainStatistics("b", 900, [4.0], [[2.0]])
T = DomainStatistics("t", 100, [1.0], [[5.0]])


def many(seed: int, K: int = 5, d: int = 6, n: int = 300) -> list[DomainStatistics]:
    rng = np.random.default_rng(seed)
    means = 0.5 * rng.normal(size=(K, d))
    parts = [
        DomainStatistics.from_samples(rng.normal(size=(n, d)) + m, name=f"s{k}")
        for k, m in enumerate(means)
    ]
    mixed = rng.normal(size=(n, d)) + means[rng.choice(K, size=n)]
    return [*parts, DomainStatistics.from_samples(mixed, name="t")]


def test_standard_errors_follow_the_delta_method() -> None:
    # w_b = (t - a) / (b - a): variance (v_t + w_a^2 v_a + w_b^2 v_b) / 16.
    want = np.sqrt(5 / 100 + 0.75**2 / 400 + 0.25**2 * 2 / 900) / 4
    got = SourceWeigher(n_bootstrap=20_000).fit([A, B], T)
    # 20,000 draws give a standard deviation to 0.5%; six of that, and the weights' curvature.
    np.testing.assert_allclose(got.stderr, want, rtol=0.03)
    half = norm.ppf(0.975) * want
    np.testing.assert_allclose(got.interval[1], [0.25 - half, 0.25 + half], atol=0.03 * half)
    narrow = SourceWeigher(n_bootstrap=20_000, level=0.5).fit([A, B], T).interval
    np.testing.assert_allclose(np.diff(narrow[0]), 2 * norm.ppf(0.75) * want, rtol=0.05)


def test_bootstrap_is_deterministic_in_its_seed() -> None:
    *sources, target = many(0)
    one, two, three = (
        SourceWeigher(n_bootstrap=50, seed=seed).fit(sources, target) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.interval, two.interval)
    assert not np.array_equal(one.interval, three.interval)
    assert SourceWeights.from_json(one.to_json()).to_dict() == one.to_dict()


def test_draws_are_those_of_the_weigher_and_on_the_simplex() -> None:
    *sources, target = many(1)
    draws = bootstrap_weights(sources, target, n_bootstrap=80, seed=3)
    got = SourceWeigher(n_bootstrap=80, seed=3).fit(sources, target)
    np.testing.assert_allclose(got.stderr, draws.std(axis=0, ddof=1), atol=1e-15)
    assert draws.min() >= 0
    np.testing.assert_allclose(draws.sum(axis=1), 1.0, atol=1e-12)
    pulled = bootstrap_weights(
        sources, target, n_bootstrap=20, ridge=1e9, prior=[0.2] * 5, metric="identity"
    )
    np.testing.assert_allclose(pulled, 0.2, atol=1e-6)


def test_draws_do_not_depend_on_the_size_of_blocks() -> None:
    # 4 sources of 700 features: blocks of 748 draws.
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4, 700))
    sources = [DomainStatistics(f"s{k}", 50, m, np.eye(700)) for k, m in enumerate(means)]
    target = DomainStatistics("t", 50, means.mean(axis=0), np.eye(700))
    draws = bootstrap_weights(sources, target, n_bootstrap=760, metric="identity")
    np.testing.assert_allclose(draws.mean(axis=0), 0.25, atol=0.02)


def test_a_singular_covariance_is_drawn_from() -> None:
    cov = np.array([[1.0, 1.0], [1.0, 1.0]])
    a = DomainStatistics("a", 100, [0.0, 0.0], cov)
    b = DomainStatistics("b", 100, [2.0, 2.0], cov)
    draws = bootstrap_weights([a, b], DomainStatistics("t", 100, [1.0, 1.0], cov), n_bootstrap=500)
    # The mean moves along (1, 1): variance (1 + 1/2) / 100 / 4.
    assert draws[:, 0].std() == pytest.approx(np.sqrt(1.5 / 100 / 4), rel=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_bootstrap": 0}, "n_bootstrap needs a number >= 1, got 0"),
        ({"ridge": "auto"}, "ridge needs a finite number >= 0 here, got 'auto'; take `best`"),
        ({"metric": "x"}, "metric needs one of"),
    ],
)
def test_unfit_bootstraps_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_weights([A, B], T, **change)


def test_the_path_goes_from_the_fit_to_the_prior() -> None:
    *sources, target = many(2)
    prior = [0.5, 0.2, 0.1, 0.1, 0.1]
    path = regularization_path(sources, target, prior=prior, metric="identity")
    assert path.weights.shape == (26, 5)
    free = SourceWeigher(metric="identity").fit(sources, target).weights
    np.testing.assert_allclose(path.weights[0], free, atol=1e-12)
    one = SourceWeigher(metric="identity", ridge=float(path.ridges[20]), prior=prior)
    np.testing.assert_allclose(path.weights[20], one.fit(sources, target).weights, atol=1e-12)
    far = regularization_path(sources, target, [1e9], prior=prior, metric="identity").weights[0]
    np.testing.assert_allclose(far, prior, atol=1e-6)
    distances = np.linalg.norm(path.weights - prior, axis=1)
    assert (np.diff(distances) <= 1e-9).all()
    assert path.best == path.ridges[path.discrepancy.argmin()]
    assert (path.stderr > 0).all()


# A hundred and fifty paths.
@pytest.mark.slow
def test_held_out_discrepancy_estimates_the_true_one() -> None:
    # At one ridge the weights hardly depend on the fold, so the mean over simulations must be the
    # squared distance of the true mixture plus noise: of the source means of 200 samples, and of
    # a fold of the target, which is the constant.
    rng = np.random.default_rng(0)
    d, n, means = 4, 200, np.array([[0.0] * 4, [1.0] * 4])
    estimates, truths = [], []
    for seed in range(150):
        parts = [
            DomainStatistics.from_samples(rng.normal(size=(n, d)) + m, name=f"s{k}")
            for k, m in enumerate(means)
        ]
        target = DomainStatistics.from_samples(rng.normal(size=(n, d)) + 0.3, name="t")
        path = regularization_path(parts, target, [1e9], metric="identity", seed=seed)
        estimates.append(path.discrepancy[0])
        truths.append(np.square(0.5 - 0.3) * d)
    noise = 2 * 0.25 * d / n + 5 * d / n
    spread = np.std(estimates) / np.sqrt(150)
    assert np.mean(estimates) == pytest.approx(np.mean(truths) + noise, abs=6 * spread)


# Six paths of 26 ridges, ten splits each.
@pytest.mark.slow
def test_the_chosen_ridge_helps_where_sources_are_nearly_equal() -> None:
    # Means 0.2 standard deviations apart and 60 samples: the free weights are mostly noise. Over
    # 30 simulations the mean error falls by a third; here it must fall at all.
    errors: dict[str, list[float]] = {"auto": [], "free": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        means, truth = 0.2 * rng.normal(size=(6, 8)), rng.dirichlet(np.full(6, 2.0))
        parts = [
            DomainStatistics.from_samples(rng.normal(size=(60, 8)) + m, name=f"s{k}")
            for k, m in enumerate(means)
        ]
        mixed = rng.normal(size=(60, 8)) + means[rng.choice(6, 60, p=truth)]
        target = DomainStatistics.from_samples(mixed, name="t")
        for name, ridge in (("auto", "auto"), ("free", 0.0)):
            got = SourceWeigher(metric="identity", ridge=ridge).fit(parts, target)
            errors[name].append(float(np.abs(got.weights - truth).sum()))
    assert np.mean(errors["auto"]) < 0.9 * np.mean(errors["free"])


def test_the_path_that_chose_the_ridge_is_kept() -> None:
    *sources, target = many(6)
    got = SourceWeigher(metric="identity", ridge="auto").fit(sources, target)
    assert got.meta["ridge"] in got.meta["path"]["ridges"]
    assert len(got.meta["path"]["discrepancy"]) == len(got.meta["path"]["stderr"]) == 26
    assert SourceWeights.from_json(got.to_json()).to_dict() == got.to_dict()
    path = regularization_path(sources, target, metric="identity")
    assert path.best == got.meta["ridge"]
    np.testing.assert_allclose(got.weights, path.weights[path.ridges == path.best][0], atol=1e-12)


def test_a_small_ridge_is_chosen_where_the_sources_are_far_apart() -> None:
    means = 5 * np.eye(4)
    parts = [DomainStatistics(f"s{k}", 500, m, np.eye(4)) for k, m in enumerate(means)]
    truth = np.array([0.7, 0.2, 0.1, 0.0])
    target = DomainStatistics("t", 500, truth @ means, np.eye(4))
    got = SourceWeigher(ridge="auto").fit(parts, target)
    np.testing.assert_allclose(got.weights, truth, atol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds needs a number >= 2, got 1"),
        ({"ridges": []}, "ridges needs one or more finite numbers >= 0"),
        ({"ridges": [-1.0]}, "ridges needs one or more finite numbers >= 0"),
        ({"ridges": [np.nan]}, "ridges needs one or more finite numbers >= 0"),
    ],
)
def test_unfit_paths_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regularization_path([A, B], T, **change)


def test_a_target_outside_the_hull_is_found() -> None:
    *sources, target = many(4, n=2000)
    assert SourceWeigher().fit(sources, target).diagnosis.in_hull is True
    foreign = DomainStatistics("f", target.n, target.mean + 0.3, target.cov)
    diagnosis = SourceWeigher().fit(sources, foreign).diagnosis
    assert diagnosis.in_hull is False
    assert diagnosis.p_value < 1e-6
    assert diagnosis.dof == 6 - len(SourceWeigher().fit(sources, foreign).support) + 1
    # A ridge pulls the weights away, which is no sign of a foreign target.
    pulled = SourceWeigher(ridge=1e4).fit(sources, target)
    assert pulled.diagnosis.in_hull is True


def test_without_the_target_covariance_j_is_the_plain_statistic() -> None:
    *sources, target = many(5)
    bare = DomainStatistics("t", target.n, target.mean)
    got = SourceWeigher(shrinkage=0.0).fit(sources, bare)
    assert got.diagnosis.j_stat == pytest.approx(got.objective, rel=1e-6)
    assert got.diagnosis.residual is None
    assert 0 < got.diagnosis.p_value < 1


def test_as_many_weights_as_features_leave_nothing_to_test() -> None:
    got = SourceWeigher().fit([A, B], T)
    assert got.support == ("a", "b")
    assert (got.diagnosis.dof, got.diagnosis.p_value, got.diagnosis.in_hull) == (0, None, None)
    assert got.diagnosis.j_stat == 0.0
    one = SourceWeigher().fit([A], T)
    assert one.diagnosis.dof == 1
    # (1 - 0)^2 / (var): S = 1 / 100 + 1 / 400 against the target's own 5 / 100 + 1 / 400.
    assert one.objective == pytest.approx(1 / 0.0125, rel=1e-9)
    assert one.diagnosis.j_stat == pytest.approx(1 / 0.0525, rel=1e-9)


def test_exact_moments_leave_no_statistic() -> None:
    zero = np.zeros((2, 2))
    parts = [DomainStatistics(n, 9, m, zero) for n, m in (("a", [0.0, 0.0]), ("b", [1.0, 0.0]))]
    got = SourceWeigher().fit(parts, DomainStatistics("t", 9, [0.25, 0.0], zero))
    np.testing.assert_allclose(got.weights, [0.75, 0.25], atol=1e-9)
    assert got.diagnosis.identifiable
    assert got.diagnosis.residual is None


def test_noisy_copies_are_named_whichever_of_them_is_chosen() -> None:
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        parts = [
            DomainStatistics.from_samples(rng.normal(size=(800, 6)) + m, name=n)
            for n, m in (("a", 0.0), ("twin", 0.0), ("far", 1.0))
        ]
        mixed = rng.normal(size=(800, 6)) + rng.choice([0.0, 1.0], size=(800, 1))
        target = DomainStatistics.from_samples(mixed, name="t")
        groups = SourceWeigher().fit(parts, target).diagnosis.ambiguous
        assert all("far" not in group for group in groups)
        missed += groups != (("a", "twin"),)
    # The threshold is three standard deviations above the noise, with six features: 1% is missed.
    assert missed <= 3
