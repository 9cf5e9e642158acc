import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.dynamics.lyapunov import LyapunovSpectrum


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def henon(h: Tensor, _u: Tensor | None) -> Tensor:
    x, y = h.unbind(-1)
    return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], -1)


def test_henon_has_its_exponents_and_every_orbit_its_sum() -> None:
    found = LyapunovSpectrum(n_steps=500, burn_in=100).compute(henon, 0.1 * draw(64, 2).tanh())
    mean = found.exponents.mean(0)
    error = 3 * found.exponents.std(0) / 8
    assert bool(((mean - torch.tensor([0.41922, -1.62319])).abs() < error + 1e-3).all())
    exact = torch.full((64,), math.log(0.3), dtype=torch.float64)
    torch.testing.assert_close(found.sum, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.convergence[:, -1], found.exponents)
    torch.testing.assert_close(found.ks_entropy, found.exponents[:, 0])


def test_a_linear_map_has_the_logarithms_of_its_moduli() -> None:
    V, moduli = draw(3, 3), torch.tensor([1.5, 0.8, -0.3]).double()
    A = V @ torch.diag(moduli) @ torch.linalg.inv(V)
    spectrum = LyapunovSpectrum(n_steps=200, burn_in=100, qr_every=2)
    found = spectrum.compute(lambda h, _u: h @ A.T, torch.zeros(3))
    torch.testing.assert_close(found.exponents, moduli.abs().log(), rtol=0, atol=1e-6)
    two = LyapunovSpectrum(n_exponents=2, n_steps=200, burn_in=100)
    found = two.compute(lambda h, _u: h @ A.T, torch.zeros(4, 3))
    torch.testing.assert_close(
        found.exponents, moduli.abs().log()[:2].expand(4, 2), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("n", [3, 8])
def test_an_orthogonal_map_has_none(n: int) -> None:
    Q = torch.linalg.qr(draw(n, n)).Q
    found = LyapunovSpectrum(n_steps=50, burn_in=0).compute(lambda h, _u: h @ Q.T, draw(n))
    assert float(found.exponents.abs().max()) < 1e-10


def test_a_quiet_network_only_contracts() -> None:
    W = 0.5 * draw(20, 20) / 20**0.5
    found = LyapunovSpectrum(n_steps=100, burn_in=50).compute(
        lambda h, _u: (h @ W.T).tanh(), draw(20)
    )
    assert float(found.exponents.max()) < 0
    assert float(found.kaplan_yorke_dim) == 0


def test_the_logistic_map_parts_by_ln_2() -> None:
    found = LyapunovSpectrum(n_steps=500, burn_in=50).compute(
        lambda h, _u: 4 * h * (1 - h), torch.linspace(0.11, 0.91, 64).double().unsqueeze(-1)
    )
    assert float(found.exponents.mean()) == pytest.approx(math.log(2), abs=0.01)


# h and x h in, (10 (y - x), x (28 - z) - y, x y - 8/3 z) out: one product per stage.
LORENZ = torch.tensor(
    [[-10, 28, 0], [10, -1, 0], [0, 0, -8 / 3], [0, 0, 0], [0, 0, 1], [0, -1, 0]],
    dtype=torch.float64,
)


def lorenz(h: Tensor, _u: Tensor | None) -> Tensor:
    def flow(h: Tensor) -> Tensor:
        return torch.cat([h, h[..., :1] * h], -1) @ LORENZ

    dt = 0.02
    a = flow(h)
    b = flow(torch.add(h, a, alpha=dt / 2))
    c = flow(torch.add(h, b, alpha=dt / 2))
    d = flow(torch.add(h, c, alpha=dt))
    return torch.add(h, torch.add(a + d, b + c, alpha=2), alpha=dt / 6)


# Slow: 3000 Runge-Kutta steps of 64 orbits with three tangents each.
@pytest.mark.slow
def test_lorenz_has_its_exponents_and_dimension() -> None:
    start = torch.tensor([1.0, 1.0, 25.0]).double() + draw(64, 3)
    spectrum = LyapunovSpectrum(n_steps=2500, burn_in=500, dt=0.02, qr_every=5)
    found = spectrum.compute(lorenz, start)
    mean, error = found.exponents.mean(0), 3 * found.exponents.std(0) / 8
    gap = (mean - torch.tensor([0.9056, 0.0, -14.5723])).abs()
    assert bool((gap <= error.clamp(min=0.03)).all())
    assert float(found.sum.mean()) == pytest.approx(-13.6667, abs=5e-3)
    assert float(found.kaplan_yorke_dim.mean()) == pytest.approx(2.062, abs=0.01)


def test_the_exponent_of_a_logistic_series_is_ln_2() -> None:
    x = [0.3]
    for _ in range(1500):
        x.append(4 * x[-1] * (1 - x[-1]))
    series = torch.tensor(x, dtype=torch.float64)
    found = LyapunovSpectrum.from_series(series.expand(2, -1), emb_dim=2, fit_range=(0, 4))
    assert found.exponent.tolist() == pytest.approx([math.log(2)] * 2, rel=0.15)
    assert float(found.fit_r2.min()) > 0.9
    assert found.to_dict()["divergence"].shape == (2, 5)


def test_the_curves_of_a_batch_are_those_of_each_series(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(2, 3, 120).cumsum(-1).sin()
    settings = {"emb_dim": 3, "lag": 2, "fit_range": (0, 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = LyapunovSpectrum.from_series(x, **settings)
        each = [LyapunovSpectrum.from_series(row, **settings) for row in x.flatten(0, 1)]
        torch.testing.assert_close(
            whole.divergence.flatten(0, 1), torch.stack([one.divergence for one in each])
        )
        monkeypatch.setattr("neuros_mechint.dynamics._lyapunov_series._CELLS", 120**2 * 4)
        parts = LyapunovSpectrum.from_series(x, **settings)
    torch.testing.assert_close(parts.exponent, whole.exponent)


def test_a_periodic_series_skips_zero_distances_and_warns_of_no_line() -> None:
    series = torch.arange(200).double() % 7 + 1e-3 * draw(200)
    with pytest.warns(UserWarning, match="not a line"):
        found = LyapunovSpectrum.from_series(series, dt=0.5)
    assert bool(torch.isfinite(found.divergence).all())


def test_the_model_is_untouched() -> None:
    model = nn.GRUCell(2, 4).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    LyapunovSpectrum(n_steps=20, burn_in=2).compute(model, draw(3, 4), torch.ones(2))
    with pytest.raises(RuntimeError):
        LyapunovSpectrum(n_steps=20, burn_in=2).compute(model, draw(3, 4), torch.ones(5))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_exponents": 0}, "n_exponents must be"),
        ({"burn_in": -1}, "burn_in at least 0"),
        ({"n_steps": 10}, "at least 20 factorisations"),
        ({"dt": 0.0}, "dt must be above 0"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LyapunovSpectrum(**arguments)


def test_bad_orbits_are_refused() -> None:
    short = LyapunovSpectrum(n_steps=20, burn_in=0, n_exponents=3)
    with pytest.raises(ValueError, match="has only 2 states"):
        short.compute(henon, torch.zeros(2))
    with pytest.raises(ValueError, match="2 states of the step"):
        short.compute(nn.GRUCell(1, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="inputs must be"):
        short.compute(lambda h, u: h, torch.zeros(2, 3), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="leaves the finite numbers"):
        LyapunovSpectrum(n_steps=20, burn_in=0).compute(lambda h, u: h**3, 10 * torch.ones(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"emb_dim": 0}, "emb_dim and lag"),
        ({"fit_range": (3, 3)}, "fit_range must be"),
        ({"dt": 0.0}, "dt must be above 0"),
        ({"theiler": 40}, "x needs at least 90"),
    ],
)
def test_bad_series_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LyapunovSpectrum.from_series(draw(50), **arguments)
