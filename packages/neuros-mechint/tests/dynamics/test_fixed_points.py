import math
from typing import Literal

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from neuros_mechint.dynamics import FixedPointFinder


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bistable() -> tuple[Tensor, Tensor]:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    gains = torch.tensor([2.0, 2, 2, 0.5, 0.5, 0.5, 0.5, 0.5]).double()[order]
    return gains, gains > 1


def test_three_bistable_units_have_27_fixed_points() -> None:
    gains, is_bistable = bistable()
    found = FixedPointFinder(lambda h, _u: (gains * h).tanh()).find(draw(2000, 8))
    assert found.n_unstable.bincount().tolist() == [8, 12, 6, 1]
    assert int(found.is_stable.sum()) == found.kind.count("stable") == 8
    h = brentq(lambda h: h - math.tanh(2 * h), 0.5, 1, xtol=1e-15)
    expected = (h * found.points[:, is_bistable].sign()) * (
        found.points[:, is_bistable].abs() > 0.1
    )
    torch.testing.assert_close(found.points[:, is_bistable], expected, rtol=0, atol=1e-10)
    assert float(found.points[:, ~is_bistable].abs().max()) < 1e-10
    assert float(found.q.median()) <= 1e-25
    assert int(found.n_found_from.sum()) == int(found.converged.sum())


def test_a_linear_map_rests_where_algebra_says() -> None:
    A, b = 0.3 * draw(5, 5), draw(5, seed=1)
    found = FixedPointFinder(lambda h, _u: h @ A.T + b, chunk=2).find(draw(7, 5, seed=2))
    torch.testing.assert_close(found.points, torch.linalg.solve(torch.eye(5) - A, b)[None])
    torch.testing.assert_close(found.jacobians[0], A)
    torch.testing.assert_close(
        found.jacobians.to(torch.complex128) @ found.eigenvectors,
        found.eigenvectors * found.eigenvalues.unsqueeze(-2),
    )
    assert found.to_dict()["n_found_from"].tolist() == [7]


def test_the_order_of_the_starts_changes_nothing() -> None:
    gains, _ = bistable()
    starts = draw(400, 8)
    finder = FixedPointFinder(lambda h, _u: (gains * h).tanh())
    one, other = finder.find(starts), finder.find(starts.flip(0).numpy())
    torch.testing.assert_close(one.points, other.points, rtol=0, atol=1e-12)
    assert one.n_found_from.tolist() == other.n_found_from.tolist()


def test_equal_points_at_different_inputs_stay_apart() -> None:
    inputs = torch.tensor([[0.0], [1.0], [1.0]])
    found = FixedPointFinder(lambda h, u: h / 2 + 0 * u).find(torch.ones(3, 1), inputs)
    assert found.points.shape == (2, 1)
    assert found.inputs is not None
    assert found.inputs[:, 0].tolist() == [0.0, 1.0]
    assert found.n_found_from.tolist() == [1, 2]


def test_input_jacobians_are_exact() -> None:
    B = draw(3, 2)
    found = FixedPointFinder(lambda h, u: h / 2 + u @ B.T).find(draw(4, 3), torch.ones(2))
    torch.testing.assert_close(found.input_jacobians, B[None])


def test_minima_of_the_speed_are_slow_points() -> None:
    found = FixedPointFinder(lambda h, _u: h + h**2 + 1e-3).find(draw(20, 1))
    assert len(found.points) == 0
    assert not found.converged.any()
    torch.testing.assert_close(found.slow_points, torch.zeros(1, 1).double(), rtol=0, atol=1e-4)


def test_kinds_follow_the_moduli() -> None:
    scale = torch.tensor([[0.5, 2.0], [0.5, 0.4], [2.0, 3.0], [0.5, -1.0]]).double()
    for row, kind in zip(scale, ("saddle", "stable", "unstable", "marginal"), strict=True):
        found = FixedPointFinder(lambda h, _u, row=row: row * h).find(draw(5, 2))
        assert found.kind == (kind,)


def test_points_far_from_the_starts_are_left_out() -> None:
    finder = FixedPointFinder(lambda h, _u: h / 2 + 50, max_distance=10)
    starts = torch.linspace(-1, 1, 5).unsqueeze(-1)
    assert len(finder.find(starts).points) == 0
    assert len(finder.find(torch.zeros(2, 1)).points) == 1


def test_adam_finds_what_newton_finds() -> None:
    finder = FixedPointFinder(
        lambda h, _u: (2 * h).tanh(), method="adam", tol_q=1e-12, max_iterations=20
    )
    found = finder.find(torch.tensor([[-0.8], [0.8]]))
    torch.testing.assert_close(
        found.points[:, 0].abs(), torch.tensor([0.9575, 0.9575]).double(), rtol=0, atol=1e-4
    )


# Slow: 600 states, three cycles of GMRES an iteration.
@pytest.mark.slow
def test_a_large_map_is_solved_from_products() -> None:
    W, b = 0.9 * draw(600, 600) / 600**0.5, draw(600, seed=1)
    found = FixedPointFinder(lambda h, _u: (h @ W.T + b).tanh()).find(draw(3, 600, seed=2))
    assert len(found.points) == 1
    torch.testing.assert_close((found.points @ W.T + b).tanh(), found.points, rtol=0, atol=1e-9)


