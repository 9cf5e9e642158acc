import pytest
import torch
from torch import Tensor

from neuros_mechint.alignment import RidgeAlignment


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_are_those_of_the_normal_equations() -> None:
    x, y = draw(30, 4), draw(30, 2, seed=1)
    model = RidgeAlignment((3.0,)).fit(x, y)
    a, b = x - x.mean(0), y - y.mean(0)
    want = torch.linalg.solve(a.T @ a + 3 * torch.eye(4), a.T @ b)
    torch.testing.assert_close(model.coefficients, want)
    torch.testing.assert_close(model.predict(x), a @ want + y.mean(0))


def test_the_penalty_has_the_smallest_error_of_samples_left_out() -> None:
    alphas = (0.1, 10.0, 1000.0)
    x = draw(25, 6)
    y = torch.cat([x[:, :1] + 0.1 * draw(25, 1, seed=2), draw(25, 1, seed=3)], -1)
    errors = []
    for alpha in alphas:
        missed = []
        for k in range(25):
            kept = torch.arange(25) != k
            model = RidgeAlignment((alpha,)).fit(x[kept], y[kept])
            missed.append((model.predict(x[k : k + 1]) - y[k]).square()[0])
        errors.append(torch.stack(missed).mean(0))
    want = torch.tensor(alphas, dtype=torch.float64)[torch.stack(errors).argmin(0)]
    assert want[0] < want[1]
    torch.testing.assert_close(RidgeAlignment(alphas).fit(x, y).alpha, want)


def test_a_linear_target_is_predicted_and_noise_is_not() -> None:
    x = draw(200, 5)
    y = torch.cat([x @ draw(5, 1, seed=1), draw(200, 1, seed=2)], -1)
    r2 = RidgeAlignment().score_targets(x, y)
    assert float(r2[0]) > 0.999
    # Held out, noise explains nothing: R^2 is about -(features) / n.
    assert -0.2 < float(r2[1]) < 0.05
    r = RidgeAlignment(score="correlation").score_targets(x, y)
    assert float(r[0]) > 0.999
    assert float(RidgeAlignment(score="correlation").compute(x, y)) == pytest.approx(
        float(r.mean())
    )


def test_more_features_than_samples_are_no_obstacle() -> None:
    x = draw(40, 100)
    y = x[:, :3] @ draw(3, 2, seed=1)
    model = RidgeAlignment((1e-6, 1.0)).fit(x, y)
    torch.testing.assert_close(model.predict(x), y, atol=1e-3, rtol=0)
    assert float(model.score(x, y)) > 0.999


def test_leaving_one_out_is_one_fold_per_sample() -> None:
    x, y = draw(12, 2), draw(12, 1, seed=1)
    alone = RidgeAlignment((1.0,), None).compute(x, y)
    torch.testing.assert_close(alone, RidgeAlignment((1.0,), 12).compute(x, y))


def test_a_batch_equals_its_items_and_permutations_equal_a_loop() -> None:
    x, y = draw(3, 30, 4), draw(3, 30, 2, seed=1)
    for score in ("r2", "correlation"):
        model = RidgeAlignment(score=score)
        loop = torch.stack([model.compute(a, b) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(model.compute(x, y), loop)
        torch.testing.assert_close(model.compute(x.numpy(), y.numpy()), loop)
        orders = torch.stack([torch.randperm(30) for _ in range(4)])
        want = torch.stack([model.compute(x, y[:, order]) for order in orders])
        torch.testing.assert_close(model.compute_permuted(x, y, orders), want)


@pytest.mark.parametrize("score", ["r2", "correlation"])
def test_a_perfect_model_reaches_its_ceiling(score: str) -> None:
    x = draw(2000, 3)
    signal = x @ draw(3, 2, seed=1)
    signal = signal / signal.std(0)
    repeats = signal + 2 * draw(6, 2000, 2, seed=2)
    found = RidgeAlignment(score=score).evaluate(x, repeats)
    # Signal 1, noise of the mean 4 / 6: EV 0.6, and its root for a correlation.
    want = 0.6 if score == "r2" else 0.6**0.5
    torch.testing.assert_close(found.ceiling, torch.full((2,), want).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(found.normalized, torch.ones(2).double(), atol=0.05, rtol=0)
    assert found.to_dict().keys() == {"score", "ceiling", "ceiling_sem", "alpha"}
    assert bool((found.ceiling_sem < 0.05).all())


def test_a_target_without_signal_has_no_normalized_score() -> None:
    noise = draw(2, 40, 1, seed=3)
    opposite = torch.stack([noise[0], -noise[0] + 0.1 * noise[1]])
    found = RidgeAlignment().evaluate(draw(40, 2), opposite)
    assert float(found.ceiling) < 0
    assert bool(found.normalized.isnan())


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, y = draw(9, 3).requires_grad_(), draw(9, 2, seed=1).requires_grad_()
    for score in ("r2", "correlation"):
        assert torch.autograd.gradcheck(RidgeAlignment((1.0,), 3, score=score).compute, (x, y))


def test_a_flat_target_scores_zero() -> None:
    x, y = draw(20, 2), torch.ones(20, 1).double()
    assert float(RidgeAlignment().compute(x, y)) == 0
    assert float(RidgeAlignment(score="correlation").compute(x, y)) == 0


def test_wrong_input_is_refused_in_words() -> None:
    x = draw(10, 3)
    wrong = (ValueError, TypeError)
    with pytest.raises(wrong, match=r"score must be one of|Type-check"):
        RidgeAlignment(score="mse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alphas needs at least one penalty, all above 0"):
        RidgeAlignment((0.0,))
    with pytest.raises(ValueError, match="cv must be at least 2 folds or None, got 1"):
        RidgeAlignment(cv=1)
    with pytest.raises(ValueError, match="holds no weights yet"):
        _ = RidgeAlignment().alpha
    with pytest.raises(ValueError, match="2 samples are too few for 2 folds"):
        RidgeAlignment(cv=2).compute(x[:2], x[:2])
    model = RidgeAlignment().fit(x, x)
    with pytest.raises(ValueError, match="x must have the 3 features that were fitted, got 2"):
        model.predict(x[:, :2])
    with pytest.raises(ValueError, match="y must have the 3 targets that were fitted, got 2"):
        model.score(x, x[:, :2])
    with pytest.raises(ValueError, match="repeats >= 2"):
        model.evaluate(x, x[None])
    assert repr(RidgeAlignment((1,), 3)) == "RidgeAlignment((1.0,), 3, score='r2')"
