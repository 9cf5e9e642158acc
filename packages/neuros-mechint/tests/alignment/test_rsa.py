import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau
from torch import Tensor

from neuros_mechint.alignment import CKA, RSA, noise_covariance

COMPARISONS = ["spearman", "pearson", "cosine", "tau_a", "rho_a", "whitened"]
DISTANCES = ["correlation", "euclidean", "cosine", "poisson"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("distance", "peer"),
    [("correlation", "correlation"), ("cosine", "cosine"), ("euclidean", "sqeuclidean")],
)
def test_distances_are_those_of_scipy(distance: str, peer: str) -> None:
    x = draw(7, 5).numpy()
    want = cdist(x, x, peer) / (5 if peer == "sqeuclidean" else 1)
    np.testing.assert_allclose(RSA(distance=distance).rdm(x).numpy(), want, atol=1e-12)


def test_samples_of_a_condition_are_averaged_in_the_order_of_their_labels() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    rdm = RSA(distance="euclidean").rdm(x, ["b", "a", "b", "a"])
    # Means (0, 1) and (3, 0): (9 + 1) / 2 channels.
    assert rdm.tolist() == [[0.0, 5.0], [5.0, 0.0]]


def test_mahalanobis_weighs_by_the_noise() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    rdm = RSA(distance="mahalanobis").rdm(x, noise=torch.diag(torch.tensor([9.0, 1.0])))
    torch.testing.assert_close(rdm[0], torch.tensor([0.0, (1 + 16) / 2, 0.5]))


def test_crossnobis_is_the_mean_over_ordered_pairs_of_folds() -> None:
    n_folds, n_conditions, n_channels = 4, 3, 6
    x = draw(n_folds * n_conditions, n_channels)
    folds = np.repeat(np.arange(n_folds), n_conditions)
    conditions = np.tile(np.arange(n_conditions), n_folds)
    root = draw(n_channels, n_channels, seed=1)
    sigma = root @ root.T + torch.eye(n_channels)
    found = RSA(distance="crossnobis").rdm(x, conditions, folds, sigma)
    cells, precision = x.reshape(n_folds, n_conditions, n_channels), torch.linalg.inv(sigma)
    for i in range(n_conditions):
        for j in range(n_conditions):
            apart = cells[:, i] - cells[:, j]
            terms = [
                float(apart[m] @ precision @ apart[k]) / n_channels
                for m in range(n_folds)
                for k in range(n_folds)
                if m != k
            ]
            assert float(found[i, j]) == pytest.approx(np.mean(terms), abs=1e-12)


def test_crossnobis_of_equal_conditions_is_zero_on_average_and_not_clipped() -> None:
    x = draw(400, 4 * 5, 10)
    conditions, folds = torch.arange(5).repeat(4), torch.arange(4).repeat_interleave(5)
    rdm = RSA(distance="crossnobis").rdm(x, conditions, folds)
    pairs = rdm[:, 0, 1]
    assert bool((pairs < 0).any())
    # Five standard errors: a false alarm in two million draws.
    assert abs(float(pairs.mean())) < 5 * float(pairs.std()) / 20