def test_the_logistic_map_has_its_two_cycle() -> None:
    finder = FixedPointFinder(lambda h, _u: 3.2 * h * (1 - h))
    cycles = finder.find_limit_cycles(2, torch.linspace(0.05, 0.95, 30).unsqueeze(-1))
    root = math.sqrt(4.2 * 0.2)
    expected = torch.tensor([[[(4.2 - root) / 6.4], [(4.2 + root) / 6.4]]]).double()
    torch.testing.assert_close(cycles.points, expected, rtol=0, atol=1e-6)
    # The multiplier of the cycle is 4 + 2 r - r^2.
    assert float(cycles.multipliers.real) == pytest.approx(4 + 6.4 - 3.2**2)
    assert cycles.to_dict()["is_stable"].tolist() == [True]
    none = FixedPointFinder(lambda h, _u: h / 2).find_limit_cycles(2, torch.ones(3, 1))
    assert none.points.shape == (0, 2, 1)


def test_cycles_at_different_inputs_stay_apart() -> None:
    finder = FixedPointFinder(lambda h, u: u * h * (1 - h))
    u = torch.tensor([[3.2], [3.3]]).repeat_interleave(20, 0)
    cycles = finder.find_limit_cycles(2, torch.linspace(0.05, 0.95, 20).repeat(2).unsqueeze(-1), u)
    assert cycles.inputs is not None
    assert sorted(round(v, 3) for v in cycles.inputs[:, 0].tolist()) == [3.2, 3.3]


@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_untouched(raises: bool) -> None:
    torch.manual_seed(0)
    model = nn.GRUCell(2, 4).train()
    model.bias_hh.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    identities = [id(p) for p in model.parameters()]
    finder = FixedPointFinder(model)
    if raises:
        with pytest.raises(RuntimeError):
            finder.find(draw(4, 4), torch.ones(5))
    else:
        finder.find(draw(4, 4), torch.ones(2))
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [id(p) for p in model.parameters()] == identities
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "bfgs"}, "method must be one of|Type-check"),
        ({"tol_q": 0.0}, "tol_q must be above 0"),
        ({"tol_unique": -1.0}, "tol_unique must be above 0"),
        ({"max_distance": 0.0}, "max_distance must be above 0"),
        ({"chunk": 0}, "max_iterations and chunk must be at least 1"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        FixedPointFinder(nn.GRUCell(1, 2), **arguments)


def test_bad_starts_are_refused() -> None:
    finder = FixedPointFinder(nn.GRUCell(1, 2))
    with pytest.raises(ValueError, match="must end in the 2 states"):
        finder.find(torch.ones(3))
    with pytest.raises(ValueError, match="inputs must be"):
        finder.find(torch.ones(3, 2), torch.ones(4, 1))
    with pytest.raises(ValueError, match="period must be at least 1"):
        finder.find_limit_cycles(0, torch.ones(3, 2))
    with pytest.raises(ValueError, match="NaN or inf"):
        finder.find(torch.full((3, 2), torch.nan))


def flip_flops(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pulses of three channels, and the sign of the last one of each."""
    chance = torch.rand(30, 64, 3, generator=generator)
    pulses = (chance < 0.1).float() - (chance > 0.9).float()
    pulses[0] = (torch.rand(64, 3, generator=generator) < 0.5).float() * 2 - 1
    held = [pulses[0]]
    for pulse in pulses[1:]:
        held.append(torch.where(pulse != 0, pulse, held[-1]))
    return pulses, torch.stack(held)


# Slow: trains a network for 400 batches.
@pytest.mark.slow
def test_a_network_that_remembers_three_bits_has_eight_stable_points() -> None:
    generator = torch.Generator().manual_seed(0)
    gru, read = nn.GRU(3, 16), nn.Linear(16, 3)
    parameters = [*gru.parameters(), *read.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            parameter.uniform_(-0.25, 0.25, generator=generator)
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(400):
        pulses, held = flip_flops(generator)
        loss = (read(gru(pulses)[0]) - held).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    visited = gru(flip_flops(generator)[0])[0].detach()[5:].flatten(0, 1)[::4]
    found = FixedPointFinder(gru).find(visited)
    assert int(found.is_stable.sum()) == 8
    read_out = read(found.points[found.is_stable].float()).detach().sign()
    assert len(read_out.unique(dim=0)) == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_points_are_double_whatever_the_starts_are(dtype: torch.dtype) -> None:
    found = FixedPointFinder(lambda h, _u: h / 2 + 1).find(torch.ones(2, 1, dtype=dtype))
    assert found.points.dtype == found.q.dtype == torch.float64
    assert float(found.points) == pytest.approx(2, abs=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["newton", "adam"])
def test_points_stay_on_the_device_of_the_starts(method: Literal["newton", "adam"]) -> None:
    cell = nn.GRUCell(2, 4).cuda()
    finder = FixedPointFinder(cell, method=method, tol_q=1e-10)
    found = finder.find(draw(20, 4).cuda(), torch.ones(2, device="cuda"))
    assert found.points.is_cuda
    assert found.n_found_from.is_cuda
