import math

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.circuits.recurrent_dynamics import RecurrentDynamicsAnalyzer
from neuros_mechint.dynamics.lyapunov import LyapunovSpectrum


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_bistable_unit_divides_its_starts() -> None:
    analyzer = RecurrentDynamicsAnalyzer(lambda h, _u: (2 * h).tanh(), n_states=1)
    found = analyzer.fixed_points(torch.tensor([-1.0, -0.9, -0.5, 0.0, 1.0]).unsqueeze(-1))
    summary = analyzer.attractor_summary()
    assert summary.counts == {0: 2, 1: 1}
    assert summary.basins.tolist() == [0.6, 0.0, 0.2]
    torch.testing.assert_close(summary.time_constants, -1 / found.eigenvalues.abs().log())
    assert not summary.line_attractor
    assert set(summary.to_dict()) == set(summary._fields)


def test_a_spiral_turns_by_its_angle() -> None:
    a = 2 * math.pi / 12
    A = 0.9 * torch.tensor(
        [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64
    )
    analyzer = RecurrentDynamicsAnalyzer(lambda h, u: h @ A.T + u)
    analyzer.fixed_points(draw(5, 2), torch.zeros(2))
    summary = analyzer.attractor_summary()
    torch.testing.assert_close(
        summary.rotations.abs(), torch.full((1, 2), 1 / 12, dtype=torch.float64)
    )
    torch.testing.assert_close(
        summary.time_constants, torch.full((1, 2), -1 / math.log(0.9), dtype=torch.float64)
    )
    assert summary.basins.tolist() == [1.0]


def test_a_line_of_neutral_points_is_flagged() -> None:
    A = torch.diag(torch.tensor([1.0, 0.5])).double()
    analyzer = RecurrentDynamicsAnalyzer(lambda h, _u: h @ A.T)
    analyzer.fixed_points(torch.stack([torch.linspace(-1, 1, 12), torch.zeros(12)], -1))
    assert analyzer.attractor_summary(n_steps=5).line_attractor


def test_linearizations_are_exact() -> None:
    A, B = draw(3, 3), draw(3, 2)
    analyzer = RecurrentDynamicsAnalyzer(lambda h, u: h @ A.T + u @ B.T)
    found = analyzer.linearize(draw(4, 3), torch.ones(2))
    torch.testing.assert_close(found.A, A.expand(4, 3, 3))
    assert found.B is not None
    torch.testing.assert_close(found.to_dict()["B"], B.expand(4, 3, 2))
    moduli = analyzer.stability(draw(3), torch.ones(2)).abs()
    torch.testing.assert_close(moduli, torch.linalg.eigvals(A).abs().sort(descending=True).values)
    assert RecurrentDynamicsAnalyzer(lambda h, _u: h / 2).linearize(draw(2)).B is None


def test_a_circle_fills_two_directions_and_has_dimension_one() -> None:
    angle = 2 * math.pi * draw(1500).sigmoid()
    plane = torch.stack([angle.cos(), angle.sin()], -1) @ torch.linalg.qr(draw(6, 6)).Q[:2]
    found = RecurrentDynamicsAnalyzer(lambda h, _u: h).dimensionality(plane.reshape(3, 500, 6))
    assert found.participation_ratio == pytest.approx(2, abs=0.3)
    assert (found.pca_90, found.pca_95) == (2, 2)
    assert found.two_nn == pytest.approx(1, abs=0.15)
    assert found.to_dict()["pca_95"] == 2


def test_exponents_are_those_of_the_spectrum() -> None:
    analyzer = RecurrentDynamicsAnalyzer(nn.GRUCell(2, 3))
    settings = {"n_exponents": 2, "n_steps": 40, "burn_in": 5, "qr_every": 2, "dt": 0.5}
    mine = analyzer.lyapunov(draw(2, 3), torch.ones(2), **settings)
    theirs = LyapunovSpectrum(**settings).compute(analyzer.step, draw(2, 3), torch.ones(2))
    assert torch.equal(mine.exponents, theirs.exponents)


def test_settings_reach_the_finder() -> None:
    analyzer = RecurrentDynamicsAnalyzer(lambda h, _u: (2 * h).tanh())
    starts = torch.linspace(-1, 1, 11).double().unsqueeze(-1)
    assert len(analyzer.fixed_points(starts).points) == 3
    # All so near that they are one point, two too far from the starts, none there in one step.
    assert len(analyzer.fixed_points(starts, tol_unique=10.0, chunk=2).points) == 1
    assert len(analyzer.fixed_points(starts, max_distance=0.5).points) == 1
    assert len(analyzer.fixed_points(starts, max_iterations=1).points) == 0
    found = analyzer.fixed_points(starts, method="adam", tol_q=1e-8)
    assert float(found.q.max()) > 0
    with pytest.raises(ValueError, match="max_iterations and chunk must be at least 1"):
        analyzer.fixed_points(starts, max_iterations=0)


def test_bad_calls_are_refused() -> None:
    analyzer = RecurrentDynamicsAnalyzer(nn.GRUCell(2, 3))
    with pytest.raises(ValueError, match="no fixed points yet"):
        analyzer.attractor_summary()
    with pytest.raises(ValueError, match="point must end in 3 states"):
        analyzer.linearize(draw(2))
    with pytest.raises(ValueError, match="do not move"):
        analyzer.dimensionality(torch.ones(5, 3))
    analyzer.fixed_points(draw(2, 3))
    with pytest.raises(ValueError, match="n_steps must be"):
        analyzer.attractor_summary(n_steps=0)


def test_the_model_is_untouched() -> None:
    model = nn.GRU(2, 3).train()
    model.bias_hh_l0.requires_grad_(requires_grad=False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    identities = [id(p) for p in model.parameters()]
    analyzer = RecurrentDynamicsAnalyzer(model)
    found = analyzer.fixed_points(draw(6, 3), torch.ones(2))
    analyzer.attractor_summary(n_steps=5)
    analyzer.stability(found.points, torch.ones(2))
    analyzer.lyapunov(draw(3), n_steps=20, burn_in=2)
    for call in (analyzer.fixed_points, analyzer.linearize, analyzer.stability, analyzer.lyapunov):
        with pytest.raises(RuntimeError):
            call(draw(4, 3), torch.ones(5))
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [id(p) for p in model.parameters()] == identities
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
