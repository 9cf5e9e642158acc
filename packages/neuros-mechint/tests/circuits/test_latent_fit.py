import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.circuits import CircuitFitter, LatentCircuitModel
from neuros_mechint.circuits._latent_descent import adam, lbfgs
from neuros_mechint.circuits._latent_problem import LatentProblem, cayley, procrustes
from neuros_mechint.circuits._latent_weights import haar


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def planted(
    n: int = 3, n_units: int = 12, *, trials: int = 12, time: int = 25, seed: int = 0,
    **kwargs: object,
) -> tuple[LatentCircuitModel, Tensor, Tensor]:  # fmt: skip
    """A circuit, white inputs, and its responses."""
    model = LatentCircuitModel(n, n_units, generator=gen(seed), **kwargs)  # type: ignore[arg-type]
    u = draw(trials, time, model.n_inputs, seed=seed + 1)
    return model.double(), u, model.double()(u).responses.detach()


def problem_of(
    model: LatentCircuitModel, y: Tensor, u: Tensor, z: Tensor | None = None,
    w: Tensor | None = None, **kwargs: float,
) -> LatentProblem:  # fmt: skip
    return LatentProblem(
        y, u, z, w, constraints=model.constraints, alpha=model.alpha,
        activation=model.activation, **kwargs,
    )  # fmt: skip


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_the_loss_at_the_planted_weights_is_zero_and_its_embedding_the_planted_one() -> None:
    model, u, y = planted()
    problem = problem_of(model, y, u)
    free = problem.pack(tuple(w.detach()[None] for w in (model.w_rec, model.w_in, model.w_out)))
    assert abs(float(problem.loss(free))) < 1e-12
    weights = problem.unpack(free)
    q = procrustes(problem.cross(problem.rows(problem.latents(weights))))
    torch.testing.assert_close(q[0], model.q.detach())


def test_the_loss_is_the_one_that_is_defined() -> None:
    model, u, y = planted(n_inputs=2, n_outputs=1)
    noisy = y + 0.1 * draw(*y.shape, seed=5)
    z = draw(*y.shape[:2], 1, seed=6)
    problem = problem_of(model, noisy, u, z, output_weight=0.7, weight_decay=0.2, l1=0.3)
    weights = model.draw_weights(4, gen(3))
    free = problem.pack(weights)
    got = problem.loss(free)
    for k in range(4):
        other = LatentCircuitModel(3, 12, n_inputs=2, n_outputs=1).double()
        with torch.no_grad():
            for mine, drawn in zip((other.w_rec, other.w_in, other.w_out), weights, strict=True):
                mine.copy_(drawn[k])
            x = other(u).latents
            left, _, right = torch.linalg.svd(noisy.flatten(0, 1).T @ x.flatten(0, 1), False)
            nmse = (noisy - x @ (left @ right).T).square().sum()
            nmse = nmse / (noisy - noisy.mean((0, 1))).square().sum()
            missed = (other.readout(x) - z).square().sum(-1).mean()
            penalty = (
                0.1 * sum(w.square().sum() for w in (other.w_rec, other.w_in, other.w_out))
                + 0.3 * other.w_rec.abs().sum()
            )
        torch.testing.assert_close(got[k], nmse + 0.7 * missed + penalty)


def test_the_gradient_with_the_embedding_held_is_that_of_the_reduced_loss() -> None:
    model, u, y = planted(activation="tanh")
    problem = problem_of(model, y + 0.1 * draw(*y.shape, seed=5), u)
    free = problem.pack(model.draw_weights(2, gen(3))).requires_grad_()
    assert torch.autograd.gradcheck(problem.loss, (free,), rtol=1e-4)


def test_procrustes_beats_any_other_embedding_also_when_a_latent_is_silent() -> None:
    cross = draw(3, 10, 4)
    cross[1, :, 2] = 0
    q = procrustes(cross)
    eye = torch.eye(4, dtype=torch.float64)
    assert float((q.mT @ q - eye).abs().max()) < 1e-12
    reached = (q * cross).sum((-2, -1))
    torch.testing.assert_close(reached, torch.linalg.svdvals(cross).sum(-1))
    for other in haar(10, 4, gen(1), batch=50):
        assert bool(((other * cross).sum((-2, -1)) < reached).all())


