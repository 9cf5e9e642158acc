import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.alignment import CCA


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(rho: list[float], n: int = 60) -> tuple[Tensor, Tensor]:
    """Two matrices whose sample correlations are exactly the given ones."""
    k = len(rho)
    q = torch.linalg.qr(draw(n, 2 * k) - draw(n, 2 * k).mean(0)).Q
    r = torch.tensor(rho, dtype=torch.float64)
    x, y = q[:, :k], r * q[:, :k] + (1 - r**2).sqrt() * q[:, k:]
    return x @ draw(k, k, seed=1), y @ draw(k, k, seed=2) + 5.0


def test_planted_correlations_are_found() -> None:
    rho = [0.9, 0.5, 0.1]
    x, y = planted(rho)
    model = CCA().fit(x, y)
    torch.testing.assert_close(model.correlations, torch.tensor(rho, dtype=torch.float64))
    assert float(CCA().compute(x, y)) == pytest.approx(0.5)
    assert float(CCA(1).compute(x, y)) == pytest.approx(0.9)
    assert CCA(2).fit(x, y).correlations.shape == (2,)


def test_variates_are_orthonormal_and_paired() -> None:
    x, y = planted([0.9, 0.5, 0.1])
    model = CCA().fit(x, y)
    u, v = model.transform(x, y)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(u.T @ u, eye)
    torch.testing.assert_close(u.T @ v, torch.diag(model.correlations))
    assert float(model.score(x, y)) == pytest.approx(0.5)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_an_invertible_map_changes_nothing(seed: int) -> None:
    x, y = draw(40, 4, seed=seed), draw(40, 3, seed=seed + 1)
    other = x @ (draw(4, 4, seed=seed + 2) + 4 * torch.eye(4)) + 3.0
    torch.testing.assert_close(CCA().compute(other, y), CCA().compute(x, y))
    assert 0 <= float(CCA().compute(x, y)) <= 1


