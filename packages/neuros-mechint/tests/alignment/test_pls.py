import pytest
import torch
from torch import Tensor

from neuros_mechint.alignment import PLS


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_shared_direction_is_found_among_louder_ones() -> None:
    shared = draw(300, 1)
    x = torch.cat([shared, draw(300, 4, seed=1)], -1)
    y = torch.cat([draw(300, 3, seed=2), -shared], -1)
    model = PLS(1).fit(x, y)
    a, b = model.transform(x, y)
    # Noise columns add weights of 1 / sqrt(300) each.
    assert abs(float(torch.corrcoef(torch.cat([a, shared], -1).T)[0, 1])) > 0.95
    assert float(model.compute(x, y)) == pytest.approx(float(model.score(x, y)))
    assert float(model.score(x, y)) > 0.9
    assert b.shape == (300, 1)


def test_regression_with_all_components_is_least_squares() -> None:
    x, y = draw(40, 4), draw(40, 3, seed=1)
    model = PLS(4, mode="regression").fit(x, y)
    a = torch.cat([x, torch.ones(40, 1).double()], -1)
    torch.testing.assert_close(model.predict(x), a @ torch.linalg.lstsq(a, y).solution)


def test_scores_of_x_are_uncorrelated_in_regression() -> None:
    x, y = draw(40, 6), draw(40, 3, seed=1)
    scores, _ = PLS(3, mode="regression").fit(x, y).transform(x, y)
    gram = scores.T @ scores
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))


def test_columns_in_other_units_change_nothing_with_scale() -> None:
    x, y = draw(30, 4), draw(30, 3, seed=1)
    factors = torch.tensor([1.0, 10.0, 100.0, 0.1])
    for mode in ("svd", "regression"):
        found = PLS(2, mode=mode).compute(x * factors + 5, y)
        torch.testing.assert_close(found, PLS(2, mode=mode).compute(x, y))
        plain = PLS(2, mode=mode, scale=False)
        assert abs(float(plain.compute(x * factors, y) - plain.compute(x, y))) > 1e-3


def test_a_batch_equals_its_items_and_permutations_equal_a_loop() -> None:
    x, y = draw(3, 20, 5), draw(3, 20, 4, seed=1)
    orders = torch.stack([torch.randperm(20) for _ in range(4)])
    for mode in ("svd", "regression"):
        model = PLS(3, mode=mode)
        loop = torch.stack([model.compute(a, b) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(model.compute(x, y), loop)
        torch.testing.assert_close(model.compute(x.numpy(), y.numpy()), loop)
        want = torch.stack([model.compute(x, y[:, order]) for order in orders])
        torch.testing.assert_close(model.compute_permuted(x, y, orders), want)


def test_more_features_than_samples_and_a_flat_column_are_no_obstacle() -> None:
    x = torch.cat([draw(10, 30), torch.ones(10, 1)], -1)
    for mode in ("svd", "regression"):
        value = PLS(2, mode=mode).compute(x, draw(10, 20, seed=1))
        assert 0 < float(value) <= 1 + 1e-12


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, y = draw(8, 4).requires_grad_(), draw(8, 3, seed=1).requires_grad_()
    for mode in ("svd", "regression"):
        assert torch.autograd.gradcheck(PLS(2, mode=mode).compute, (x, y))


def test_wrong_input_is_refused_in_words() -> None:
    x = draw(10, 3)
    wrong = (ValueError, TypeError)
    with pytest.raises(wrong, match=r"mode must be one of|Type-check"):
        PLS(mode="canonical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_components must be at least 1, got 0"):
        PLS(0)
    with pytest.raises(ValueError, match="n_components=4 is more than the 3 directions"):
        PLS(4).fit(x, x)
    with pytest.raises(ValueError, match="x has only 1 directions, fewer than n_components=2"):
        PLS(2, mode="regression").fit(x[:, :1].repeat(1, 3), x)
    with pytest.raises(ValueError, match="y is constant over samples"):
        PLS().fit(x, torch.ones(10, 2))
    with pytest.raises(ValueError, match="holds no weights yet"):
        PLS().transform(x, x)
    with pytest.raises(ValueError, match="mode='svd' predicts nothing"):
        PLS().fit(x, x).predict(x)
    with pytest.raises(ValueError, match="y must have the 3 features that were fitted, got 2"):
        PLS().fit(x, x).score(x, x[:, :2])
    assert repr(PLS()) == "PLS(2, mode='svd', scale=True)"