def test_both_methods_agree_in_loss_on_equal_parameters() -> None:
    model, u, y = planted(n=3, n_units=8)
    problem = problem_of(model, y + 0.1 * draw(*y.shape, seed=5), u)
    free = problem.pack(model.draw_weights(1, gen(3)))
    best = procrustes(problem.cross(problem.rows(problem.latents(problem.unpack(free)))))[0]
    # A rotation that begins with the best columns, and whose Cayley transform exists.
    whole = torch.linalg.qr(torch.cat([best, draw(8, 5, seed=7)], -1)).Q
    whole = whole * torch.cat([(whole[:, :3] * best).sum(0).sign(), torch.ones(5)])
    whole[:, 7] *= torch.linalg.det(whole).sign()
    eye = torch.eye(8, dtype=torch.float64)
    A = torch.linalg.solve(whole + eye, whole - eye)
    torch.testing.assert_close(A, -A.T)
    q = cayley((A / 2)[None], 3)
    torch.testing.assert_close(q[0], best)
    torch.testing.assert_close(problem.loss(free, embedding=q), problem.loss(free))


def test_the_cayley_embedding_is_orthonormal_and_its_fit_reaches_the_same_loss() -> None:
    q = cayley(draw(5, 9, 9), 4)
    assert float((q.mT @ q - torch.eye(4, dtype=torch.float64)).abs().max()) < 1e-12
    _, u, y = planted(n=2, n_units=5)
    fitter = CircuitFitter(n_restarts=2, method="cayley", prune=False, generator=gen(1))
    found = fitter.fit_ensemble(y, u, 2, 80)
    assert float(found.loss.min()) < 1e-6
    assert bool((found.history[-1] < 0.5 * found.history[0]).all())


def test_a_fit_returns_the_planted_wiring() -> None:
    model, u, y = planted(trials=8, time=15)
    fitter = CircuitFitter(n_restarts=6, generator=gen(2))
    fitted = fitter.fit(y.float(), u.float(), n_latent=3, n_epochs=60)
    assert correlation(fitted.w_rec.detach(), model.w_rec.detach().float()) >= 0.999
    assert float(fitter.result_.r2.max()) > 0.9999
    assert fitted.w_rec.dtype == torch.float32


@pytest.mark.slow  # the fit at its own defaults: 32 restarts
def test_a_fit_with_every_default_returns_the_planted_wiring() -> None:
    model = LatentCircuitModel(n_latent=5, n_observed=50, generator=gen())
    inputs = torch.randn(100, 20, 5, generator=gen(1))
    fitter = CircuitFitter(generator=gen(2))
    fitted = fitter.fit(model(inputs).responses.detach(), inputs, n_latent=5)
    assert correlation(fitted.w_rec.detach(), model.w_rec.detach()) >= 0.99


def test_the_result_ranks_and_scores_every_restart() -> None:
    model, u, y = planted(n_inputs=2, n_outputs=1)
    z = model.readout(model(u).latents).detach()
    noisy = y + 0.05 * draw(*y.shape, seed=5)
    found = CircuitFitter(n_restarts=8, generator=gen(1)).fit_ensemble(noisy, u, 3, 60, outputs=z)
    assert bool((found.loss[found.order].diff() >= 0).all())
    best = int(found.order[0])
    torch.testing.assert_close(found.model.w_rec.data, found.w_rec[best])
    torch.testing.assert_close(found.model.q.data, found.q[best])
    x = found.model(u).latents.detach()
    q, spread = found.q[best], (noisy - noisy.mean((0, 1))).square().sum()
    torch.testing.assert_close(found.r2[best], found.model.score(noisy, u))
    torch.testing.assert_close(found.r2[best], 1 - (noisy - x @ q.T).square().sum() / spread)
    projected = noisy @ q
    left = (noisy - projected @ q.T).square().sum() / spread
    torch.testing.assert_close(found.r2_subspace[best], 1 - left)
    missed = (projected - x).square().sum() / (projected - projected.mean((0, 1))).square().sum()
    torch.testing.assert_close(found.r2_projected[best], 1 - missed)
    read = found.model.readout(x).detach()
    missed = (read - z).square().sum() / (z - z.mean()).square().sum()
    assert found.r2_output is not None
    torch.testing.assert_close(found.r2_output[best], 1 - missed)
    assert bool((found.r2 <= found.r2_subspace + 1e-9).all())
    assert found.history.shape == (60, 8)
    # Two halvings, at epochs 15 and 30.
    assert found.history.isfinite().sum(1).tolist() == [8] * 15 + [4] * 15 + [2] * 30
    assert found.elapsed > 0
    fields = found.to_dict()
    assert "latent_rnn.recurrent" in fields["model"]
    assert fields["identifiability"]["rank"] == found.identifiability.rank


