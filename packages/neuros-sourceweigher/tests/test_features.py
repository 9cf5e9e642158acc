"""Feature maps: their formulas, their kernels, their names, and the same bits everywhere."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher import (
    CovarianceMap,
    IdentityMap,
    QuadraticMap,
    RandomFourierMap,
    SourceWeigher,
    median_bandwidth,
)
from neuros_sourceweigher._quadratic import quadratic_cov, quadratic_mean

CI = settings(max_examples=30, derandomize=True, deadline=None)
MAPS = [
    IdentityMap(dim=3),
    QuadraticMap(dim=3),
    RandomFourierMap(dim=3, n_features=12, bandwidth=1.5),
    RandomFourierMap(dim=3, n_features=12, bandwidth=(0.5, 2.0), seed=4, orthogonal=False),
]
ALL = [*MAPS, CovarianceMap(dim=3, shrinkage=0.01)]


def samples(phi: object, n: int, seed: int = 0) -> np.ndarray:
    shape = (n, 20, 3) if isinstance(phi, CovarianceMap) else (n, 3)
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_features_have_their_length_and_name_their_settings(phi: IdentityMap) -> None:
    assert phi.transform(samples(phi, 5)).shape == (5, phi.n_features)
    assert phi.transform(samples(phi, 0)).shape == (0, phi.n_features)
    assert repr(phi) == phi.space
    assert repr(type(phi).from_json(phi.to_json())) == repr(phi)


@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_json_rebuilds_the_same_bits(phi: IdentityMap) -> None:
    if not isinstance(phi, CovarianceMap):
        phi = phi.fit_standardizer([0.1, 0.2, 1 / 3], [1.0, 2.0, 0.7])
    again = type(phi).from_json(phi.to_json())
    x = samples(phi, 50)
    assert again.space == phi.space
    assert again.to_json() == phi.to_json()
    assert np.array_equal(again.transform(x), phi.transform(x))


@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_other_texts_are_refused(phi: IdentityMap) -> None:
    kind = type(phi)
    with pytest.raises(ValueError, match=rf"{kind.__name__}.from_json needs the text of a"):
        kind.from_json('{"map": "Other"}')
    newer = json.dumps(json.loads(phi.to_json()) | {"schema": 2})
    with pytest.raises(ValueError, match="needs schema 1, got 2"):
        kind.from_json(newer)


def test_a_changed_seed_in_the_text_is_found() -> None:
    phi = RandomFourierMap(dim=2, n_features=4, bandwidth=1.0)
    changed = json.dumps(json.loads(phi.to_json()) | {"seed": 1})
    with pytest.raises(ValueError, match=r"W needs the SHA-256 .* the text was changed"):
        RandomFourierMap.from_json(changed)


def test_rows_are_the_ones_that_were_published() -> None:
    # Statistics of different sites combine only if this never changes.
    phi = RandomFourierMap(dim=5, n_features=24, bandwidth=2.0, seed=7)
    assert json.loads(phi.to_json())["sha256"] == (
        "d60804341d98384e0b50f519e00c5d90299c67020a14996c1d9073a5d4396a7d"
    )


# Importing torch takes seconds.
@pytest.mark.slow
@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_tensors_give_tensors_of_the_same_values(phi: IdentityMap) -> None:
    torch = pytest.importorskip("torch")
    x = samples(phi, 7)
    want = phi.transform(x)
    tensor = torch.from_numpy(x)
    got = phi.transform(tensor.requires_grad_())
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-12)
    got.square().sum().backward()
    assert torch.isfinite(tensor.grad).all()
    for dtype, wide in ((torch.float32, torch.float32), (torch.float16, torch.float32)):
        part = phi.transform(torch.from_numpy(x).to(dtype))
        assert part.dtype == wide
        np.testing.assert_allclose(part.numpy(), want, atol=0.1, rtol=0.05)
    assert phi.transform(torch.ones(tensor.shape, dtype=torch.int64).cumsum(1)).dtype == (
        torch.float64
    )
    with pytest.raises(TypeError, match=r"x needs real numbers, got dtype torch\.complex"):
        phi.transform(tensor.to(torch.complex64))


@pytest.mark.parametrize("phi", MAPS, ids=repr)
def test_blocks_of_rows_equal_the_whole(phi: IdentityMap) -> None:
    n = 2**20 // phi.n_features + 3
    x = samples(phi, n)
    whole = phi.transform(x)
    assert whole.shape == (n, phi.n_features)
    np.testing.assert_allclose(whole[-5:], phi.transform(x[-5:]), atol=1e-14)


@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_unfit_samples_are_refused(phi: IdentityMap) -> None:
    x = samples(phi, 4)
    with pytest.raises(ValueError, match=r"x needs \d axes"):
        phi.transform(x[0])
    with pytest.raises(ValueError, match="x needs 3 c"):
        phi.transform(x[..., :2])
    with pytest.raises(ValueError, match="x needs finite values, got NaN or infinity"):
        phi.transform(np.where(x > 1, np.nan, x))
    with pytest.raises(TypeError, match="x needs real numbers, got dtype complex128"):
        phi.transform(x * 1j)


def test_standardised_inputs_have_mean_zero_and_variance_one() -> None:
    x = samples(MAPS[0], 500) * [1.0, 5.0, 0.1] + [3.0, 0.0, -1.0]
    pooled = DomainStatistics.from_samples(x, name="pooled")
    for phi in MAPS:
        fitted = phi.fit_standardizer(pooled.mean, np.diag(pooled.cov))
        z = (x - pooled.mean) / np.sqrt(np.diag(pooled.cov))
        np.testing.assert_allclose(fitted.transform(x), phi.transform(z), atol=1e-12)
        assert fitted.space.startswith(phi.space[:-1] + ", standardizer=")
        assert phi.space != fitted.space


@pytest.mark.parametrize(
    ("mean", "var", "message"),
    [
        ([0.0], [1.0, 1.0, 1.0], r"mean needs shape \(3,\), got \(1,\)"),
        ([0.0, 0.0, 0.0], [1.0], r"var needs shape \(3,\), got \(1,\)"),
        ([0.0, 0.0, np.nan], [1.0, 1.0, 1.0], "mean needs finite values"),
        ([0.0, 0.0, 0.0], [1.0, 0.0, 1.0], "var needs entries > 0, got 0 at index 1; leave out"),
    ],
)
def test_unfit_standardisers_are_refused(mean: list, var: list, message: str) -> None:
    for phi in MAPS:
        with pytest.raises(ValueError, match=message):
            phi.fit_standardizer(mean, var)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim needs a whole number >= 1, got 0"),
        ({"dim": True}, "dim needs a whole number >= 1, got True"),
        ({"bandwidth": 0.0}, "bandwidth needs finite numbers > 0, got 0.0"),
        ({"bandwidth": ()}, r"bandwidth needs finite numbers > 0, got \(\)"),
        ({"n_features": 3}, "n_features needs a positive multiple of 2 per bandwidth = 2, got 3"),
        ({"bandwidth": (1.0, 2.0), "n_features": 6}, "multiple of 2 per bandwidth = 4, got 6"),
    ],
)
def test_unfit_fourier_maps_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomFourierMap(**{"dim": 2, "bandwidth": 1.0} | change)


def test_products_have_the_frobenius_norm() -> None:
    x = samples(MAPS[1], 40)
    features = QuadraticMap(dim=3).transform(x)[:, 3:]
    want = np.linalg.norm(x[:, :, None] * x[:, None, :], axis=(1, 2))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), want, rtol=1e-12)


@CI
@given(st.integers(0, 2**32 - 1))
def test_means_of_features_are_linear_in_the_mixture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(10, 3)) + 2
    for phi in MAPS:
        pooled = phi.transform(np.concatenate([a, b])).mean(axis=0)
        apart = 0.75 * phi.transform(a).mean(axis=0) + 0.25 * phi.transform(b).mean(axis=0)
        np.testing.assert_allclose(pooled, apart, atol=1e-12)


def test_quadratic_moments_are_those_of_normal_samples() -> None:
    rng = np.random.default_rng(0)
    mean, factor = np.array([0.5, -1.0, 0.0]), rng.normal(size=(3, 3))
    x = mean + rng.normal(size=(400_000, 3)) @ factor.T
    phi = QuadraticMap(dim=3).transform(x)
    cov = factor @ factor.T
    np.testing.assert_allclose(phi.mean(axis=0), quadratic_mean(mean, cov), atol=0.05)
    want = quadratic_cov(mean, cov)
    # Fourth moments of 400,000 samples: relative errors of half a percent of the largest.
    np.testing.assert_allclose(np.cov(phi.T), want, atol=0.02 * np.abs(want).max())


def test_moments_from_statistics_equal_those_from_samples() -> None:
    # The population formula against the sample's, which differ by 1 / n.
    x = np.random.default_rng(1).normal(size=(5000, 3)) + 1.0
    part = DomainStatistics.from_samples(x, name="x")
    direct = QuadraticMap(dim=3).transform(x).mean(axis=0)
    np.testing.assert_allclose(quadratic_mean(part.mean, part.cov), direct, atol=1e-3)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("bandwidth", [1.3, (0.6, 2.4)])
def test_inner_products_estimate_the_kernel(
    bandwidth: float | tuple[float, ...], *, orthogonal: bool
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4))
    phi = RandomFourierMap(dim=4, n_features=2**15, bandwidth=bandwidth, orthogonal=orthogonal)
    features = phi.transform(x)
    squared = np.square(x[:, None] - x[None]).sum(axis=-1)
    want = np.mean([np.exp(-squared / (2 * h**2)) for h in np.atleast_1d(bandwidth)], axis=0)
    # A mean of 16,384 cosines has a standard deviation below 0.0056; six of those.
    np.testing.assert_allclose(features @ features.T, want, atol=0.034)
    np.testing.assert_allclose(np.diag(features @ features.T), 1.0, atol=1e-12)


def test_rows_come_in_orthogonal_blocks() -> None:
    W = RandomFourierMap(dim=16, n_features=80, bandwidth=2.0).W
    assert W.shape == (40, 16)
    for block in (W[:16], W[16:32], W[32:]):
        unit = block / np.linalg.norm(block, axis=1, keepdims=True)
        np.testing.assert_allclose(unit @ unit.T, np.eye(len(block)), atol=1e-12)
    # Squared lengths are chi-squared with 16 degrees of freedom: six standard errors of 40 rows.
    assert abs(np.square(2.0 * W).sum(axis=1).mean() - 16) < 6 * np.sqrt(32 / 40)


def test_distances_of_means_estimate_the_discrepancy() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + 0.5
    phi = RandomFourierMap(dim=2, n_features=8192, bandwidth=1.0)
    got = np.square(phi.transform(x).mean(axis=0) - phi.transform(y).mean(axis=0)).sum()

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-np.square(a[:, None] - b[None]).sum(axis=-1) / 2).mean())

    want = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    assert got == pytest.approx(want, rel=0.1)


def test_log_euclidean_features_are_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    values = np.array([0.5, 1.0, 4.0])
    factor = basis * np.sqrt(values)
    white = rng.normal(size=(200, 3))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(white.T @ white / 199)).T
    got = CovarianceMap(dim=3, shrinkage=1e-12).transform([white @ factor.T])[0]
    log = basis @ np.diag(np.log(values)) @ basis.T
    i, j = np.triu_indices(3)
    np.testing.assert_allclose(got, log[i, j] * np.where(i == j, 1, np.sqrt(2)), atol=1e-9)
    assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(np.log(values)), rel=1e-9)


@CI
@given(st.integers(0, 2**32 - 1))
def test_covariance_features_do_not_depend_on_the_order_of_channels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = 4
    windows = [rng.normal(size=(60, 25, c)) @ rng.normal(size=(c, c)) for _ in range(3)]
    windows.append(np.concatenate([windows[0][:40], windows[1][:20]]))
    order = rng.permutation(c)
    phi = CovarianceMap(dim=c)
    for metric in ("identity", "efficient"):
        fits = []
        for reordered in (windows, [x[..., order] for x in windows]):
            parts = [
                DomainStatistics.from_samples(phi.transform(x), name=str(k), space=phi.space)
                for k, x in enumerate(reordered)
            ]
            fits.append(SourceWeigher(metric=metric).fit(parts[:-1], parts[-1]).weights)
        np.testing.assert_allclose(*fits, atol=1e-10)


def test_unfit_covariance_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shrinkage needs a number in \(0, 1\], got 0.0"):
        CovarianceMap(dim=2, shrinkage=0.0)
    phi = CovarianceMap(dim=2)
    with pytest.raises(ValueError, match="2 or more samples per window"):
        phi.transform(np.zeros((3, 1, 2)))
    with pytest.raises(ValueError, match="x needs windows that vary, got a window constant"):
        phi.transform(np.zeros((3, 5, 2)))


def test_many_windows_are_mapped_in_blocks() -> None:
    x = np.random.default_rng(0).normal(size=(300, 5000, 3))
    phi = CovarianceMap(dim=3)
    whole = phi.transform(x)
    np.testing.assert_allclose(whole[-1:], phi.transform(x[-1:]), atol=1e-12)
    assert whole.shape == (300, 6)


def test_median_bandwidth_scales_with_the_data() -> None:
    x = np.random.default_rng(0).normal(size=(5000, 3))
    h = median_bandwidth(x)
    # Distances of standard normal points are sqrt(2 chi2(3)), of median sqrt(2 * 2.366).
    assert h == pytest.approx(np.sqrt(2 * 2.366), rel=0.02)
    assert median_bandwidth(3 * x + 7) == pytest.approx(3 * h, rel=1e-12)
    assert median_bandwidth(x) == median_bandwidth(x, seed=0)
    assert median_bandwidth(x, seed=1) != h


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((1, 2)), {}, "need two or more samples, got 1 and 2000"),
        (np.zeros((5, 2)), {"max_points": 1}, "need two or more samples, got 5 and 1"),
        (np.zeros((5, 2)), {}, "most differ by a finite distance, got a median of 0"),
        ([[1e300], [-1e300]], {}, "most differ by a finite distance, got a median of inf"),
        (np.zeros(5), {}, r"x needs 2 axes \(n, d\), got 1"),
        (np.full((5, 2), np.nan), {}, "x needs finite values"),
    ],
)
def test_unfit_points_have_no_bandwidth(x: object, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        median_bandwidth(x, **options)
