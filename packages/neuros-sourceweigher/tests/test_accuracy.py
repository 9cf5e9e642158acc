"""Known mixtures are recovered as well as samples allow, and the intervals tell how well that is.

The floor is maximum likelihood by the true densities of the sources. All seeds are fixed; beside
each bar stands the chance that fresh seeds would miss it.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_sourceweigher import (
    ClassifierWeigher,
    RandomFourierMap,
    SourceWeigher,
    median_bandwidth,
)
from neuros_sourceweigher._label_shift import maximise_likelihood

K, D = 6, 8
CASES = {
    # Spread of the means in standard deviations; spread of the log scales of the covariances.
    "separated": (3.0, 0.0),
    "overlapping": (0.75, 0.0),
    "equal means": (0.0, 0.5),
    "both": (0.75, 0.5),
}


def simulate(case: str, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Samples of the sources, of the target, the truth, and the target's true densities."""
    spread, uneven = CASES[case]
    rng = np.random.default_rng(seed)
    means = spread * rng.normal(size=(K, D))
    turns = [np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(K)]
    factors = np.stack([q * np.exp(uneven * rng.normal(size=D)) for q in turns])
    truth = rng.dirichlet(np.full(K, 2.0))
    samples = [m + rng.normal(size=(2000, D)) @ f.T for m, f in zip(means, factors, strict=True)]
    y = rng.choice(K, size=4000, p=truth)
    target = means[y] + np.einsum("nij,nj->ni", factors[y], rng.normal(size=(4000, D)))
    log = np.stack(
        [
            multivariate_normal(m, f @ f.T).logpdf(target)
            for m, f in zip(means, factors, strict=True)
        ],
        axis=1,
    )
    return samples, target, truth, np.exp(log - log.max(axis=1, keepdims=True))


def by_moments(
    samples: list[np.ndarray], target: np.ndarray, phi: Callable[[np.ndarray], np.ndarray]
) -> SourceWeights:
    sources = [DomainStatistics.from_samples(phi(x), name=f"s{k}") for k, x in enumerate(samples)]
    return SourceWeigher().fit(sources, DomainStatistics.from_samples(phi(target), name="t"))


# Eight simulations of 16,000 samples, each fitted four ways.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "classifier", "fourier", "means"),
    [
        ("separated", 1.1, 1.15, 1.5),
        ("overlapping", 1.2, 1.25, None),
        ("equal means", 1.4, 1.8, None),
        ("both", 1.25, 1.4, None),
    ],
)
def test_known_mixtures_are_recovered(
    case: str, classifier: float, fourier: float, means: float | None
) -> None:
    pytest.importorskip("sklearn")
    errors: dict[str, list[float]] = {name: [] for name in ("floor", "net", "fourier", "means")}
    for seed in range(8):
        samples, target, truth, densities = simulate(case, seed)
        bandwidth = median_bandwidth(np.concatenate([x[::10] for x in samples]))
        phi = RandomFourierMap(dim=D, n_features=256, bandwidth=bandwidth)
        named = {f"s{k}": x for k, x in enumerate(samples)}
        plain = by_moments(samples, target, lambda x: x)
        if case == "equal means":
            assert plain.diagnosis.identifiable is False
        fits = {
            "floor": maximise_likelihood(densities).weights,
            "net": ClassifierWeigher(folds=2).fit(named, target).weights,
            "fourier": by_moments(samples, target, phi.transform).weights,
            "means": plain.weights,
        }
        for name, w in fits.items():
            errors[name].append(float(np.abs(w - truth).sum()))
    floor = np.mean(errors["floor"])
    # At these seeds: classifier 0.98, 0.97, 1.25, 0.99; Fourier 1.00, 1.11, 1.47, 1.23; means 1.49.
    # Ratios over eight seeds vary by about 0.1, so fresh seeds miss the closest bar, that of the
    # means, now and then, and the others about once in ten to a hundred.
    assert np.mean(errors["net"]) <= classifier * floor
    assert np.mean(errors["fourier"]) <= fourier * floor
    if means is not None:
        assert np.mean(errors["means"]) <= means * floor
    if case == "equal means":
        assert np.mean(errors["means"]) >= 10 * floor