def test_a_batch_equals_its_items_and_numpy_equals_torch() -> None:
    x, y = draw(3, 30, 4), draw(3, 30, 5, seed=1)
    for method in ("qr", "svcca", "pwcca"):
        model = CCA(method=method)
        loop = torch.stack([model.compute(a, b) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(model.compute(x, y), loop)
        torch.testing.assert_close(model.compute(x.numpy(), y.numpy()), loop)
    assert CCA().compute(x.half(), y.half()).dtype == torch.float32
    assert CCA().compute(torch.arange(8).reshape(4, 2) ** 2, y[0, :4, :2].float()).ndim == 0


def test_repeated_columns_change_nothing() -> None:
    x, y = planted([0.9, 0.5])
    torch.testing.assert_close(CCA().compute(torch.cat([x, x], -1), y), CCA().compute(x, y))
    correlations = CCA().fit(torch.cat([x, x], -1), torch.cat([y, y], -1)).correlations
    torch.testing.assert_close(correlations[2:], torch.zeros(2, dtype=torch.float64))
    twice = CCA(method="pwcca").compute(torch.cat([x, x], -1), torch.cat([y, y], -1))
    torch.testing.assert_close(twice, CCA(method="pwcca").compute(x, y))


def test_a_ridge_is_that_of_the_covariance() -> None:
    x, y, reg = draw(30, 4), draw(30, 3, seed=1), 0.3
    a, b = (z.numpy() - z.numpy().mean(0) for z in (x, y))

    def root(z: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh((1 - reg) * z.T @ z / 29 + reg * np.eye(z.shape[1]))
        return vectors / np.sqrt(values) @ vectors.T

    want = (1 - reg) * np.linalg.svd(root(a) @ (a.T @ b / 29) @ root(b), compute_uv=False)
    np.testing.assert_allclose(CCA(reg=reg).fit(x, y).correlations.numpy(), want, rtol=1e-10)
    assert float(CCA(reg=1).compute(x, y)) == 0
    assert bool(CCA(reg=0.5).compute(draw(5, 9), draw(5, 8, seed=1)) < 1)


def test_svcca_leaves_out_directions_with_little_variance() -> None:
    x, y = draw(100, 2), draw(100, 3, seed=1)
    shared = draw(100, 1, seed=2) * 1e-3
    quiet = CCA(method="svcca").compute(torch.cat([x, shared], -1), y)
    torch.testing.assert_close(quiet, CCA(method="svcca").compute(x, y), atol=1e-3, rtol=0)
    wide = CCA(2, method="svcca").fit(draw(20, 50), draw(20, 40, seed=1))
    assert wide.correlations.shape == (2,)
    assert float(wide.correlations[0]) < 1


def test_pwcca_weighs_by_what_a_variate_accounts_for() -> None:
    q = torch.linalg.qr(draw(60, 4) - draw(60, 4).mean(0)).Q
    x = q[:, :2] * torch.tensor([1.0, 3.0])
    y = torch.stack([q[:, 0], 0.6 * q[:, 1] + 0.8 * q[:, 2]], -1)
    # Weights 1 and 3 of correlations 1 and 0.6.
    assert float(CCA(method="pwcca").compute(x, y)) == pytest.approx((1 + 3 * 0.6) / 4)


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, y = draw(8, 3).requires_grad_(), draw(8, 2, seed=1).requires_grad_()
    for model in (CCA(), CCA(reg=0.2), CCA(2, method="svcca"), CCA(method="pwcca")):
        assert torch.autograd.gradcheck(model.compute, (x, y))
    same = x.detach().clone().requires_grad_()
    CCA().compute(same, same.detach() @ draw(3, 3)).backward()
    assert same.grad is not None
    assert bool(same.grad.isfinite().all())


def test_the_gradient_exists_where_correlations_repeat() -> None:
    x, y = (z.requires_grad_() for z in planted([0.5, 0.5, 0.5], n=12))
    assert torch.autograd.gradcheck(CCA().compute, (x, y))


@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_single_precision_gives_the_same_to_its_digits(reg: float) -> None:
    x, y = planted([0.9, 0.5, 0.1])
    found = CCA(reg=reg).compute(x.float(), y.float())
    torch.testing.assert_close(found.double(), CCA(reg=reg).compute(x, y), atol=1e-5, rtol=0)


def test_nearly_equal_columns_do_not_cost_digits() -> None:
    x, y = planted([0.9, 0.5])
    near = torch.cat([x, x + 1e-6 * draw(60, 2, seed=7)], -1)
    a, b = (np.linalg.qr(z.numpy() - z.numpy().mean(0))[0] for z in (near, y))
    want = np.linalg.svd(a.T @ b, compute_uv=False)
    np.testing.assert_allclose(CCA().fit(near, y).correlations.numpy(), want, atol=1e-8)


def test_held_out_noise_scores_near_zero() -> None:
    model = CCA().fit(draw(50, 5), draw(50, 5, seed=1))
    # The mean of 5 null correlations over 2000 samples has sd 0.01; 0.1 is ten of them.
    held_out = model.score(draw(2000, 5, seed=2), draw(2000, 5, seed=3))
    assert abs(float(held_out)) < 0.1 < float(model.correlations.mean())
    flat = model.score(torch.ones(4, 5).double(), draw(4, 5))
    assert float(flat) == 0


def test_wrong_input_is_refused_in_words() -> None:
    x = draw(10, 3)
    with pytest.raises((ValueError, TypeError), match=r"method must be one of 'qr'|Type-check"):
        CCA(method="nipals")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_components must be at least 1 or None, got 0"):
        CCA(0)
    with pytest.raises(ValueError, match=r"reg must lie in \[0, 1\], got 2"):
        CCA(reg=2)
    with pytest.raises(ValueError, match="same samples along axis -2, got 10 and 9"):
        CCA().fit(x, x[:9])
    with pytest.raises(ValueError, match=r"x has 20 features for 10 samples.*pass reg > 0"):
        CCA().fit(draw(10, 20), x)
    with pytest.raises(ValueError, match="x is constant over samples"):
        CCA().compute(torch.ones(10, 2), x)
    with pytest.raises(ValueError, match="holds no directions yet"):
        _ = CCA().correlations
    with pytest.raises(ValueError, match="x must have the 3 features that were fitted, got 2"):
        CCA().fit(x, x).transform(x[:, :2], x)
    with pytest.raises(ValueError, match="x holds NaN or inf"):
        CCA().compute(x / 0, x)
    with pytest.raises(
        ValueError, match=r"x must be \(..., samples >= 2, features >= 1\), got shape \(3,\)"
    ):
        CCA().compute(x[0], x)
    with pytest.raises(TypeError, match=r"got list|Type-check"):
        CCA().compute([[1.0]], x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="x must be real"):
        CCA().compute(x + 0j, x)
    assert repr(CCA(3, reg=0.1)) == "CCA(3, reg=0.1, method='qr')"
