import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes
from torch import Tensor

from neuros_mechint.alignment import CKA, Procrustes

KINDS = [
    CKA(kernel=kernel, estimator=estimator)
    for kernel in ("linear", "rbf")
    for estimator in ("biased", "unbiased")
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(n, n, seed=seed)).Q


def hsic_1(K: np.ndarray, L: np.ndarray) -> float:
    """Song 2012, eq. 5, term by term."""
    n = len(K)
    K, L, one = K - np.diag(np.diag(K)), L - np.diag(np.diag(L)), np.ones(len(K))
    middle = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return float((np.trace(K @ L) + middle - 2 / (n - 2) * one @ K @ L @ one) / (n * (n - 3)))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_cka_is_the_published_formula(kernel: str) -> None:
    x, y = draw(12, 3).numpy(), draw(12, 5, seed=1).numpy()

    def gram(z: np.ndarray) -> np.ndarray:
        if kernel == "linear":
            return z @ z.T
        squared = ((z[:, None] - z[None]) ** 2).sum(-1)
        half = np.sort(squared[np.triu_indices(12, 1)])
        return np.exp(-squared / (2 * 0.25 * half[(len(half) - 1) // 2]))

    K, L, H = gram(x), gram(y), np.eye(12) - 1 / 12
    bandwidth = 0.5 if kernel == "rbf" else None
    biased = CKA(kernel=kernel, bandwidth=bandwidth).compute(x, y)
    want = np.trace(K @ H @ L @ H) / np.sqrt(np.trace(K @ H @ K @ H) * np.trace(L @ H @ L @ H))
    assert float(biased) == pytest.approx(float(want), rel=1e-10)
    unbiased = CKA(kernel=kernel, estimator="unbiased", bandwidth=bandwidth).compute(x, y)
    want = hsic_1(K, L) / math.sqrt(hsic_1(K, K) * hsic_1(L, L))
    assert float(unbiased) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("cka", KINDS, ids=repr)
@given(seed=st.integers(0, 100), scale=st.floats(0.1, 10))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_cka_ignores_rotation_scale_and_shift(cka: CKA, seed: int, scale: float) -> None:
    x, y = draw(15, 4, seed=seed), draw(15, 6, seed=seed + 1)
    moved = scale * x @ turn(4, seed) + 2.0
    torch.testing.assert_close(cka.compute(moved, y), cka.compute(x, y), atol=1e-6, rtol=0)
    torch.testing.assert_close(cka.compute(x, moved), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("cka", KINDS, ids=repr)
def test_a_matrix_of_layers_is_the_loop_and_a_batch_its_items(cka: CKA) -> None:
    first, second = [draw(2, 10, k + 1, seed=k) for k in range(3)], [draw(2, 10, 20, seed=9)]
    got = cka.compute_matrix(first, second)
    want = torch.stack([cka.compute(x, second[0]) for x in first], -1).unsqueeze(-1)
    torch.testing.assert_close(got, want)
    item = cka.compute(first[1][0].numpy(), second[0][0].numpy())
    torch.testing.assert_close(item, want[0, 1, 0])


def test_unbiased_cka_of_unrelated_data_is_zero_on_average() -> None:
    found = CKA(estimator="unbiased").compute(draw(400, 64, 8), draw(400, 64, 8, seed=1))
    assert abs(float(found.mean())) < 3 * float(found.std()) / 20
    assert float(CKA().compute(draw(400, 64, 8), draw(400, 64, 8, seed=1)).mean()) > 0.05


def test_minibatches_add_up() -> None:
    x, y = draw(40, 3), draw(40, 3, seed=1)
    for cka in KINDS:
        cka.update(x, y)
        torch.testing.assert_close(cka.finalize(), cka.compute(x, y))
    cka = CKA(estimator="unbiased")
    big_x = draw(3200, 3)
    big_y = big_x + draw(3200, 3, seed=1)
    for a, b in zip(big_x.split(32), big_y.split(32), strict=True):
        cka.update(a, b)
    assert float(cka.finalize()) == pytest.approx(float(cka.compute(big_x, big_y)), abs=0.03)
    with pytest.raises(ValueError, match="no minibatch was added"):
        cka.finalize()
    cka.update(x, y)
    with pytest.raises(ValueError, match=r"batch axes must stay .* got \(2,\) after \(\)"):
        cka.update(draw(2, 8, 3), draw(2, 8, 3))


@pytest.mark.parametrize("cka", KINDS, ids=repr)
def test_the_gradient_of_cka_is_that_of_finite_differences(cka: CKA) -> None:
    x, y = draw(6, 2).requires_grad_(), draw(6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(cka.compute, (x, y))


def test_procrustes_residual_is_the_disparity_of_scipy() -> None:
    x, y = draw(20, 4), draw(20, 4, seed=1)
    want = procrustes(x.numpy(), y.numpy())[2]
    got = Procrustes(metric="residual").compute(x, y).distance
    assert float(got) == pytest.approx(want, abs=1e-10)
    assert float(Procrustes().compute(x, y).distance) == pytest.approx(
        math.acos(math.sqrt(1 - want)), abs=1e-10
    )


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_procrustes_finds_the_planted_map(scale: bool, center: bool) -> None:
    x, R = draw(20, 3), turn(3, 5)
    factor, shift = (2.5 if scale else 1.0), (4.0 if center else 0.0)
    model = Procrustes(scale=scale, center=center, metric="residual")
    found = model.compute(factor * x @ R + shift, x)
    assert float(found.distance) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(found.rotation, R)
    assert float(found.scale) == pytest.approx(factor)
    torch.testing.assert_close(found.translation, torch.full((3,), shift).double())
    assert set(found.to_dict()) == {"distance", "rotation", "scale", "translation"}


def test_the_map_leaves_the_stated_residual() -> None:
    x, y = draw(20, 3), draw(20, 5, seed=1)
    found = Procrustes(scale=False, metric="residual").compute(x, y)
    moved = found.scale * y @ found.rotation + found.translation
    left = (torch.nn.functional.pad(x, (0, 2)) - moved).square().sum()
    torch.testing.assert_close(found.distance, left)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_the_angular_distance_is_a_metric(seed: int) -> None:
    stack = draw(3, 12, 4, seed=seed)
    model = Procrustes()
    distance = model.compute(stack.unsqueeze(0), stack.unsqueeze(1)).distance
    torch.testing.assert_close(distance, distance.mT)
    assert float(distance[0, 2]) <= float(distance[0, 1] + distance[1, 2]) + 1e-9
    assert float(distance.diagonal().max()) < 1e-6


@pytest.mark.parametrize("metric", ["angular", "residual"])
def test_the_gradient_of_procrustes_is_that_of_finite_differences(metric: str) -> None:
    model = Procrustes(metric=metric)
    x, y = draw(6, 3).requires_grad_(), draw(6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: model.compute(a, b).distance, (x, y))
    # Orthonormal columns: all singular values of the product are equal.
    same = torch.linalg.qr(draw(6, 3)).Q.requires_grad_()
    Procrustes(metric=metric, center=False).compute(same, same.detach()).distance.backward()
    assert same.grad is not None
    assert bool(same.grad.isfinite().all())


def test_wrong_input_is_refused_in_words() -> None:
    x, flat = draw(6, 2), torch.ones(6, 2)
    wrong = (ValueError, TypeError)
    with pytest.raises(wrong, match=r"kernel must be one of|Type-check"):
        CKA(kernel="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bandwidth belongs to kernel='rbf'"):
        CKA(bandwidth=1)
    with pytest.raises(ValueError, match="bandwidth must be above 0, got -1"):
        CKA(kernel="rbf", bandwidth=-1)
    with pytest.raises(ValueError, match="y is constant over samples; its similarity"):
        CKA().compute(x, flat)
    with pytest.raises(
        ValueError, match=r"x must be \(..., samples >= 4, features >= 1\), got shape \(3, 2\)"
    ):
        CKA(estimator="unbiased").compute(x[:3], x[:3])
    with pytest.raises(
        ValueError, match=r"x must be \(..., samples >= 2, features >= 1\), got shape \(6,\)"
    ):
        CKA().update(x[:, 0], x)
    assert CKA().compute_matrix([x.float()], [x]).dtype == torch.float64
    with pytest.raises(ValueError, match="list_y needs at least one representation"):
        CKA().compute_matrix([x], [])
    with pytest.raises(ValueError, match="same samples along axis -2, got 6 and 5"):
        CKA().compute_matrix([x], [x[:5]])
    with pytest.raises(ValueError, match="more than half of the pairs of samples coincide"):
        CKA(kernel="rbf").compute(torch.cat([torch.zeros(5, 2), torch.ones(1, 2)]), x)
    with pytest.raises(ValueError, match="metric='angular' compares shapes of unit size"):
        Procrustes(scale=False)
    with pytest.raises(ValueError, match="x is constant over samples; it has no shape"):
        Procrustes().compute(flat, x)
    assert repr(Procrustes()) == "Procrustes(scale=True, center=True, metric='angular')"


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_features_and_samples_give_the_same_matrix_of_layers(estimator: str) -> None:
    cka = CKA(estimator=estimator)
    narrow = [draw(2, 20, k, seed=k) for k in (3, 5)]
    # Columns of zeros change nothing but send the wide side through the samples.
    wide = [torch.cat([z, torch.zeros(2, 20, 20)], -1) for z in narrow]
    found = cka.compute_matrix(narrow, narrow[:1])
    torch.testing.assert_close(cka.compute_matrix(wide, wide[:1]), found)
    torch.testing.assert_close(found[:, 1, 0], cka.compute(narrow[1], narrow[0]))
    orders = torch.stack([torch.randperm(20) for _ in range(3)])
    permuted = cka.compute_permuted(*narrow, orders)
    torch.testing.assert_close(cka.compute_permuted(wide[0], wide[1], orders), permuted)


def test_large_finite_values_are_no_error_and_hidden_infinities_are() -> None:
    huge = torch.full((4, 2), 1e38) * torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    with pytest.raises(ValueError, match="y holds NaN or inf"):
        CKA().compute(draw(4, 2), torch.tensor([[torch.inf, 0], [-torch.inf, 1], [0, 1], [1, 1]]))
    # The sum of these overflows, the values do not.
    assert CKA().compute(huge.double(), huge).isfinite()


@pytest.mark.parametrize("metric", ["angular", "residual"])
def test_the_gradient_of_procrustes_exists_where_singular_values_repeat(metric: str) -> None:
    q = torch.linalg.qr(draw(12, 6) - draw(12, 6).mean(0)).Q
    x = q[:, :3].clone().requires_grad_()
    y = (q[:, :3] @ turn(3, 1) + q[:, 3:]).requires_grad_()
    model = Procrustes(metric=metric)
    assert torch.autograd.gradcheck(lambda a, b: model.compute(a, b).distance, (x, y))
