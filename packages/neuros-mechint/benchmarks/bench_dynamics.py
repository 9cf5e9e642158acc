"""Cost of fixed points, Lyapunov exponents and dynamic modes, one thread, sides interleaved."""

import logging
import warnings
from collections.abc import Callable
from importlib.metadata import version

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.dynamics import FixedPointFinder, KoopmanAnalyzer, LyapunovSpectrum

PEER = f"torch {torch.__version__}"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def joint_adam(step: Callable[[Tensor], Tensor], start: Tensor, *, limit: int = 5000) -> Tensor:
    """All starts in one optimiser, as the published finder does: one rate that falls on plateaus.

    It stops when the mean speed changes by less than its tolerance or the rate is spent.
    """
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=5)
    with torch.enable_grad():
        for _ in range(limit):
            q = (step(x) - x).square().sum(-1) / 2
            (x.grad,) = torch.autograd.grad(q.mean(), x)
            optimizer.step()
            schedule.step(q.mean().detach())
            if float(q.detach().max()) <= 1e-12 or optimizer.param_groups[0]["lr"] < 1e-9:
                break
    return x.detach()


def test_fixed_points_cost_less_than_joint_adam(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    n = 16
    cell = nn.GRUCell(1, n).double()
    with torch.no_grad():
        cell.weight_hh.copy_(1.5 * draw(3 * n, n, seed=1) / n**0.5)
        cell.weight_ih.zero_()
    cell.requires_grad_(requires_grad=False)
    starts, nothing = draw(512, n).tanh(), torch.zeros(512, 1).double()
    finder = FixedPointFinder(cell)
    found = finder.find(starts)
    assert float(found.q.median()) <= 1e-25
    assert float(found.converged.double().mean()) > 0.5
    mine, theirs = shortest(
        lambda: finder.find(starts),
        lambda: joint_adam(lambda h: cell(nothing, h), starts),
        rounds=3,
    )
    report("fixed points of a GRU, 512 starts, n=16", f"joint Adam, {PEER}", theirs / mine, 5.0)


def henon(h: Tensor, _u: Tensor | None = None) -> Tensor:
    x, y = h.unbind(-1)
    return torch.stack([1 - 1.4 * x * x + y, 0.3 * x], -1)


def looped(starts: Tensor, n_steps: int) -> Tensor:
    """Exponents of one orbit after the other, a full Jacobian and a factorisation a step."""
    sums = []
    for start in starts:
        x, Q, total = start, torch.eye(2, dtype=torch.float64), torch.zeros(2).double()
        for _ in range(n_steps):
            J = torch.autograd.functional.jacobian(henon, x)
            x = henon(x)
            Q, R = torch.linalg.qr(J @ Q)
            total = total + R.diagonal().abs().log()
        sums.append(total / n_steps)
    return torch.stack(sums)


def mapped(starts: Tensor, n_steps: int) -> Tensor:
    """Exponents of all orbits together, with `vmap(jacfwd)` and a batched factorisation."""
    by_state = torch.func.vmap(torch.func.jacfwd(henon))
    x, total = starts, torch.zeros_like(starts)
    Q = torch.eye(2, dtype=torch.float64).expand(len(x), 2, 2)
    for _ in range(n_steps):
        J = by_state(x)
        x = henon(x)
        Q, R = torch.linalg.qr(J @ Q)
        total = total + R.diagonal(dim1=-2, dim2=-1).abs().log()
    return total / n_steps


@pytest.mark.parametrize(
    ("other", "name", "bar", "n_steps", "rounds"),
    [
        (looped, "loop of autograd.functional.jacobian + qr", 20.0, 40, 3),
        (mapped, "vmap(jacfwd) + qr", 2.0, 400, 7),
    ],
)
def test_exponents_of_64_orbits_cost_less(
    other: Callable[[Tensor, int], Tensor],
    name: str,
    bar: float,
    n_steps: int,
    rounds: int,
    shortest: Callable[..., list[float]],
    report: Callable[..., None],
) -> None:
    starts = 0.1 * draw(64, 2).tanh()
    spectrum = LyapunovSpectrum(n_steps=n_steps, burn_in=0)
    # The frames start apart, which is forgotten at a rate of 1 / n_steps.
    gap = spectrum.compute(henon, starts).exponents - other(starts, n_steps)
    assert float(gap.abs().max()) < 10 / n_steps
    mine, theirs = shortest(
        lambda: spectrum.compute(henon, starts), lambda: other(starts, n_steps), rounds=rounds
    )
    report("Lyapunov exponents, 64 orbits of Henon", f"{name}, {PEER}", theirs / mine, bar)


def test_modes_of_a_batch_cost_less_than_a_pydmd_loop(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    # pydmd warns of the conditioning of its own reconstruction.
    warnings.simplefilter("ignore")
    pydmd = pytest.importorskip("pydmd")
    t = torch.arange(100).double().unsqueeze(-1)
    angle = torch.tensor([0.2, 0.5, 1.1]).double() * t
    waves = torch.cat([angle.cos(), angle.sin()], -1)
    # pydmd writes a line of log per fit, which is not its algorithm.
    logging.disable(logging.INFO)
    x = waves @ draw(64, 6, 200) + 1e-3 * draw(64, 100, 200, seed=1)
    columns = [item.mT.contiguous().numpy() for item in x]
    analyzer = KoopmanAnalyzer(rank=6)

    def loop() -> list[object]:
        return [pydmd.DMD(svd_rank=6).fit(item) for item in columns]

    first = torch.from_numpy(loop()[0].eigs)
    gap = (analyzer.compute(x).eigenvalues[0].unsqueeze(1) - first).abs().amin(1)
    assert float(gap.max()) < 1e-8
    mine, theirs = shortest(lambda: analyzer.compute(x), loop, rounds=7)
    logging.disable(logging.NOTSET)
    peer = f"pydmd {version('pydmd')}"
    missed = "four tenths of the time are products with the data, which a batch makes no cheaper"
    report("dynamic modes, 64 systems of 200 x 100", peer, theirs / mine, 3.0, missed)