def test_a_count_of_zero_has_a_finite_poisson_distance() -> None:
    x = torch.tensor([[0.0, 3.0], [5.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    rate = (x + 0.1) / 1.1
    want = ((rate[0] - rate[1]) * (rate[0].log() - rate[1].log())).mean()
    assert float(RSA(distance="poisson").rdm(x)[0, 1]) == pytest.approx(float(want))


@pytest.mark.parametrize("compare", COMPARISONS)
def test_the_same_geometry_compares_as_one(compare: str) -> None:
    x = draw(9, 5)
    assert float(RSA(compare=compare).compute(x, x)) == pytest.approx(1.0)


def test_tau_counts_ties_on_no_side() -> None:
    x, y = draw(9, 4).round(), draw(9, 3, seed=1).round()
    rsa = RSA(distance="euclidean", compare="tau_a")
    rows, columns = np.triu_indices(9, 1)
    rdms = [rsa.rdm(z).round(decimals=9) for z in (x, y)]
    a, b = (rdm.numpy()[rows, columns] for rdm in rdms)
    signs = np.sign(a[:, None] - a) * np.sign(b[:, None] - b)
    assert len(np.unique(a)) < len(a)
    n = len(a)
    assert float(rsa.compare_rdms(*rdms)) == pytest.approx(signs.sum() / (n * (n - 1)), abs=1e-12)
    untied = RSA(compare="tau_a").compute(draw(9, 4), draw(9, 3, seed=1))
    pairs = [RSA().rdm(z).numpy()[rows, columns] for z in (draw(9, 4), draw(9, 3, seed=1))]
    assert float(untied) == pytest.approx(kendalltau(*pairs).statistic)


def test_the_whitened_comparison_of_euclidean_distances_is_linear_cka() -> None:
    x, y = draw(12, 4), draw(12, 6, seed=1)
    found = RSA(distance="euclidean", compare="whitened").compute(x, y)
    torch.testing.assert_close(found, CKA().compute(x, y))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("compare", COMPARISONS)
@given(seed=st.integers(0, 100))
@settings(max_examples=3, derandomize=True, deadline=None)
def test_conditions_in_another_order_change_nothing(distance: str, compare: str, seed: int) -> None:
    x, y = draw(3, 8, 4, seed=seed).exp(), draw(3, 8, 5, seed=seed + 1).exp()
    rsa, order = RSA(distance=distance, compare=compare), torch.randperm(8)
    found = rsa.compute(x, y)
    torch.testing.assert_close(rsa.compute(x[:, order], y[:, order]), found)
    loop = torch.stack([rsa.compute(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(loop, found)
    torch.testing.assert_close(rsa.compute(x.numpy(), y.numpy()), found)


@pytest.mark.parametrize("compare", COMPARISONS)
def test_permuted_sides_score_as_one_by_one(compare: str) -> None:
    x, y = draw(2, 8, 4), draw(2, 8, 5, seed=1)
    orders = torch.stack([torch.randperm(8) for _ in range(5)])
    rsa = RSA(compare=compare)
    want = torch.stack([rsa.compute(x, y[:, order]) for order in orders])
    torch.testing.assert_close(rsa.compute_permuted(x, y, orders), want)


def test_conditions_folds_and_noise_reach_both_sides() -> None:
    x, y = draw(12, 4), draw(12, 6, seed=1)
    conditions, folds = [0, 1, 2, 3] * 3, [0] * 4 + [1] * 4 + [2] * 4
    noise = (torch.eye(4), 2 * torch.eye(6))
    rsa = RSA(distance="crossnobis", compare="pearson")
    found = rsa.compute(x, y, conditions=conditions, folds=folds, noise=noise)
    sides = [rsa.rdm(z, conditions, folds) for z in (x, y)]
    torch.testing.assert_close(found, rsa.compare_rdms(*sides))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("compare", ["pearson", "cosine", "whitened"])
def test_the_gradient_is_that_of_finite_differences(distance: str, compare: str) -> None:
    x, y = draw(5, 4).exp().requires_grad_(), draw(5, 3, seed=1).exp().requires_grad_()
    rsa = RSA(distance=distance, compare=compare)
    assert torch.autograd.gradcheck(rsa.compute, (x, y))


def test_half_becomes_single_and_double_stays() -> None:
    x = draw(6, 4)
    assert RSA().compute(x.half(), x.half()).dtype == torch.float32
    assert RSA().rdm(x).dtype == torch.float64


@pytest.mark.parametrize("shrinkage", ["diagonal", "identity"])
def test_much_data_give_the_covariance_within_conditions(shrinkage: str) -> None:
    root = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    conditions = torch.arange(3).repeat(4000)
    x = draw(12_000, 2) @ root.T + 10 * conditions[:, None]
    found = noise_covariance(x, conditions, shrinkage=shrinkage)
    # The standard error of a variance of 4 is 4 sqrt(2 / 12000) = 0.05.
    torch.testing.assert_close(found, root @ root.T, atol=0.3, rtol=0)
    both = noise_covariance(torch.stack([x, 2 * x]), conditions, shrinkage=shrinkage)
    torch.testing.assert_close(both[1], 4 * both[0])


def test_few_samples_of_many_channels_give_a_covariance_with_an_inverse() -> None:
    x = draw(12, 50)
    for shrinkage in ("diagonal", "identity"):
        found = noise_covariance(x, [0, 1, 2] * 4, shrinkage=shrinkage)
        assert float(torch.linalg.eigvalsh(found)[0]) > 0
    assert noise_covariance(x[:, :1], [0, 1, 2] * 4).shape == (1, 1)


def test_wrong_input_is_refused_in_words() -> None:
    x, wrong = draw(6, 3), (ValueError, TypeError)
    with pytest.raises(wrong, match=r"distance must be one of|Type-check"):
        RSA(distance="hamming")  # type: ignore[arg-type]
    with pytest.raises(wrong, match=r"compare must be one of|Type-check"):
        RSA(compare="kendall")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs conditions= and folds="):
        RSA(distance="crossnobis").rdm(x, [0, 1] * 3)
    with pytest.raises(ValueError, match="folds belong to distance='crossnobis'"):
        RSA().rdm(x, [0, 1] * 3, [0, 1] * 3)
    with pytest.raises(ValueError, match="needs noise="):
        RSA(distance="mahalanobis").rdm(x)
    with pytest.raises(ValueError, match="noise belongs to"):
        RSA().rdm(x, noise=torch.eye(3))
    with pytest.raises(ValueError, match=r"noise must be a covariance \(..., 3, 3\)"):
        RSA(distance="mahalanobis").rdm(x, noise=torch.eye(2))
    with pytest.raises(ValueError, match="not positive definite; shrink it"):
        RSA(distance="mahalanobis").rdm(x, noise=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="2 folds of 3 conditions make 6 cells, 5 have samples"):
        RSA(distance="crossnobis").rdm(x, [0, 1, 2, 0, 1, 1], [0, 0, 0, 1, 1, 1])
    with pytest.raises(
        ValueError, match=r"conditions needs one label per sample.*got shape \(5,\)"
    ):
        RSA().rdm(x, torch.arange(5))
    with pytest.raises(ValueError, match="at least two different labels, got 1"):
        RSA().rdm(x, ["a"] * 6)
    with pytest.raises(ValueError, match="a condition is the same in every channel"):
        RSA().rdm(torch.ones(4, 3))
    with pytest.raises(ValueError, match="a condition is 0 in every channel"):
        RSA(distance="cosine").rdm(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="counts or rates of at least 0"):
        RSA(distance="poisson").rdm(x)
    with pytest.raises(ValueError, match=r"first must be \(..., conditions, conditions\)"):
        RSA().compare_rdms(x, x)
    with pytest.raises(ValueError, match="all dissimilarities of a matrix are the same"):
        RSA().compare_rdms(torch.ones(4, 4), RSA().rdm(draw(4, 4)))
    with pytest.raises(ValueError, match="conditions must repeat"):
        noise_covariance(x, torch.arange(6))
    with pytest.raises(ValueError, match="a channel of x is constant within every condition"):
        noise_covariance(torch.ones(4, 2), [0, 0, 1, 1])
    assert repr(RSA()) == "RSA(distance='correlation', compare='spearman')"
