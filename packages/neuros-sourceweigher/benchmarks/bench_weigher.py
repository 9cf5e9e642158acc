"""Costs of the estimators in units of the linear algebra that they cannot do without."""

import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pytest

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher import (
    ClassifierWeigher,
    KernelMeanWeigher,
    RandomFourierMap,
    SourceWeigher,
)

NUMPY = f"numpy {version('numpy')}"


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int = 7, repeat: int = 1
) -> float:
    """Smallest CPU time of ours over that of theirs, interleaved."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for side, call, count in ((0, ours, 1), (1, theirs, repeat)):
            start = time.thread_time()
            for _ in range(count):
                call()
            # The first round warms caches and allocators.
            if round_:
                times[side].append((time.thread_time() - start) / count)
    return min(times[0]) / min(times[1])


def report(what: str, peer: str, got: float, bar: float) -> None:
    print(f"BENCH | {what} | {peer} | ratio {got:.2f} | bar {bar}")
    assert got <= bar


def domains(K: int, p: int, n: int = 1500) -> tuple[list[DomainStatistics], DomainStatistics]:
    """Statistics of K sources and their mixture in p Fourier features."""
    rng = np.random.default_rng(0)
    phi = RandomFourierMap(dim=8, n_features=p, bandwidth=3.0)
    means, w = rng.normal(size=(K, 8)), rng.dirichlet(np.ones(K))
    samples = [m + rng.normal(size=(n, 8)) for m in means]
    target = means[rng.choice(K, 2 * n, p=w)] + rng.normal(size=(2 * n, 8))
    sources = [
        DomainStatistics.from_samples(phi.transform(x), name=f"s{k}") for k, x in enumerate(samples)
    ]
    return sources, DomainStatistics.from_samples(phi.transform(target), name="t")


# A million samples of 64 features.
@pytest.mark.slow
def test_statistics_against_their_two_products() -> None:
    x = np.random.default_rng(0).normal(size=(1_000_000, 64))
    got = ratio(
        lambda: DomainStatistics.from_samples(x, name="x"),
        lambda: (x.T @ x, x.mean(axis=0)),
    )
    report("DomainStatistics 1e6x64", f"x.T @ x + x.mean(0) {NUMPY}", got, 1.5)


def test_efficient_fit_against_one_cholesky() -> None:
    sources, target = domains(16, 512)
    matrix = target.cov + np.eye(512)
    weigher = SourceWeigher()
    got = ratio(lambda: weigher.fit(sources, target), lambda: np.linalg.cholesky(matrix), repeat=5)
    report("SourceWeigher.fit K=16 p=512", f"one Cholesky {NUMPY}", got, 25)


def test_bootstrap_against_one_fit() -> None:
    sources, target = domains(16, 64)
    plain, bootstrap = SourceWeigher(), SourceWeigher(n_bootstrap=1000)
    got = ratio(
        lambda: bootstrap.fit(sources, target), lambda: plain.fit(sources, target), repeat=10
    )
    report("1000 bootstrap replicates K=16 p=64", "one fit", got, 40)


def test_fourier_features_against_their_cosines() -> None:
    phi = RandomFourierMap(dim=64, n_features=512, bandwidth=8.0)
    x = np.random.default_rng(0).normal(size=(20_000, 64))

    def parts() -> object:
        angle = x @ phi.W.T
        return np.cos(angle), np.sin(angle)

    got = ratio(lambda: phi.transform(x), parts)
    report("RandomFourierMap 20000x64 to 512", f"product, cos and sin {NUMPY}", got, 1.5)


def test_kernel_means_against_one_gram_matrix() -> None:
    rng = np.random.default_rng(0)
    sources = {f"s{k}": rng.normal(size=(1000, 16)) + k for k in range(3)}
    target = rng.normal(size=(1000, 16))
    pooled = np.concatenate([*sources.values(), target])
    weigher = KernelMeanWeigher(bandwidth=4.0)

    def gram() -> object:
        squares = np.square(pooled).sum(axis=1)
        return np.exp((2 * pooled @ pooled.T - squares - squares[:, None]) / 32).mean()

    got = ratio(lambda: weigher.fit(sources, target), gram)
    report("KernelMeanWeigher 4x1000x16", f"whole Gram matrix {NUMPY}", got, 1.0)


# Logistic regressions on 6,000 samples.
@pytest.mark.slow
def test_classifier_against_its_regressions() -> None:
    sklearn = pytest.importorskip("sklearn")
    from neuros_sourceweigher._classifier import default_classifier

    rng = np.random.default_rng(0)
    samples = rng.normal(size=(3, 2000, 8)) + rng.normal(size=(3, 1, 8))
    x, y = samples.reshape(-1, 8), np.repeat(np.arange(3), 2000)
    target = rng.normal(size=(4000, 8))
    named = {f"s{k}": part for k, part in enumerate(samples)}
    got = ratio(
        lambda: ClassifierWeigher(folds=2).fit(named, target),
        lambda: default_classifier().fit(x, y),
    )
    report(
        "ClassifierWeigher 2 folds", f"one regression scikit-learn {sklearn.__version__}", got, 3
    )
