"""DUNL: codes beside convex solvers, gradients beside unrolling, planted kernels found again."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import Lasso
from torch import Tensor

from neuros_mechint.circuits import DUNLModel
from neuros_mechint.circuits._dunl_operators import Convolution, lipschitz

TIME, TAPS, FACTORS = 60, 8, 2


def toeplitz(kernels: Tensor, n_time: int) -> Tensor:
    """The matrix H of all shifted kernels, (time, factors * events)."""
    factors, taps = kernels.shape
    columns = torch.zeros(n_time, factors, n_time - taps + 1, dtype=kernels.dtype)
    for k, t in itertools.product(range(factors), range(n_time - taps + 1)):
        columns[t : t + taps, k, t] = kernels[k]
    return columns.flatten(1)


def activity_of(distribution: str, generator: torch.Generator, n_trials: int = 3) -> Tensor:
    noise = torch.randn(n_trials, 1, TIME, generator=generator, dtype=torch.float64)
    return {
        "gaussian": noise + 0.5,
        "binomial": (noise > 0).double(),
        "poisson": (2 * noise.abs()).round(),
    }[distribution]


def loss(distribution: str, eta: Tensor, y: Tensor) -> Tensor:
    if distribution == "gaussian":
        return (y - eta).square().sum(-1) / 2
    partition = torch.nn.functional.softplus(eta) if distribution == "binomial" else eta.exp()
    return (partition - y * eta).sum(-1)


def model_of(distribution: str = "gaussian", **settings: object) -> DUNLModel:
    given = {"kernel_length": TAPS, "sparsity": 0.3, "n_iterations": 600} | settings
    generator = torch.Generator().manual_seed(1)
    return DUNLModel(1, FACTORS, distribution=distribution, generator=generator, **given).double()


def test_gaussian_codes_are_those_of_the_lasso() -> None:
    y = activity_of("gaussian", torch.Generator().manual_seed(0))
    model = model_of()
    found = model(y)
    H = toeplitz(model.extract_factors(), TIME).numpy()
    for trial in range(len(y)):
        lasso = Lasso(alpha=0.3 / TIME, positive=True, tol=1e-12, max_iter=10**6)
        lasso.fit(H, y[trial, 0].numpy())
        codes = found.codes[trial, 0].detach().flatten().numpy()
        np.testing.assert_allclose(codes, lasso.coef_, atol=1e-6)
        assert float(found.baseline[trial, 0].detach()) == pytest.approx(lasso.intercept_, abs=1e-6)


@pytest.mark.slow  # hundreds of iterations of two solvers
@pytest.mark.parametrize(
    ("distribution", "accelerate"), [("binomial", True), ("poisson", True), ("gaussian", False)]
)
def test_the_objective_is_that_of_a_bounded_quasi_newton_search(
    distribution: str, accelerate: bool
) -> None:
    y = activity_of(distribution, torch.Generator().manual_seed(0), n_trials=1)
    model = model_of(distribution, accelerate=accelerate, n_iterations=500 if accelerate else 3000)
    H = toeplitz(model.extract_factors(), TIME)

    def objective(parameters: Tensor) -> Tensor:
        eta = H @ parameters[1:] + parameters[0]
        return loss(distribution, eta, y[0, 0]) + 0.3 * parameters[1:].sum()

    def with_slope(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.tensor(values, requires_grad=True)
        value = objective(parameters)
        value.backward()
        assert parameters.grad is not None
        return value.item(), parameters.grad.numpy()

    n = H.shape[1]
    best = minimize(
        with_slope, np.zeros(n + 1), jac=True, method="L-BFGS-B",
        bounds=[(None, None)] + [(0, None)] * n,
        options={"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    with torch.no_grad():
        found = model(y)
        ours = torch.cat([found.baseline[0], found.codes[0, 0].flatten()])
        assert objective(ours).item() == pytest.approx(best.fun, rel=1e-6)


@pytest.mark.slow  # graphs of hundreds of iterations
@pytest.mark.parametrize("distribution", ["gaussian", "binomial", "poisson"])
def test_the_implicit_gradient_is_the_unrolled_one_at_convergence(distribution: str) -> None:
    gradients = []
    for backward in ("implicit", "unroll"):
        y = activity_of(distribution, torch.Generator().manual_seed(0)).requires_grad_()
        model = model_of(distribution, backward=backward, n_iterations=400)
        if distribution != "gaussian":
            y = y.detach()
        found = model(y)
        (found.reconstruction.square().sum() + found.codes.square().sum()).backward()
        gradients.append([g for g in (model.weight.grad, y.grad) if g is not None])
    for implicit, unrolled in zip(*gradients, strict=True):
        assert (implicit - unrolled).norm() < 1e-3 * unrolled.norm()


def test_the_truncated_gradient_of_all_iterations_is_the_unrolled_one() -> None:
    y = activity_of("gaussian", torch.Generator().manual_seed(0))
    gradients = []
    for backward in ("truncated", "unroll"):
        model = model_of(backward=backward, n_iterations=8)
        model(y).codes.square().sum().backward()
        gradients.append(model.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.slow  # a graph of hundreds of iterations
def test_group_penalty_gradient_is_the_unrolled_one() -> None:
    y = activity_of("gaussian", torch.Generator().manual_seed(2), n_trials=4)
    gradients = []
    for backward in ("implicit", "unroll"):
        model = DUNLModel(
            2, FACTORS, kernel_length=TAPS, sparsity=0.1, group_sparsity=0.3, n_iterations=400,
            backward=backward, generator=torch.Generator().manual_seed(1),
        ).double()  # fmt: skip
        model(y.reshape(2, 2, TIME)).codes.square().sum().backward()
        gradients.append(model.weight.grad)
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[1].norm()


def test_a_group_penalty_silences_a_factor_in_all_neurons_at_once() -> None:
    y = activity_of("gaussian", torch.Generator().manual_seed(2), n_trials=2).reshape(1, 2, TIME)
    for share in (True, False):
        model = DUNLModel(
            2, 1, kernel_length=TAPS, sparsity=0.0, group_sparsity=0.8, nonneg_codes=False,
            share_kernels=share, n_iterations=500, generator=torch.Generator().manual_seed(1),
        ).double()  # fmt: skip
        acts = model(y).codes[0, :, 0] != 0
        assert torch.equal(acts[0], acts[1])
        assert 0 < acts[0].sum() < acts.shape[1]


def test_the_step_is_safe_and_hardly_smaller_than_it_could_be() -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(FACTORS, TAPS, generator=generator, dtype=torch.float64)
    H = toeplitz(kernels, 200)
    true = float(torch.linalg.eigvalsh(H.T @ H)[-1])
    assert true <= float(lipschitz(kernels[None], 200)) <= 1.05 * true


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(1, 9), st.integers(0, 30), st.integers(1, 3), st.integers(0, 2**31))
def test_synthesis_and_correlation_are_products_with_one_matrix(
    taps: int, more: int, factors: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_time = taps + more
    kernels = torch.randn(factors, taps, generator=generator, dtype=torch.float64)
    codes = torch.randn(1, 1, factors, more + 1, generator=generator, dtype=torch.float64)
    signal = torch.randn(1, 1, n_time, generator=generator, dtype=torch.float64)
    H, made = toeplitz(kernels, n_time), Convolution(kernels[None], n_time)
    torch.testing.assert_close(made.synthesize(codes).flatten(), H @ codes.flatten())
    torch.testing.assert_close(made.correlate(signal).flatten(), H.T @ signal.flatten())


def test_two_calls_give_equal_codes() -> None:
    y = activity_of("poisson", torch.Generator().manual_seed(0))
    model = model_of("poisson", n_iterations=50)
    assert torch.equal(model(y).codes, model(y).codes)


def test_event_support_and_topk_hold_codes_at_zero() -> None:
    y = activity_of("gaussian", torch.Generator().manual_seed(0))
    support = torch.rand(3, FACTORS, TIME - TAPS + 1, generator=torch.Generator()) > 0.5
    assert (model_of(n_iterations=50)(y, event_support=support).codes[:, 0][~support] == 0).all()
    kept = model_of(n_iterations=50, topk=3)(y).codes
    assert ((kept != 0).sum(-1) <= 3).all()
    assert (kept != 0).any()
    kept.sum().backward()


def test_a_batch_equals_its_trials_and_numpy_equals_torch() -> None:
    y = activity_of("binomial", torch.Generator().manual_seed(0))
    model = model_of("binomial", n_iterations=40)
    whole = model(y.numpy()).codes
    for trial in range(len(y)):
        alone = model(y[trial : trial + 1]).codes
        # Newton's steps for the baseline end within 1e-6 of each other.
        torch.testing.assert_close(whole[trial : trial + 1], alone, atol=1e-5, rtol=0)


def test_neurons_with_kernels_of_their_own_are_models_of_their_own() -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(4, 2, TIME, generator=generator, dtype=torch.float64)
    model = DUNLModel(
        2, FACTORS, kernel_length=TAPS, share_kernels=False, n_iterations=60, generator=generator
    ).double()
    both = model(y)
    for neuron in range(2):
        one = DUNLModel(1, FACTORS, kernel_length=TAPS, n_iterations=60).double()
        one.weight.data.copy_(model.weight.data[neuron])
        torch.testing.assert_close(
            both.codes[:, neuron], one(y[:, neuron : neuron + 1]).codes[:, 0]
        )


@pytest.mark.parametrize("distribution", ["binomial", "poisson"])
def test_a_trial_without_spikes_takes_half_a_count(distribution: str) -> None:
    model = model_of(distribution, n_iterations=5)
    found = model(torch.zeros(1, 1, TIME, dtype=torch.float64))
    assert found.rate.sum().item() == pytest.approx(0.5, rel=1e-6)
    assert (found.codes == 0).all()


def test_a_given_baseline_is_used_as_it_is() -> None:
    y = activity_of("poisson", torch.Generator().manual_seed(0))
    found = model_of("poisson", baseline=math.log(3.0), n_iterations=5, sparsity=1e6)(y)
    assert (found.codes == 0).all()
    torch.testing.assert_close(found.rate, torch.full_like(y, 3.0))


def planted(
    n_trials: int, n_time: int, n_events: int, amplitude: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Two kernels with an onset, events apart from each other within a factor, and their drive."""
    t = torch.arange(16.0)
    kernels = torch.stack([
        torch.exp(-t / 6), torch.cos(2 * torch.pi * t / 11) * torch.exp(-t / 14)
    ])  # fmt: skip
    kernels = kernels / kernels.norm(dim=-1, keepdim=True)
    codes = torch.zeros(n_trials, 1, 2, n_time - 15)
    slots = (n_time - 16) // 20
    for trial, k in itertools.product(range(n_trials), range(2)):
        at = 20 * torch.randperm(slots, generator=generator)[:n_events]
        at = at + torch.randint(0, 4, (n_events,), generator=generator)
        size = 1 + 0.3 * torch.rand(n_events, generator=generator)
        codes[trial, 0, k, at] = amplitude * size
    return kernels, codes, Convolution(kernels[None], n_time).synthesize(codes)