def test_polishing_never_raises_the_loss_and_pruning_is_optional() -> None:
    _, u, y = planted()
    noisy = y + 0.05 * draw(*y.shape, seed=5)
    rough, fine = (
        CircuitFitter(n_restarts=4, polish=polish, prune=False, generator=gen(1)).fit_ensemble(
            noisy, u, 3, 30
        )
        for polish in (False, True)
    )
    assert bool(rough.history.isfinite().all())
    assert bool((fine.loss <= rough.loss + 1e-12).all())
    assert float(fine.loss.min()) < float(rough.loss.min())


def test_the_same_generator_gives_the_same_fit_bit_by_bit() -> None:
    _, u, y = planted()
    one, other = (
        CircuitFitter(n_restarts=3, noise_std=0.05, generator=gen(4)).fit(y, u, 3, 10)
        for _ in range(2)
    )
    assert torch.equal(one.w_rec, other.w_rec)


def test_a_model_fits_in_place_and_begins_with_its_own_weights() -> None:
    model, u, y = planted()
    start = LatentCircuitModel(3, 12, generator=gen(9)).double()
    with torch.no_grad():
        start.w_rec.copy_(model.w_rec)
        start.w_in.copy_(model.w_in)
    found = start.fit(y, u, n_epochs=1, n_restarts=1, polish=False)
    assert found.model is start
    assert float(found.loss[0]) < 1e-3
    assert float(found.history[0, 0]) < 1e-10


def test_dale_signs_hold_in_every_restart_of_a_fit() -> None:
    model, u, y = planted(n=5, time=15, enforce_dales=True)
    fitter = CircuitFitter(n_restarts=4, generator=gen(1))
    found = fitter.fit_ensemble(y, u, 5, 40, enforce_dales=True)
    signs = torch.tensor([1.0, 1, 1, 1, -1], dtype=torch.float64)
    assert bool((found.w_rec * signs >= 0).all())
    assert bool((found.w_in.diagonal(dim1=-2, dim2=-1) >= 0).all())
    assert correlation(found.model.w_rec.detach(), model.w_rec.detach()) > 0.99


def test_samples_of_weight_zero_have_no_effect_and_may_be_missing() -> None:
    _, u, y = planted()
    weights = torch.ones(12, 25)
    weights[:3] = 0
    broken = y.clone()
    broken[:3] = torch.nan
    one = CircuitFitter(n_restarts=3, generator=gen(1)).fit_ensemble(y[3:], u[3:], 3, 40)
    other = CircuitFitter(n_restarts=3, generator=gen(1)).fit_ensemble(
        broken, u, 3, 40, weights=weights
    )
    torch.testing.assert_close(one.model.w_rec, other.model.w_rec, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        one.identifiability.standard_error,
        other.identifiability.standard_error,
        rtol=0.05,
        atol=1e-6,
    )
    torch.testing.assert_close(one.r2, other.r2, atol=1e-5, rtol=1e-5)


def test_weights_count_samples_as_copies_do() -> None:
    model, u, y = planted(trials=4)
    noisy = y + 0.05 * draw(*y.shape, seed=5)
    z = draw(4, 25, 2, seed=8)
    model = LatentCircuitModel(3, 12, n_inputs=1, n_outputs=2, generator=gen()).double()
    u = u[..., :1]
    twice = [torch.cat([t, t[:1]]) for t in (noisy, u, z)]
    weights = torch.ones(4, 25, dtype=torch.float64)
    weights[0] = 2
    free = problem_of(model, noisy, u).pack(model.draw_weights(2, gen(3)))
    copied = problem_of(model, *twice).loss(free)
    torch.testing.assert_close(problem_of(model, noisy, u, z, weights).loss(free), copied)


def test_numpy_and_half_are_accepted_and_the_scale_of_responses_is_found() -> None:
    _, u, y = planted()
    found = CircuitFitter(n_restarts=4, generator=gen(1)).fit_ensemble(
        300 * y.numpy(), u.numpy(), 3, 40
    )
    assert float(found.r2.max()) > 0.999
    assert found.w_rec.dtype == torch.float64
    half = CircuitFitter(n_restarts=1, polish=False).fit(y.half(), u.half(), 3, 2)
    assert half.w_rec.dtype == torch.float32


