"""Granger causality: closed forms, the peer in dynamics, drift, copies, a null."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are
from torch import Tensor

from neuros_mechint import dynamics
from neuros_mechint.multiscale import GrangerCausality, interarea_coupling
from neuros_mechint.multiscale._var import PairModels, spectral_causality, time_causality

MEASURES = [GrangerCausality(2), GrangerCausality(2, "spectral", sampling_rate=100.0, n_freqs=33)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simulated(matrix: list[list[float]], n: int, seed: int = 0) -> Tensor:
    """x(t) = A x(t - 1) + noise of variance 1, (channels, time)."""
    a = np.array(matrix)
    x = noise(n, len(a), seed=seed).numpy()
    for t in range(1, n):
        x[t] += a @ x[t - 1]
    return torch.from_numpy(x.T.copy())


def model(matrix: list[list[float]], cross: float = 0.0) -> PairModels:
    a = torch.tensor(matrix, dtype=torch.float64)
    sigma = torch.tensor([[1.0, cross], [cross, 1.0]], dtype=torch.float64)
    return PairModels(a.reshape(1, 1, 2, 2), sigma[None])


def riccati(matrix: list[list[float]], cross: float, to: int) -> float:
    """Log innovation variance of one channel of a VAR(1), from its Riccati equation."""
    a, q = np.array(matrix), np.array([[1.0, cross], [cross, 1.0]])
    c = a[to : to + 1]
    p = solve_discrete_are(a.T, c.T, q, q[to : to + 1, to : to + 1], s=q[:, to : to + 1])
    return math.log((c @ p @ c.T).item() + q[to, to])


@pytest.mark.parametrize(("a", "c"), [(0.0, 1.0), (0.6, 0.5), (-0.9, 0.2)])
def test_a_white_source_adds_the_logarithm_of_its_share(a: float, c: float) -> None:
    # y - a y(-1) = c x(-1) + e is white noise of variance 1 + c^2.
    found = time_causality(model([[0.0, 0.0], [c, a]]))[0]
    assert found[1] == pytest.approx(math.log(1 + c**2), abs=1e-12)
    assert found[0] == pytest.approx(0.0, abs=1e-12)


def test_a_source_with_memory_adds_what_the_factor_of_its_moving_average_says() -> None:
    # y - a y(-1) = c x(-1) + e with x an AR(1) of b: (1 - b L)(y - a y(-1)) is an MA(1) of
    # variance 1 + c^2 + b^2 and first covariance -b, whose innovation is the larger root.
    a, b, c = 0.5, 0.8, 0.7
    first, second = 1 + c**2 + b**2, -b
    innovation = (first + math.sqrt(first**2 - 4 * second**2)) / 2
    found = time_causality(model([[b, 0.0], [c, a]]))[0, 1]
    assert found == pytest.approx(math.log(innovation), abs=1e-10)


@pytest.mark.parametrize("cross", [0.0, 0.4])
@pytest.mark.parametrize("matrix", [[[0.5, 0.3], [-0.4, 0.7]], [[0.98, 0.0], [0.1, 0.9]]])
def test_time_is_the_riccati_equation_and_the_mean_of_the_spectrum(
    matrix: list[list[float]], cross: float
) -> None:
    found = time_causality(model(matrix, cross))[0]
    expected = [riccati(matrix, cross, to) for to in (0, 1)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    turn = torch.linspace(0, torch.pi, 257, dtype=torch.float64)
    spectrum = spectral_causality(model(matrix, cross), turn)[0]
    assert bool((spectrum >= 0).all())
    mean = torch.trapezoid(spectrum, turn) / torch.pi
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-3)


def test_the_spectrum_of_a_known_model_is_that_of_geweke() -> None:
    a, b, c = 0.5, 0.8, 0.7
    turn = torch.linspace(0, torch.pi, 9, dtype=torch.float64)
    found = spectral_causality(model([[b, 0.0], [c, a]]), turn)[0, 1].numpy()
    wave = np.exp(-1j * turn.numpy())
    inner = 1 / abs(1 - a * wave) ** 2
    outer = abs(c * wave / ((1 - a * wave) * (1 - b * wave))) ** 2
    np.testing.assert_allclose(found, np.log((inner + outer) / inner), atol=1e-12)


def test_a_fit_finds_the_model_and_its_direction() -> None:
    x = simulated([[0.8, 0.0], [0.7, 0.5]], 20_000)
    found = GrangerCausality(1).compute(x)
    first, second = 1 + 0.49 + 0.64, -0.8
    expected = math.log((first + math.sqrt(first**2 - 4 * second**2)) / 2)
    # Deviation of the estimate is about 2 sqrt(F / N) = 0.01; five of them.
    assert found.values[1, 0] == pytest.approx(expected, abs=0.05)
    # Under the null N F is chi-squared of 1 degree: beyond 24 with probability 1e-6.
    assert 0 <= found.values[0, 1] < 24 / 20_000
    assert found.freqs is None
    spectral = GrangerCausality(1, "spectral", sampling_rate=200.0).compute(x)
    assert spectral.freqs is not None
    assert spectral.freqs[[0, -1]].tolist() == [0.0, 100.0]
    mean = torch.trapezoid(spectral.values, spectral.freqs, dim=-1) / 100
    torch.testing.assert_close(mean, found.values, atol=1e-3, rtol=0)


def test_two_regressions_of_a_long_past_agree() -> None:
    x = simulated([[0.8, 0.0], [0.4, 0.5]], 20_000)
    long = 2 * dynamics.TransferEntropy(history=20).compute(x[0], x[1])
    # The regressions have 19 more coefficients, each worth about 1 / N.
    assert GrangerCausality(1).compute(x).values[1, 0] == pytest.approx(float(long), abs=3e-3)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_batch_a_scale_and_a_permutation_change_nothing(measure) -> None:
    x = noise(2, 4, 200)
    scale = torch.tensor([1.0, -3.0, 1e3, 1e-3], dtype=torch.float64)[:, None]
    found = measure.compute(x).values
    torch.testing.assert_close(torch.stack([measure.compute(v.numpy()).values for v in x]), found)
    torch.testing.assert_close(measure.compute(x * scale + 5).values, found)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(measure.compute(x[:, order]).values, found[:, order][:, :, order])


def test_pairs_are_fitted_without_the_others() -> None:
    x = noise(5, 300)
    pair = GrangerCausality(3).compute(x[[1, 4]]).values
    torch.testing.assert_close(
        GrangerCausality(3).compute(x).values[[1, 4]][:, [1, 4]], pair, atol=1e-12, rtol=1e-9
    )


def test_epochs_are_pooled_and_no_past_crosses_their_border() -> None:
    x = simulated([[0.8, 0.0], [0.7, 0.5]], 3000)
    epochs = x.unflatten(-1, (30, 100)).movedim(1, 0)
    shuffled = epochs[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    measure = GrangerCausality(2, epochs=True)
    found = measure.compute(epochs).values
    torch.testing.assert_close(measure.compute(shuffled).values, found)
    # Each epoch loses its mean, a bias of the coefficients of about (1 + 3 a) / 100.
    whole = GrangerCausality(2).compute(x).values
    torch.testing.assert_close(found, whole, atol=0.05, rtol=0)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_copies_drive_nothing_and_a_known_future_is_finite(measure) -> None:
    x = noise(1, 400)
    copies = torch.cat([x, 3 * x + 100])
    assert float(measure.compute(copies).values.abs().max()) < 1e-12
    delayed = torch.cat([x, x.roll(1)])
    found = measure.compute(delayed).values
    assert bool(torch.isfinite(found).all())
    assert float(found[1, 0].mean()) > 10


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_constant_channel_drives_none_and_warns(measure) -> None:
    x = noise(3, 200)
    x[1] = 0.1
    with pytest.warns(UserWarning, match=r"1 channel\(s\) are constant"):
        found = measure.compute(x, surrogates=2)
    assert not found.values[1].any()
    assert not found.values[:, 1].any()
    assert bool(torch.isfinite(found.values).all())
    assert bool((found.p_values[1] == 1).all())
    assert not measure.compute(noise(1, 50)).values.any()


def test_an_explosion_warns_and_is_not_nan() -> None:
    x = noise(2, 60).cumsum(-1) + 1.2 ** torch.arange(60)
    with pytest.warns(RuntimeWarning, match="not stable"):
        found = GrangerCausality(1).compute(x).values
    assert bool(torch.isfinite(found).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GrangerCausality(1).compute(noise(2, 60))


def test_surrogates_raise_a_false_alarm_as_often_as_they_say() -> None:
    # 100 batches of two independent AR(1): 200 directions. At p <= 0.1 (19 draws, 2 of 20) a count
    # of 45 or more has probability 1e-6 if p-values are uniform (binomial, n = 200).
    x = noise(100, 2, 150)
    for t in range(1, 150):
        x[..., t] += 0.6 * x[..., t - 1]
    p = GrangerCausality(2).compute(x, surrogates=19).p_values
    alarms = int((torch.stack([p[:, 0, 1], p[:, 1, 0]]) <= 0.1).sum())
    assert 2 <= alarms < 45
    assert bool((p.diagonal(dim1=-2, dim2=-1) == 1).all())


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_surrogates_find_a_drive(measure) -> None:
    x = simulated([[0.5, 0.0], [0.6, 0.5]], 300).float()
    found = measure.compute(x, surrogates=49)
    assert float(found.p_values[1, 0].max()) == pytest.approx(0.02)
    assert found.values.dtype == found.p_values.dtype == torch.float32
    again = measure.compute(x, surrogates=49, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.p_values, found.p_values)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_gradients_are_those_of_differences(measure) -> None:
    x = noise(2, 16).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: measure.compute(v).values.sum(), x, atol=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match=r"domain must be one of|Type-check"):
        GrangerCausality(1, "frequency")
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        GrangerCausality(0)
    with pytest.raises(ValueError, match="sampling_rate must be positive and finite, got 0"):
        GrangerCausality(1, sampling_rate=0)
    with pytest.raises(ValueError, match="n_freqs must be at least 2, got 1"):
        GrangerCausality(1, n_freqs=1)
    with pytest.raises(ValueError, match="more than 8 predicted samples for order = 3, got 7"):
        GrangerCausality(3).compute(noise(2, 10))
    with pytest.raises(ValueError, match="surrogates must be at least 0, got -1"):
        GrangerCausality(1).compute(noise(2, 30), surrogates=-1)
    with pytest.raises(ValueError, match="time >= 3"):
        GrangerCausality(2).compute(noise(2, 2))


def test_the_names_of_the_path_for_areas_are_the_same_things() -> None:
    from neuros_mechint import multiscale

    names = interarea_coupling.__all__
    assert all(getattr(interarea_coupling, n) is getattr(multiscale, n) for n in names)
