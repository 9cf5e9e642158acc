"""Fitting the numbers of neurons to recorded potentials."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Number, one_of
from neuros_mechint.biophysical._arguments import check_dt, floating
from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase

__all__ = ["FitResult", "fit_neuron"]

# Dampings of one iteration, relative to the diagonal of the normal equations: from the full step
# of Gauss and Newton to a thousandth of it.
_DAMPINGS = tuple(10.0**k for k in range(-6, 4))
_SHIFT = 1e-6
_FARTHEST = 0.5
_RATE = 0.02
_ENOUGH = 1e-20


class FitResult(NamedTuple):
    """Neurons fitted to a recording.

    Attributes:
        neuron: A copy of the neurons given, with the fitted numbers.
        loss: Mean squared error of its potential, mV².
        history: The same before the first iteration and after each one.
    """

    neuron: BiophysicalNeuronBase
    loss: Tensor
    history: Tensor


def fit_neuron(
    neuron: BiophysicalNeuronBase,
    current: Tensor,
    target_voltage: Tensor,
    *,
    params: Sequence[str] = ("g_Na", "g_K", "g_L"),
    dt: float,
    steps: int = 300,
    method: str = "lm",
    bounds: Mapping[str, tuple[Number, Number]] | None = None,
    n_starts: int = 1,
    generator: torch.Generator | None = None,
) -> FitResult:
    r"""Fit numbers of neurons so that their potential follows a recorded one.

    Numbers are fitted as logarithms, so none changes its sign. `lm` is the method of Levenberg
    and Marquardt: with residuals $r(\theta)$ and their Jacobian $J$ it tries
    $\theta - (J^T J + \lambda\,\mathrm{diag}\,J^T J)^{-1} J^T r$ for ten dampings $\lambda$, for
    all samples and for those before the first spike that potential and recording do not share. The
    best of the steps is taken, until none is better or the error is $10^{-10}$ of the recording's
    size. All candidates, each with the shifted copies that its Jacobian comes from, are units of
    one simulation, so an iteration costs one run over time; nothing needs a gradient. `adam`
    follows the gradient of the same error.

    A potential with spikes has a local minimum wherever some of its spikes coincide with others of
    the recording. In one, `lm` takes the step that makes more of the recording's beginning come
    out right, though the whole error rise. Several starts run side by side in the same simulation,
    and the best is kept.

    Args:
        neuron: Neurons with the numbers to begin from; they are not changed.
        current: Input (..., time, n), or (time,) of one unit.
        target_voltage: Recorded potential in the shape of the input.
        params: Names of the numbers to fit, none of them 0.
        dt: Time between samples, ms.
        steps: Most iterations.
        method: `lm` or `adam`.
        bounds: Lowest and highest value by name, where wanted.
        n_starts: Number of starts: the numbers given, and others drawn log-uniformly within
            `bounds`, or within a factor of 1.5 around them.
        generator: Source of the other starts.

    Returns:
        A fitted copy of the neurons, its error, and the error after each iteration.

    Raises:
        TypeError: When `neuron` is no neuron of this package, or input or recording are not
            floating tensors.
        ValueError: When input and recording do not fit, hold NaN or inf, a name is unknown or its
            number is 0, bounds do not hold the number, or a count is below 1.

    Examples:
        >>> from neuros_mechint.biophysical import HodgkinHuxleyNeuron
        >>> true = HodgkinHuxleyNeuron()
        >>> current = torch.full((100,), 10.0, dtype=torch.float64)
        >>> recorded = true(current, 0.1).voltage
        >>> fit = fit_neuron(HodgkinHuxleyNeuron(100.0, 40.0, 0.35), current, recorded, dt=0.1)
        >>> [round(x.item(), 3) for x in (fit.neuron.g_Na, fit.neuron.g_K, fit.neuron.g_L)]
        [120.0, 36.0, 0.3]

    References:
        Marquardt, D. W. (1963). An algorithm for least-squares estimation of nonlinear parameters.
        Journal of the Society for Industrial and Applied Mathematics, 11, 431-441.
        doi:10.1137/0111030
    """
    one_of("method", method, ("lm", "adam"))
    _check(neuron, current, target_voltage, dt)
    for name, count in (("steps", steps), ("n_starts", n_starts)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    problem = _Problem(neuron, current, target_voltage, tuple(params), dt)
    low, high = problem.box(bounds or {})
    starts = _starts(problem.first, (low, high), n_starts, generator)
    solve: Callable[..., tuple[Tensor, Tensor]] = {"lm": _marquardt, "adam": _adam}[method]
    theta, history = solve(problem, starts, (low, high), steps)
    return FitResult(problem.filled(theta), history[-1], history)


class _Problem:
    """Potentials of many sets of numbers at once, and their distance to a recording."""

    def __init__(
        self,
        neuron: BiophysicalNeuronBase,
        current: Tensor,
        target: Tensor,
        names: tuple[str, ...],
        dt: float,
    ) -> None:
        unknown = [name for name in names if name not in neuron.number_names]
        if unknown or not names:
            given = ", ".join(map(repr, unknown)) or "nothing"
            raise ValueError(
                f"params names {given}; the numbers of {type(neuron).__name__} are "
                f"{', '.join(map(repr, neuron.number_names))}"
            )
        self.neuron, self.names, self.dt = neuron, names, dt
        # Differences of 1e-6 need the digits of double precision.
        self.current = (current[:, None] if current.ndim == 1 else current).detach().double()
        self.target = (target[:, None] if target.ndim == 1 else target).detach().double()
        # A quarter of the recording's range parts a spike from what leads to it.
        height = float(self.target.max() - self.target.min())
        self.miss = height / 4 / math.sqrt(self.target.numel())
        self.power = float(self.target.square().mean())
        found: list[Tensor] = [getattr(neuron, name).detach().to(self.current) for name in names]
        for name, value in zip(names, found, strict=True):
            if bool((value == 0).any()):
                raise ValueError(f"{name} is 0, which has no logarithm; begin from another value")
        self.shapes = [value.shape for value in found]
        self.sizes = [value.numel() for value in found]
        flat = torch.cat([value.flatten() for value in found])
        self.signs, self.first = flat.sign(), flat.abs().log()

    def box(self, bounds: Mapping[str, tuple[Number, Number]]) -> tuple[Tensor, Tensor]:
        """Lowest and highest logarithms."""
        for name in bounds:
            one_of("a name in bounds", name, self.names)
        low = torch.full_like(self.first, -math.inf)
        high = torch.full_like(self.first, math.inf)
        for name, size, at in zip(self.names, self.sizes, self._places(), strict=True):
            if name not in bounds:
                continue
            part = slice(at, at + size)
            ends = torch.tensor(bounds[name], dtype=low.dtype, device=low.device)
            value = self.signs[part] * self.first[part].exp()
            same = bool((ends.sign()[:, None] == self.signs[part]).all())
            if not same or not bool(((ends[0] <= value) & (value <= ends[1])).all()):
                raise ValueError(
                    f"bounds of {name} must hold the number to begin from, with its sign; "
                    f"got {tuple(bounds[name])} for {value.tolist()}"
                )
            ends = ends.abs().log().sort().values
            low[part], high[part] = ends[0], ends[1]
        return low, high

    def _places(self) -> list[int]:
        return [sum(self.sizes[:k]) for k in range(len(self.sizes))]

    def numbers(self, theta: Float[Tensor, "set number"]) -> dict[str, Tensor]:
        """Numbers by name, the sets on an axis before those of the units."""
        values = torch.split(self.signs * theta.exp(), self.sizes, dim=-1)
        # The sets come before every axis of the units, whatever the shape of a number.
        width = self.current.ndim - 1
        return {
            name: value.reshape(-1, *[1] * (width - len(shape)), *shape)
            for name, value, shape in zip(self.names, values, self.shapes, strict=True)
        }

    def residuals(self, theta: Float[Tensor, "set number"]) -> Float[Tensor, "set sample"]:
        """Potential minus recording, scaled so that squares add up to the mean squared error."""
        numbers = self.numbers(theta)
        out = torch.func.functional_call(self.neuron, numbers, (self.current, self.dt))
        short: Tensor = out.voltage - self.target
        return short.reshape(theta.shape[0], -1) / math.sqrt(self.target.numel())

    def agreeing(self, residuals: Float[Tensor, "set sample"]) -> Float[Tensor, "set sample"]:
        """1 for the samples before the first spike that potential and recording do not share."""
        apart = residuals.reshape(-1, *self.target.shape).abs() > self.miss
        return (apart.cumsum(-2) == 0).to(residuals).reshape(residuals.shape)

    def cut_short(self, residuals: Float[Tensor, "set sample"]) -> Float[Tensor, " set"]:
        """The error where each sample after the first spike not shared costs as much as a miss."""
        kept = self.agreeing(residuals)
        return torch.where(kept > 0, residuals.square(), self.miss**2).sum(-1)

    def filled(self, theta: Float[Tensor, " number"]) -> BiophysicalNeuronBase:
        """A copy of the neurons with these numbers."""
        memo: dict[int, object] = {
            id(x): x.detach().clone() for x in self.neuron.buffers() if not x.is_leaf
        }
        made = copy.deepcopy(self.neuron, memo)
        values = torch.split(self.signs * theta.exp(), self.sizes)
        with torch.no_grad():
            for name, value, shape in zip(self.names, values, self.shapes, strict=True):
                getattr(made, name).copy_(value.reshape(shape))
        return made


def _check(neuron: object, current: Tensor, target_voltage: Tensor, dt: float) -> None:
    if not isinstance(neuron, BiophysicalNeuronBase):
        raise TypeError(f"neuron must be a BiophysicalNeuronBase, got {type(neuron).__name__}")
    floating("current", current)
    floating("target_voltage", target_voltage)
    check_dt(dt)
    if current.shape != target_voltage.shape or current.ndim < 1 or current.numel() == 0:
        raise ValueError(
            "current and target_voltage must be (..., time, n) or (time,) alike and not empty, "
            f"got shapes {tuple(current.shape)} and {tuple(target_voltage.shape)}"
        )
    for name, value in (("current", current), ("target_voltage", target_voltage)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or inf; leave those samples out")


def _starts(
    first: Tensor, box: tuple[Tensor, Tensor], n_starts: int, generator: torch.Generator | None
) -> Tensor:
    low = torch.where(box[0].isfinite(), box[0], first - math.log(1.5))
    high = torch.where(box[1].isfinite(), box[1], first + math.log(1.5))
    drawn = torch.rand(
        (n_starts - 1, first.numel()), generator=generator, dtype=first.dtype, device=first.device
    )
    return torch.cat([first[None], low + (high - low) * drawn])


def _mean_squares(residuals: Tensor) -> Tensor:
    """Losses of sets; one that left the finite numbers is never the best."""
    return residuals.square().sum(-1).nan_to_num(nan=math.inf)


@torch.no_grad()
def _marquardt(
    problem: _Problem, starts: Tensor, box: tuple[Tensor, Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    """The best numbers, and the best loss after each iteration."""
    here = _Places(starts, *_linearised(problem, starts))
    best, least = here, problem.cut_short(here.r)
    history = [best.loss.min()]
    for _ in range(steps):
        kept = problem.agreeing(here.r).unsqueeze(-1)
        both = _damped(here.r, here.jacobian), _damped(here.r, here.jacobian * kept)
        step = torch.cat(both, dim=1).clamp(-_FARTHEST, _FARTHEST)
        tried = (here.theta[:, None] - step).clamp(*box)
        sets = tried.flatten(0, 1)
        found = _Places(sets, *_linearised(problem, sets))
        losses, cut = (
            torch.unflatten(x, 0, tried.shape[:2]) for x in (found.loss, problem.cut_short(found.r))
        )
        lower = losses.amin(-1) < here.loss * (1 - 1e-12)
        # In a minimum of its own a step may raise the error that makes more of the recording, up
        # to the first spike not shared, come out right: a spike nearly in place costs most.
        nearer = ~lower & (cut.amin(-1) < least * (1 - 1e-12))
        pick = torch.where(lower, losses.argmin(-1), cut.argmin(-1))
        pick = pick + torch.arange(len(pick), device=pick.device) * tried.shape[1]
        here = here.replaced(lower | nearer, found, pick)
        least = torch.minimum(least, problem.cut_short(here.r))
        best = best.replaced(here.loss < best.loss, here, torch.arange(len(pick)))
        if not bool((lower | nearer).any()):
            break
        history.append(best.loss.min())
        if best.loss.min() < _ENOUGH * problem.power:
            break
    return best.theta[best.loss.argmin()], torch.stack(history)


class _Places(NamedTuple):
    """Sets of numbers, with residuals and their Jacobian (set, sample, number)."""

    theta: Tensor
    r: Tensor
    jacobian: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean squared errors (set,)."""
        return _mean_squares(self.r)

    def replaced(self, where: Tensor, other: "_Places", index: Tensor) -> "_Places":
        """These, with some replaced by entries of others."""
        return _Places(
            torch.where(where[:, None], other.theta[index], self.theta),
            torch.where(where[:, None], other.r[index], self.r),
            torch.where(where[:, None, None], other.jacobian[index], self.jacobian),
        )


