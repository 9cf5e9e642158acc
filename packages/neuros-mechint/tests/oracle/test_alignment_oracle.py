"""Alignment beside rsatoolbox, cca_zoo, scikit-learn and scipy."""

import sys

import numpy as np
import pytest

from neuros_mechint.alignment import (
    CCA,
    PLS,
    RSA,
    AlignmentValidator,
    NoiseCeiling,
    Procrustes,
    RidgeAlignment,
    noise_covariance,
)

pytestmark = [
    pytest.mark.oracle,
    # rsatoolbox loads its plots, scikit-learn deprecates arguments that cca_zoo passes.
    pytest.mark.filterwarnings("ignore"),
]


def peer(name: str):
    module = pytest.importorskip(name)
    sys.stdout.write(f"{name} {getattr(module, '__version__', '')}\n")
    return module


def responses() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of 9 channels, 12 conditions in 4 folds."""
    x = np.random.default_rng(0).poisson(4, (48, 9)).astype(float)
    return x, np.tile(np.arange(12), 4), np.repeat(np.arange(4), 12)


@pytest.mark.parametrize(
    "distance", ["correlation", "euclidean", "mahalanobis", "crossnobis", "poisson"]
)
def test_distances_are_those_of_rsatoolbox(distance):
    rsatoolbox = peer("rsatoolbox")
    x, conditions, folds = responses()
    data = rsatoolbox.data.Dataset(x, obs_descriptors={"c": conditions, "f": folds})
    options, ours = {}, {}
    if distance in {"mahalanobis", "crossnobis"}:
        ours["noise"] = noise_covariance(x, conditions)
        options["noise"] = np.linalg.inv(ours["noise"].numpy())
    if distance == "crossnobis":
        ours["folds"], options["cv_descriptor"] = folds, "f"
    theirs = rsatoolbox.rdm.calc_rdm(data, method=distance, descriptor="c", **options)
    found = RSA(distance=distance).rdm(x, conditions, **ours)
    np.testing.assert_allclose(found.numpy(), theirs.get_matrices()[0], atol=1e-10)


@pytest.mark.parametrize("shrinkage", ["diagonal", "identity"])
def test_the_noise_covariance_is_that_of_rsatoolbox(shrinkage):
    rsatoolbox = peer("rsatoolbox")
    x, conditions, _ = responses()
    data = rsatoolbox.data.Dataset(x, obs_descriptors={"c": conditions})
    method = {"diagonal": "shrinkage_diag", "identity": "shrinkage_eye"}[shrinkage]
    theirs = rsatoolbox.data.noise.cov_from_unbalanced(data, "c", method=method)
    np.testing.assert_allclose(
        noise_covariance(x, conditions, shrinkage=shrinkage).numpy(), theirs, atol=1e-10
    )


NAMES = {
    "spearman": "spearman",
    "pearson": "corr",
    "cosine": "cosine",
    "tau_a": "tau-a",
    "rho_a": "rho-a",
    "whitened": "cosine_cov",
}


def tied_rdms(n: int, n_conditions: int) -> np.ndarray:
    """Dissimilarities with ties, symmetric, the diagonal 0."""
    x = np.random.default_rng(1).integers(1, 9, (n, n_conditions, n_conditions)).astype(float)
    upper = np.triu(x, 1)
    return upper + upper.swapaxes(-1, -2)


@pytest.mark.parametrize("compare", NAMES)
def test_comparisons_are_those_of_rsatoolbox(compare):
    rsatoolbox = peer("rsatoolbox")
    rdms = tied_rdms(2, 11)
    first, second = (rsatoolbox.rdm.RDMs(rdm[None]) for rdm in rdms)
    theirs = rsatoolbox.rdm.compare(first, second, NAMES[compare])[0, 0]
    assert float(RSA(compare=compare).compare_rdms(*rdms)) == pytest.approx(theirs, abs=1e-8)


@pytest.mark.parametrize("compare", NAMES)
def test_the_noise_ceiling_is_that_of_rsatoolbox(compare):
    rsatoolbox = peer("rsatoolbox")
    rdms = tied_rdms(6, 11)
    theirs = rsatoolbox.inference.boot_noise_ceiling(rsatoolbox.rdm.RDMs(rdms), NAMES[compare])
    found = NoiseCeiling(compare=compare).compute(rdms)
    assert (float(found.lower), float(found.upper)) == pytest.approx(theirs, abs=1e-8)


def pair(n: int = 120, p: int = 8, q: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((n, p))
    return x, x[:, :q] @ rng.standard_normal((q, q)) + rng.standard_normal((n, q))


def test_correlations_are_those_of_cca_zoo():
    linear = pytest.importorskip("cca_zoo.linear")
    x, y = pair()
    model = linear.CCA(5).fit([x, y])
    scores = model.transform([x, y])
    theirs = [np.corrcoef(scores[0][:, k], scores[1][:, k])[0, 1] for k in range(5)]
    np.testing.assert_allclose(CCA().fit(x, y).correlations.numpy(), theirs, atol=1e-6)


def test_the_canonical_subspace_is_that_of_sklearn():
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = pair()
    theirs = cross.CCA(3, max_iter=10_000, tol=1e-12).fit(x, y).transform(x)
    ours = CCA(3).fit(x, y).transform(x, y)[0].numpy()
    # Principal angles of the two spans of variates.
    bases = [np.linalg.qr(z - z.mean(0))[0] for z in (ours, theirs)]
    np.testing.assert_allclose(np.linalg.svd(bases[0].T @ bases[1])[1], 1, atol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
def test_pls_svd_is_that_of_sklearn(scale):
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = pair()
    theirs = cross.PLSSVD(3, scale=scale).fit_transform(x, y)
    ours = PLS(3, scale=scale).fit(x, y).transform(x, y)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.abs(mine.numpy()), np.abs(other), atol=1e-6)


@pytest.mark.parametrize("q", [1, 5])
@pytest.mark.parametrize("scale", [True, False])
def test_pls_regression_is_that_of_sklearn(scale, q):
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = pair()
    y = y[:, :q]
    theirs = cross.PLSRegression(3, scale=scale, max_iter=100_000, tol=1e-15).fit(x, y)
    ours = PLS(3, mode="regression", scale=scale).fit(x, y)
    np.testing.assert_allclose(
        ours.predict(x).numpy(), theirs.predict(x).reshape(120, q), atol=1e-6
    )
    for mine, other in zip(ours.transform(x, y), theirs.transform(x, y), strict=True):
        np.testing.assert_allclose(np.abs(mine.numpy()), np.abs(other), atol=1e-6)


@pytest.mark.parametrize("p", [8, 200])
def test_ridge_is_that_of_sklearn(p):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, p)) + 2
    y = x[:, :4] * [3, 1, 0.3, 0] + 2 * rng.standard_normal((60, 4))
    alphas = np.logspace(-2, 4, 13)
    theirs = linear_model.RidgeCV(alphas, alpha_per_target=True).fit(x, y)
    ours = RidgeAlignment(alphas.tolist()).fit(x, y)
    assert len(np.unique(theirs.alpha_)) > 1
    np.testing.assert_allclose(ours.alpha.numpy(), theirs.alpha_)
    np.testing.assert_allclose(ours.coefficients.numpy().T, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict(x).numpy(), theirs.predict(x), atol=1e-6)


def test_procrustes_is_that_of_scipy():
    spatial = pytest.importorskip("scipy.spatial")
    x, y = np.random.default_rng(4).standard_normal((2, 30, 4))
    found = Procrustes(metric="residual").compute(x, y).distance
    assert float(found) == pytest.approx(spatial.procrustes(x, y)[2], abs=1e-10)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_p_value_is_near_that_of_sklearn(grouped):
    selection = pytest.importorskip("sklearn.model_selection")
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((60, 3))
    y = 0.25 * x[:, :1] + rng.standard_normal((60, 1))
    groups = np.repeat(np.arange(3), 20) if grouped else None
    score, _, theirs = selection.permutation_test_score(
        linear_model.Ridge(1.0), x, y, groups=groups, cv=selection.KFold(5),
        n_permutations=300, scoring="r2", random_state=0,
    )  # fmt: skip

    def mean_of_folds(a, b):
        # scikit-learn scores fold by fold.
        folds = AlignmentValidator(RidgeAlignment((1.0,)), cv=5)
        return folds.cross_validate(a, b).mean

    ours = AlignmentValidator(mean_of_folds, n_perm=300).permutation_test(x, y, groups=groups)
    assert float(ours.statistic) == pytest.approx(score, abs=1e-8)
    # Both are binomial estimates of one number: 4 standard errors of their difference.
    p = (float(ours.p_value) + theirs) / 2
    assert abs(float(ours.p_value) - theirs) < 4 * (2 * p * (1 - p) / 300) ** 0.5 + 0.01
