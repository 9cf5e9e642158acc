"""Field potentials: kernels by their formulas, direct convolution, gradients, errors."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from neuros_mechint.multiscale import LFPGenerator


def impulse(n: int) -> Tensor:
    spikes = torch.zeros(n, dtype=torch.float64)
    spikes[0] = 1.0
    return spikes


def trains(*shape: int, seed: int = 0) -> Tensor:
    draws = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (draws < 0.1).double()


def cortex(n_units: int, n_electrodes: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    units = torch.rand(n_units, 3, generator=generator, dtype=torch.float64)
    electrodes = torch.rand(n_electrodes, 3, generator=generator, dtype=torch.float64)
    return {
        "unit_positions": units,
        "electrode_positions": electrodes,
        "excitatory": torch.arange(n_units) % 4 != 3,
    }


def formula(kind: str, t: np.ndarray, tau: float, rise: float) -> np.ndarray:
    if kind == "exponential":
        return np.exp(-t / tau)
    if kind == "alpha":
        return t / tau * np.exp(1 - t / tau)

    def shape(s: float) -> float:
        return np.exp(-s / tau) - np.exp(-s / rise)

    peak = -minimize_scalar(
        lambda s: -shape(s), bounds=(0, 5 * tau), method="bounded", options={"xatol": 1e-10}
    ).fun
    return shape(t) / peak


@pytest.mark.parametrize("kind", ["exponential", "alpha", "biexponential"])
def test_one_spike_gives_the_kernel(kind: str) -> None:
    rise = 2.5 if kind == "biexponential" else None
    found = LFPGenerator(kind, tau=8.0, tau_rise=rise).generate(impulse(200), sampling_rate=2000.0)
    expected = formula(kind, 0.5 * np.arange(200), 8.0, 2.5)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["exponential", "alpha", "biexponential"])
def test_an_area_is_one_in_milliseconds(kind: str) -> None:
    rise = {"exponential": 8.0, "alpha": 8.0, "biexponential": 1.6}[kind]
    peak, area = (
        LFPGenerator(kind, tau=8.0, normalize=norm).generate(impulse(100))
        for norm in ("peak", "area")
    )
    nodes, weights = np.polynomial.legendre.leggauss(80)
    integral = float(150 * weights @ formula(kind, 150 * (nodes + 1), 8.0, rise))
    # What is left beyond 300 ms is e^-37.
    torch.testing.assert_close(area * integral, peak, rtol=1e-8, atol=1e-12)


def test_a_long_train_is_its_direct_convolution() -> None:
    spikes = trains(3, 2000)
    mixing = torch.tensor([[1.0, -0.5, 2.0], [0.0, 1.0, 0.3]], dtype=torch.float64)
    found = LFPGenerator("biexponential", tau=20.0, tau_rise=2.0, weights=mixing).generate(spikes)
    kernel = LFPGenerator("biexponential", tau=20.0, tau_rise=2.0).generate(impulse(2000)).numpy()
    direct = np.stack([np.convolve(x, kernel)[:2000] for x in (mixing @ spikes).numpy()])
    np.testing.assert_allclose(found.numpy(), direct, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("n_times", "rate"), [(1, 1000.0), (30, 1000.0), (700, 1000.0), (900, 2e3)]
)
def test_the_cortical_kernel_is_its_direct_sum(n_times: int, rate: float) -> None:
    places = cortex(5, 3)
    spikes = trains(5, n_times)
    found = LFPGenerator("realistic", **places).generate(spikes, sampling_rate=rate)
    t = 1000 / rate * np.arange(n_times)
    away = np.linalg.norm(
        places["electrode_positions"].numpy()[:, None] - places["unit_positions"].numpy(), axis=-1
    )
    width = np.where(places["excitatory"], 3.15, 2.1)[:, None]
    size = np.where(places["excitatory"], 0.48, 3.0)
    expected = np.zeros((3, n_times))
    for k in range(3):
        late = (t - 10.4 - away[k][:, None] / 0.2) / width
        kernel = (size * np.exp(-away[k] / 0.2))[:, None] * np.exp(-0.5 * late**2)
        for unit in range(5):
            expected[k] += np.convolve(spikes[unit].numpy(), kernel[unit])[:n_times]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)


def test_positions_weigh_the_simple_kernels_by_distance() -> None:
    places = cortex(4, 2)
    del places["excitatory"]
    spikes = trains(4, 60)
    away = torch.cdist(places["electrode_positions"], places["unit_positions"])
    mixed = LFPGenerator("alpha", weights=(-away / 0.2).exp()).generate(spikes)
    torch.testing.assert_close(LFPGenerator("alpha", **places).generate(spikes), mixed)


def test_nothing_happens_before_the_spike() -> None:
    spikes = torch.zeros(1, 100, dtype=torch.float64)
    spikes[0, 40] = 1.0
    at_once = LFPGenerator().generate(spikes)
    assert at_once[0, :40].abs().max() < 1e-15
    assert at_once[0, 40] == pytest.approx(1.0, abs=1e-14)
    cortical = LFPGenerator("realistic", **cortex(1, 1)).generate(spikes)
    assert cortical[0, :40].abs().max() < 1e-15


@pytest.mark.parametrize("kind", ["exponential", "realistic"])
def test_a_batch_is_a_loop(kind: str) -> None:
    places = cortex(4, 2)
    if kind == "exponential":
        del places["excitatory"]
    generator = LFPGenerator(kind, **places)
    spikes = trains(2, 3, 4, 120)
    together = generator(spikes)
    assert together.shape == (2, 3, 2, 120)
    alone = torch.stack([torch.stack([generator(x) for x in row]) for row in spikes])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["exponential", "biexponential", "realistic"])
def test_spikes_have_a_gradient(kind: str) -> None:
    places = cortex(3, 2) if kind == "realistic" else {}
    generator = LFPGenerator(kind, **places)
    spikes = torch.rand(3, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(generator, (spikes.requires_grad_(),), atol=1e-8)


def test_weights_are_learnt_when_they_are_a_parameter() -> None:
    weights = nn.Parameter(torch.ones(2, 3))
    generator = LFPGenerator(weights=weights)
    assert next(iter(generator.parameters())) is weights
    generator.generate(torch.ones(3, 20)).sum().backward()
    assert bool((weights.grad != 0).all())


def test_dtype_and_arrays_are_kept() -> None:
    spikes = trains(2, 50)
    exact = LFPGenerator().generate(spikes)
    half = LFPGenerator().generate(spikes.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), exact, rtol=1e-3, atol=1e-3)
    assert LFPGenerator().generate(spikes.float()).dtype == torch.float32
    assert torch.equal(LFPGenerator().generate(spikes.numpy()), exact)
    flat = LFPGenerator().generate(spikes[0])
    assert flat.shape == (50,)
    torch.testing.assert_close(flat, exact[0])


def test_the_constructor_names_bad_arguments() -> None:
    places, eye = cortex(3, 2), torch.eye(3)
    only_positions = {k: places[k] for k in ("unit_positions", "electrode_positions")}
    cases: list[tuple[dict[str, object], str]] = [
        ({"tau": 0.0}, "tau must be positive and finite, in ms, got 0"),
        ({"tau_rise": 1.0}, "tau_rise belongs to kernel_type 'biexponential', got 'exponential'"),
        ({"kernel_type": "biexponential", "tau_rise": 11.0}, "at most tau = 10 ms, got 11"),
        ({"weights": torch.ones(3)}, r"weights must be \(channels, units\), got shape \(3,\)"),
        ({"weights": eye * math.nan}, "weights holds NaN or inf"),
        ({"unit_positions": eye}, "come together; give both"),
        ({"unit_positions": torch.ones(3, 2)}, r"unit_positions must be \(units, 3\)"),
        ({**only_positions, "weights": eye}, "give weights or positions, not both"),
        ({"excitatory": torch.ones(3) > 0}, "excitatory belongs to kernel_type 'realistic'"),
        ({"kernel_type": "realistic"}, "'realistic' needs unit_positions, electrode_positions"),
        (
            {"kernel_type": "realistic", **only_positions, "excitatory": torch.ones(2) > 0},
            r"excitatory must be \(units,\) = \(3,\), got \(2,\)",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            LFPGenerator(**arguments)
    with pytest.raises(TypeError, match="excitatory must be a boolean tensor or array, got torch"):
        LFPGenerator("realistic", **only_positions, excitatory=torch.ones(3))
    with pytest.raises(TypeError, match="weights must be a floating tensor or array, got torch"):
        LFPGenerator(weights=torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises((ValueError, TypeError), match=r"kernel_type must be one of|Type-check"):
        LFPGenerator("gamma")


def test_bad_calls_are_named() -> None:
    generator = LFPGenerator(weights=np.ones((2, 3)))
    with pytest.raises(TypeError, match="spike_trains must be a floating tensor or array, got"):
        generator.generate(torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="spike_trains has 4 units, but the generator is made for"):
        generator.generate(torch.ones(4, 5))
    with pytest.raises(ValueError, match="sampling_rate must be positive and finite, in Hz, got 0"):
        generator.generate(torch.ones(3, 5), 0.0)
    with pytest.raises(
        TypeError, match=r"spike_trains must be a floating tensor or array, got list|Type-check"
    ):
        LFPGenerator().generate([1.0])
    placed = LFPGenerator("realistic", **cortex(3, 2))
    placed.unit_positions = None
    with pytest.raises(ValueError, match="a distance needs unit_positions and electrode_positions"):
        placed.generate(torch.ones(3, 5))
    with pytest.raises(ValueError, match="time >= 1"):
        generator.generate(torch.ones(3, 0))
    with pytest.raises(ValueError, match="spike_trains holds NaN or inf"):
        generator.generate(torch.full((3, 5), math.inf))


def test_repr_says_what_matters() -> None:
    shown = repr(LFPGenerator("biexponential", tau=5.0, weights=torch.ones(2, 3)))
    assert shown == (
        "LFPGenerator('biexponential', tau=5, normalize='peak', tau_rise=1, weights=(2, 3))"
    )
    assert repr(LFPGenerator("realistic", **cortex(3, 2))) == (
        "LFPGenerator('realistic', unit_positions=(3, 3), electrode_positions=(2, 3))"
    )
