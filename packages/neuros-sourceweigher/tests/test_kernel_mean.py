"""Kernel mean matching: exact sums in blocks, and a test of the mixture that keeps its level."""

import numpy as np
import pytest

from neuros_core.domains import SourceWeights
from neuros_sourceweigher import KernelMeanWeigher, RandomFourierMap, SourceWeigher


def domains(seed: int, n: int = 200) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    means = {"a": [0.0, 0.0], "b": [2.0, 0.0], "c": [0.0, 2.0]}
    sources = {name: rng.normal(size=(n, 2)) + mean for name, mean in means.items()}
    y = rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    return sources, rng.normal(size=(n, 2)) + np.array(list(means.values()))[y]


def gram(x: np.ndarray, y: np.ndarray, h: float = 1.5) -> np.ndarray:
    return np.exp(-np.square(x[:, None] - y[None]).sum(axis=-1) / (2 * h**2))


@pytest.mark.parametrize("unbiased", [False, True])
def test_discrepancy_is_that_of_all_pairs(*, unbiased: bool) -> None:
    sources, target = domains(0, n=60)
    got = KernelMeanWeigher(bandwidth=1.5, block=17, unbiased=unbiased).fit(sources, target)

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        k = gram(x, y)
        if unbiased and x is y:
            return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))
        return k.mean()

    parts = list(sources.values())
    G = np.array([[mean(x, y) for y in parts] for x in parts])
    b = np.array([mean(x, target) for x in parts])
    w = got.weights
    want = w @ G @ w - 2 * b @ w + mean(target, target)
    assert got.meta["mmd2"] == pytest.approx(want, abs=1e-12)
    assert got.objective == got.meta["mmd2"]
    gradient = 2 * (G @ w - b)
    assert gradient @ w - gradient.min() <= 1e-10
    assert SourceWeights.from_json(got.to_json()).to_dict() == got.to_dict()


def test_blocks_do_not_change_the_weights() -> None:
    sources, target = domains(1)
    whole = KernelMeanWeigher().fit(sources, target)
    parts = KernelMeanWeigher(block=7).fit(sources, target)
    np.testing.assert_allclose(whole.weights, parts.weights, atol=1e-10)


def test_memory_is_that_of_a_block() -> None:
    sizes = []

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sizes.append(len(x) * len(y))
        return gram(x, y)

    sources, target = domains(2, n=100)
    KernelMeanWeigher(kernel=kernel, block=32).fit(sources, target)
    assert max(sizes) == 32 * 32


def test_a_callable_gives_what_its_formula_gives() -> None:
    sources, target = domains(3)
    ours = KernelMeanWeigher(bandwidth=1.5).fit(sources, target)
    theirs = KernelMeanWeigher(kernel=gram).fit(sources, target)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-9)
    assert theirs.meta["kernel"] == "callable"
    assert theirs.meta["bandwidth"] is None


def test_a_linear_kernel_matches_means() -> None:
    sources, target = domains(4)
    got = KernelMeanWeigher(kernel=lambda x, y: x @ y.T).fit(sources, target)
    means = np.stack([x.mean(axis=0) for x in sources.values()])
    want = SourceWeigher().compute(means, target.mean(axis=0))
    np.testing.assert_allclose(got.weights, want, atol=1e-7)


def test_random_features_approximate_it() -> None:
    sources, target = domains(5)
    exact = KernelMeanWeigher(bandwidth=1.5).fit(sources, target).weights
    phi = RandomFourierMap(dim=2, n_features=4096, bandwidth=1.5)
    means = np.stack([phi.transform(x).mean(axis=0) for x in sources.values()])
    near = SourceWeigher().compute(means, phi.transform(target).mean(axis=0))
    np.testing.assert_allclose(near, exact, atol=0.02)
    assert np.abs(exact - [0.5, 0.3, 0.2]).sum() < 0.3


def test_a_large_ridge_gives_equal_weights() -> None:
    sources, target = domains(6, n=50)
    got = KernelMeanWeigher(ridge=1e6).fit(sources, target)
    np.testing.assert_allclose(got.weights, 1 / 3, atol=1e-5)
    assert got.objective >= got.meta["mmd2"]
    assert repr(KernelMeanWeigher(ridge=2.0)) == (
        "KernelMeanWeigher(kernel='rbf', bandwidth='median', block=4096, unbiased=False, ridge=2.0)"
    )