def _linearised(problem: _Problem, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals and their Jacobian (set, sample, number), of one simulation."""
    n, k = theta.shape
    shifts = _SHIFT * torch.eye(k, dtype=theta.dtype, device=theta.device)
    sets = torch.cat([theta[:, None], theta[:, None] + shifts], dim=1)
    found = torch.unflatten(problem.residuals(sets.reshape(n * (k + 1), k)), 0, (n, k + 1))
    jacobian = (found[:, 1:] - found[:, :1]).nan_to_num(0.0, 0.0, 0.0) / _SHIFT
    return found[:, 0], jacobian.transpose(-1, -2)


def _damped(r: Tensor, jacobian: Tensor) -> Tensor:
    """Steps (set, damping, number)."""
    dampings = torch.tensor(_DAMPINGS, dtype=r.dtype, device=r.device)
    normal = jacobian.transpose(-1, -2) @ jacobian
    slope = jacobian.transpose(-1, -2) @ r.nan_to_num(0.0, 0.0, 0.0).unsqueeze(-1)
    scale = normal.diagonal(dim1=-2, dim2=-1)
    # A number without effect keeps a place in the equations, and stays where it is.
    scale = scale.clamp(min=1e-12 * float(scale.max()) + 1e-300)
    left = normal.unsqueeze(1) + dampings[:, None, None] * torch.diag_embed(scale).unsqueeze(1)
    step: Tensor = torch.linalg.lstsq(left, slope.unsqueeze(1).expand(*left.shape[:-1], 1)).solution
    return step.squeeze(-1)


def _adam(
    problem: _Problem, starts: Tensor, box: tuple[Tensor, Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    theta = starts.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=_RATE)
    best, least = starts[0], torch.full_like(starts[0, 0], math.inf)
    history: list[Tensor] = []
    for k in range(steps + 1):
        losses = _mean_squares(problem.residuals(theta))
        lowest = losses.detach().min()
        if lowest < least:
            best, least = theta.detach()[losses.detach().argmin()].clone(), lowest
        history.append(least)
        if k == steps:
            break
        (theta.grad,) = torch.autograd.grad(losses.sum(), theta)
        theta.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        with torch.no_grad():
            theta.clamp_(*box)
    return best, torch.stack(history)