def order_of(found: Tensor, kernels: Tensor) -> list[int]:
    alike = found @ kernels.T
    return [0, 1] if alike.trace() > alike.flip(0).trace() else [1, 0]


@pytest.mark.slow  # 8 epochs over 100 trials
def test_planted_kernels_and_events_are_found_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    kernels, codes, drive = planted(100, 250, 3, 1.0, generator)
    sigma = float(drive.std()) / 10**0.5  # 10 dB
    y = drive + sigma * torch.randn(drive.shape, generator=generator) + 0.5
    model = DUNLModel(1, 2, sparsity=2 * sigma, n_iterations=40, generator=generator)
    fitted = model.fit(y, n_epochs=8, n_restarts=2, generator=generator)
    order = order_of(fitted.kernels, kernels)
    alike = (fitted.kernels[order] * kernels).sum(-1)
    assert (alike >= 0.99).all()
    assert fitted.warnings == ()
    events = model.events(model(y).codes.detach(), 0.4)
    hit = torch.zeros_like(codes)
    hit[events.trial, events.neuron, events.factor, events.time] = 1
    hit = hit[:, :, order].flatten(0, 1)
    true = (codes > 0).float().flatten(0, 1)
    wide_hit, wide_true = (torch.nn.functional.max_pool1d(z, 3, 1, 1) for z in (hit, true))
    precision = (hit * wide_true).sum() / hit.sum()
    recall = (true * wide_hit).sum() / true.sum()
    assert 2 * precision * recall / (precision + recall) >= 0.95