# Sixty permutation tests.
@pytest.mark.slow
def test_permutation_test_keeps_its_level_and_finds_a_shift() -> None:
    # At a level of at most 5%, more than 10 of 60 rejections have a chance of 1e-4.
    rejected = 0
    for seed in range(60):
        sources, target = domains(100 + seed)
        weigher = KernelMeanWeigher(bandwidth=1.5)
        truth = SourceWeights(("a", "b", "c"), [0.5, 0.3, 0.2], "truth")
        got = weigher.mmd_test(sources, target, truth, n_permutations=99, seed=seed)
        rejected += got.p_value <= 0.05
    assert rejected <= 10
    foreign = weigher.mmd_test(sources, target + 0.8, truth, n_permutations=199, max_points=150)
    assert foreign.p_value == 1 / 200
    assert foreign.mmd2 > foreign.null.max()
    assert foreign.null.shape == (199,)


def test_the_test_statistic_is_the_discrepancy_of_the_drawn_samples() -> None:
    sources, target = domains(7, n=40)
    only = SourceWeights(("b", "c", "a"), [0.0, 0.0, 1.0], "x")
    weigher = KernelMeanWeigher(bandwidth=1.5, block=13)
    got = weigher.mmd_test(sources, target, only, n_permutations=5)
    a = sources["a"]
    want = gram(a, a).mean() + gram(target, target).mean() - 2 * gram(a, target).mean()
    assert got.mmd2 == pytest.approx(want, abs=1e-12)


def test_a_mixture_needs_no_more_samples_than_its_sources_have() -> None:
    sources, target = domains(8, n=60)
    sources["a"] = sources["a"][:10]
    only = SourceWeights(("a", "b", "c"), [1.0, 0.0, 0.0], "x")
    got = KernelMeanWeigher(bandwidth=1.5).mmd_test(sources, target, only, n_permutations=9)
    assert 0.1 <= got.p_value <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "cosine"}, "kernel needs 'rbf' or a callable, got 'cosine'"),
        ({"bandwidth": "mean"}, "bandwidth needs a number > 0 or 'median', got 'mean'"),
        ({"bandwidth": 0.0}, "bandwidth needs a number > 0 or 'median', got 0.0"),
        ({"block": 0}, "block needs a number >= 1, got 0"),
        ({"ridge": -1.0}, "ridge needs a finite number >= 0, got -1.0"),
    ],
)
def test_unknown_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelMeanWeigher(**change)


def test_unfit_samples_are_refused() -> None:
    weigher, x = KernelMeanWeigher(bandwidth=1.0), np.zeros((4, 2))
    with pytest.raises(ValueError, match="sources needs at least one domain, got none"):
        weigher.fit({}, x)
    with pytest.raises(ValueError, match=r"target needs shape \(n, d\) with n >= 1, got \(4,\)"):
        weigher.fit({"a": x}, x[:, 0])
    with pytest.raises(ValueError, match=r"source 'a' needs shape \(n, 2\) .* got \(4, 1\)"):
        weigher.fit({"a": x[:, :1]}, x)
    with pytest.raises(ValueError, match="source 'a' needs finite values"):
        weigher.fit({"a": np.full((4, 2), np.inf)}, x)
    with pytest.raises(ValueError, match=r"with n >= 2, got \(1, 2\)"):
        KernelMeanWeigher(unbiased=True).fit({"a": x[:1]}, x)
    with pytest.raises(ValueError, match=r"source 'a' needs values up to 1e\+150, whose squares"):
        weigher.fit({"a": x + 1e160}, x)
    with pytest.raises(
        ValueError, match=r"kernel needs finite values of shape \(4, 4\), got shape"
    ):
        KernelMeanWeigher(kernel=lambda x, y: x).fit({"a": x}, x)
    uniform = SourceWeights.uniform(["a"])
    with pytest.raises(ValueError, match=r"weights needs the sources \['b'\], got \['a'\]"):
        weigher.mmd_test({"b": x}, x, uniform)
    with pytest.raises(ValueError, match="n_permutations needs a number >= 1"):
        weigher.mmd_test({"a": x}, x, uniform, n_permutations=0)