def test_other_nonlinearities_fit_too() -> None:
    for activation in ("tanh", "softplus"):
        model, u, y = planted(n=2, trials=6, time=15, activation=activation)
        fitted = CircuitFitter(n_restarts=3, generator=gen(1)).fit(
            y, u, 2, 50, activation=activation
        )
        assert float(fitted.score(y, u)) > 0.99, activation
        assert correlation(fitted.w_rec.detach(), model.w_rec.detach()) > 0.9, activation


def test_a_descent_ends_where_nothing_falls_any_more() -> None:
    def bowl(x: Tensor, which: Tensor) -> Tensor:
        return (x - which[:, None]).square().sum(-1) + 1

    x, history, alive = adam(bowl, torch.zeros(3, 2), n_epochs=4000, lr=0.1, tol=1e-6, prune=False)
    assert len(history) < 4000
    torch.testing.assert_close(x, torch.tensor([[0.0, 0], [1, 1], [2, 2]]), atol=0.1, rtol=0)
    assert alive.tolist() == [0, 1, 2]


def test_lbfgs_finds_the_valley_of_rosenbrock_from_many_starts() -> None:
    def valley(x: Tensor, _: Tensor) -> Tensor:
        return 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2

    start = 2 * draw(6, 2)
    x, losses = lbfgs(valley, start, n_iterations=200, tol=1e-14)
    torch.testing.assert_close(x, torch.ones(6, 2, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(losses.max()) < 1e-10


def test_lbfgs_does_not_stop_at_a_kink() -> None:
    def kinked(x: Tensor, _: Tensor) -> Tensor:
        return x.abs().sum(-1) + 0.5 * (x.sum(-1) - 1).square()

    start = 3 * draw(4, 3)
    _, losses = lbfgs(kinked, start, n_iterations=200, tol=1e-12)
    # |s| + (s - 1)^2 / 2 is least where the sum s is 0.
    assert float((losses - 0.5).max()) < 0.02 < float(kinked(start, start).min()) - 0.5


def test_wrong_arguments_are_refused_in_words() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"n_restarts": 0}, "n_restarts must be at least 1, got 0"),
        ({"lr": 0}, "lr must be above 0, got 0"),
        ({"l1": -1.0}, "l1 must be at least 0, got -1"),
        ({"noise_std": -0.1}, "noise_std must be at least 0"),
        ({"method": "adam"}, r"method must be one of 'varpro', 'cayley'|Type-check"),
    ]
    for kwargs, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            CircuitFitter(**kwargs)  # type: ignore[arg-type]
    assert "n_restarts=32, method='varpro', lr=0.04" in repr(CircuitFitter())


def test_wrong_data_are_refused_in_words() -> None:
    model, u, y = planted()
    fitter = CircuitFitter(n_restarts=1)
    ones = torch.ones(12, 25)
    cases: list[tuple[tuple[Tensor, Tensor], dict[str, object], str]] = [
        ((y, u[:, :9]), {}, r"stimuli must be \(trials=12, time=25, 3\).*got shape \(12, 9, 3\)"),
        ((y / 0, u), {}, "responses holds NaN or inf"),
        ((y, u / 0), {}, "stimuli holds NaN or inf"),
        ((y * 0, u), {}, "responses are constant over trials and time"),
        ((y, u), {"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
        ((y, u), {"weights": ones[:5]}, r"weights must be \(trials, time\) = \(12, 25\)"),
        ((y, u), {"weights": -ones}, "weights must be at least 0 and not all 0"),
        ((y, u), {"weights": 0 * ones}, "weights must be at least 0 and not all 0"),
        ((y / 0, u), {"weights": ones}, "NaN or inf at samples whose weight is above 0"),
        ((y[None], u[None]), {}, r"responses must be \(trials=1, time=12, 12\)"),
    ]
    for data, kwargs, message in cases:
        with pytest.raises(ValueError, match=message):
            model.fit(*data, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"outputs must be \(trials=12, time=25, 1\)"):
        LatentCircuitModel(3, 12, n_inputs=2, n_outputs=1).fit(
            y, u[..., :2], outputs=u, n_restarts=1
        )
    with pytest.raises(ValueError, match="outputs must be given for a model with n_outputs=1"):
        LatentCircuitModel(3, 12, n_inputs=2, n_outputs=1).fit(y, u[..., :2])
    with pytest.raises(ValueError, match="responses must be"):
        fitter.fit(y[0, 0], u, 3)
    with pytest.raises(TypeError, match=r"responses must be a tensor|Type-check"):
        fitter.fit(np.zeros((2, 3, 4)).tolist(), u, 3)  # type: ignore[arg-type]