@pytest.mark.slow  # 400 trials of spikes
@pytest.mark.parametrize("distribution", ["poisson", "binomial"])
def test_planted_kernels_are_found_in_spikes_at_known_events(distribution: str) -> None:
    generator = torch.Generator().manual_seed(0)
    kernels, codes, drive = planted(400, 100, 3, 3.0, generator)
    eta = drive + math.log(8 * 0.025)  # 8 Hz in bins of 25 ms
    spikes = (
        torch.poisson(eta.exp(), generator=generator)
        if distribution == "poisson"
        else (torch.rand(eta.shape, generator=generator) < eta.sigmoid()).float()
    )
    model = DUNLModel(
        1, 2, sparsity=0.05, distribution=distribution, n_iterations=15, generator=generator
    )
    fitted = model.fit(
        spikes, event_support=(codes > 0)[:, 0], n_epochs=4, lr=0.05, batch_size=100,
        generator=generator,
    )  # fmt: skip
    assert ((fitted.kernels * kernels).sum(-1) >= 0.9).all()


def test_what_to_beware_of_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    _, _, drive = planted(20, 120, 3, 1.0, generator)
    y = drive + 0.05 * torch.randn(drive.shape, generator=generator)
    model = DUNLModel(1, 3, sparsity=1e-4, n_iterations=60, generator=generator)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = model.fit(y, n_epochs=2, val_fraction=0.0, generator=generator)
    assert any("codes fit noise; raise sparsity" in note for note in fitted.warnings)
    assert [str(w.message) for w in caught] == list(fitted.warnings)
    assert fitted.to_dict()["best"] == 0
    model.weight.data[1] = model.weight.data[0].roll(1)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        alike = model.fit(
            y, n_epochs=1, lr=1e-9, event_support=torch.ones(20, 3, 105, dtype=torch.bool),
            generator=generator,
        )  # fmt: skip
    assert any("alike up to a shift" in note for note in alike.warnings)