# Ten simulations of 210,000 samples.
@pytest.mark.slow
def test_large_separated_samples_give_weights_to_two_percent() -> None:
    # Counting true labels has standard deviations below 0.0023 each, so an L1 error above 0.02
    # has a chance below 1e-6.
    for seed in range(10):
        rng = np.random.default_rng(seed)
        means = 3 * rng.normal(size=(4, D))
        truth = rng.dirichlet(np.ones(4))
        samples = [m + rng.normal(size=(40_000, D)) for m in means]
        target = means[rng.choice(4, size=50_000, p=truth)] + rng.normal(size=(50_000, D))
        got = by_moments(samples, target, lambda x: x)
        assert np.abs(got.weights - truth).sum() <= 0.02


def mixture(n: int, shift: float, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Four overlapping sources in six dimensions and their mixture, one mean of it shifted."""
    rng = np.random.default_rng([n, seed])
    means = np.random.default_rng(5).normal(size=(4, 6))
    samples = [m + rng.normal(size=(n, 6)) for m in means]
    y = rng.choice(4, size=n, p=[0.4, 0.3, 0.2, 0.1])
    target = means[y] + rng.normal(size=(n, 6))
    target[:, 0] += shift
    return samples, target


# Four hundred fits on fresh samples.
@pytest.mark.slow
def test_the_j_test_rejects_true_mixtures_at_its_level() -> None:
    # At a true rate of 5% fresh seeds would leave 2% to 9% once in 1,000.
    phi = RandomFourierMap(dim=6, n_features=40, bandwidth=3.5)
    p = [
        by_moments(*mixture(1500, 0.0, seed), phi.transform).diagnosis.p_value
        for seed in range(400)
    ]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert np.mean(np.array(p) < 0.01) <= 0.03
    assert 0.4 <= np.median(p) <= 0.6


# A hundred fits on fresh samples.
@pytest.mark.slow
def test_the_j_test_finds_a_small_shift() -> None:
    # The shift is ten standard errors of the mean: a miss has a chance far below 1e-6.
    phi = RandomFourierMap(dim=6, n_features=40, bandwidth=3.5)
    p = [
        by_moments(*mixture(1500, 0.3, seed), phi.transform).diagnosis.p_value
        for seed in range(100)
    ]
    assert np.mean(np.array(p) < 0.05) >= 0.99


# Two hundred bootstraps.
@pytest.mark.slow
def test_bootstrap_intervals_cover_interior_weights() -> None:
    # At a true coverage of 95% the mean over 800 intervals has a standard deviation of 1%.
    truth = np.array([0.4, 0.3, 0.2, 0.1])
    covered, widths, errors = [], [], []
    for seed in range(200):
        samples, target = mixture(1500, 0.0, seed)
        sources = [DomainStatistics.from_samples(x, name=f"s{k}") for k, x in enumerate(samples)]
        goal = DomainStatistics.from_samples(target, name="t")
        got = SourceWeigher(n_bootstrap=300, seed=seed).fit(sources, goal)
        covered.append((got.interval[:, 0] <= truth) & (truth <= got.interval[:, 1]))
        widths.append(got.stderr)
        errors.append(got.weights - truth)
    assert 0.90 <= np.mean(covered) <= 0.99
    # The standard errors are those of the estimate.
    np.testing.assert_allclose(np.mean(widths, axis=0), np.std(errors, axis=0), rtol=0.2)


def test_likelihood_of_the_true_densities_is_certified() -> None:
    *_, truth, densities = simulate("overlapping", 0)
    found = maximise_likelihood(densities)
    assert found.gap <= 1e-12
    assert np.abs(found.weights - truth).sum() < 0.15