def test_fits_repeat_and_random_starts_stay_of_one_sign_where_asked() -> None:
    y = torch.randn(6, 2, 40, generator=torch.Generator().manual_seed(0))
    kernels = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        model = DUNLModel(
            2, 2, kernel_length=5, share_kernels=False, nonneg_kernels=True, smoothness=0.1,
            sparsity=2.0, n_iterations=20, generator=generator,
        )  # fmt: skip
        for init in ("random", "data"):
            fitted = model.fit(y, n_epochs=2, n_restarts=2, init=init, generator=generator)
        kernels.append(fitted.kernels)
    assert torch.equal(*kernels)
    assert kernels[0].shape == (2, 2, 5)
    assert (kernels[0] >= 0).all()
    torch.testing.assert_close(kernels[0].norm(dim=-1), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_factors": 0}, "n_factors must be at least 1, got 0"),
        ({"topk": 0}, "topk must be at least 1, got 0"),
        ({"smoothness": -1.0}, "smoothness must be at least 0"),
        ({"sparsity": torch.ones(3)}, "sparsity must be one number >= 0 or one of each of the 20"),
        ({"distribution": "gamma"}, "distribution must be one of 'gaussian', 'binomial'"),
        ({"backward": "magic"}, "backward must be one of 'implicit'"),
        ({"baseline": "mean"}, "baseline must be one of 'estimate'"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DUNLModel(1, **settings)


def test_wrong_activity_is_refused_in_words() -> None:
    model = DUNLModel(2, 1, kernel_length=5)
    with pytest.raises(ValueError, match=r"activity must be \(batch, 2 neurons, time\)"):
        model(torch.zeros(1, 3, 9))
    with pytest.raises(ValueError, match="time >= 5"):
        model(torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got values from 2 to 2"):
        DUNLModel(2, 1, kernel_length=5, distribution="binomial")(torch.full((1, 2, 9), 2.0))
    with pytest.raises(ValueError, match="event_support must be boolean of shape"):
        model(torch.zeros(1, 2, 9), event_support=torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match=r"step_size must be above 0 and at most 1 / L = "):
        DUNLModel(2, 1, kernel_length=5, step_size=10.0)(torch.zeros(1, 2, 9))
    with pytest.raises(ValueError, match="val_fraction must leave a trial"):
        model.fit(torch.zeros(1, 2, 9), val_fraction=0.9)
    with pytest.raises(ValueError, match="n_epochs must be at least 1"):
        model.fit(torch.zeros(4, 2, 9), n_epochs=0)
    with pytest.raises(ValueError, match="init must be one of 'data', 'random'"):
        model.fit(torch.zeros(4, 2, 9), init="zeros")


def test_a_step_within_the_bound_reaches_the_same_codes() -> None:
    y = activity_of("gaussian", torch.Generator().manual_seed(0))
    free = model_of()
    bound = 1 / float(lipschitz(free.extract_factors()[None], TIME))
    torch.testing.assert_close(
        model_of(step_size=0.9 * bound)(y).codes, free(y).codes, atol=1e-6, rtol=0
    )


def test_events_are_local_maxima_above_the_threshold() -> None:
    codes = torch.tensor([[[[0.0, 2.0, 2.0, 0.1, 1.0]]]])
    events = DUNLModel(1, 1, kernel_length=2).events(codes, 0.5)
    assert events.time.tolist() == [1, 4]
    assert events.to_dict()["amplitude"].tolist() == [2.0, 1.0]
