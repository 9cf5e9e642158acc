"""Fixed points of a recurrent model: where it rests, and how it leaves."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.dynamics._fixed_point_sets import clusters, kinds, near_starts
from neuros_mechint.dynamics._fixed_point_solvers import SOLVERS, Budget, gradient_is_small, speed
from neuros_mechint.dynamics._limit_cycles import LimitCycles, iterated, orbits
from neuros_mechint.dynamics._step import Map, Step, StepLike, as_step, functional_step, jacobian

__all__ = ["FixedPointFinder", "FixedPoints"]

FixedPointMethod = Literal["newton", "adam"]
# Above this size a full Jacobian per start costs more than the products that GMRES needs.
_DENSE = 512


class FixedPoints(NamedTuple):
    """Fixed points of a step, sorted by input and coordinates.

    Attributes:
        points: Fixed points, (point, state), float64.
        q: Speed `1/2 |F(x) - x|^2` that is left, (point,).
        jacobians: Derivatives by the state, (point, state, state).
        input_jacobians: Derivatives by the input, (point, state, input), or None.
        eigenvalues: Of the state Jacobian, largest modulus first, (point, state).
        eigenvectors: In the same order, as columns, (point, state, state).
        n_unstable: Number of eigenvalues outside the unit circle, (point,).
        is_stable: Whether every eigenvalue is inside, (point,).
        kind: stable, saddle, unstable, or marginal when a modulus is within 1e-3 of 1.
        converged: Which of the starts ended at a fixed point, (start,).
        inputs: Input of each point, (point, input), or None.
        n_found_from: Number of starts that ended at each point, (point,).
        slow_points: Minima of q that are no fixed points, (slow, state).

    Examples:
        >>> found = FixedPointFinder(lambda h, u: (2 * h).tanh()).find(torch.tensor([[1.0], [-1]]))
        >>> [round(value, 4) for value in found.points[:, 0].tolist()]
        [-0.9575, 0.9575]
    """

    points: Tensor
    q: Tensor
    jacobians: Tensor
    input_jacobians: Tensor | None
    eigenvalues: Tensor
    eigenvectors: Tensor
    n_unstable: Tensor
    is_stable: Tensor
    kind: tuple[str, ...]
    converged: Tensor
    inputs: Tensor | None
    n_found_from: Tensor
    slow_points: Tensor

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


class FixedPointFinder:
    r"""Roots of $r(x) = F(x, u) - x$ from many starts, with $q = \tfrac{1}{2} \|r\|^2$.

    Every start takes Levenberg-Marquardt steps with its exact Jacobian, in float64 on copies of
    the parameters: the model stays as it is, and q falls to 1e-25 or less where float32 stops near
    1e-13. Above 512 states the Newton systems are solved from Jacobian-vector products.

    Args:
        step: Callable `(h, u) -> h_next`, a recurrent layer or cell, or a module with `step(h, u)`.
        method: `"newton"`, or `"adam"` for maps with kinks; an iteration of it is 100 gradient
            steps, and it reaches about 1e-12, so raise `tol_q`.
        max_iterations: Iterations at most.
        tol_q: A start with `q` at or below it is at a fixed point.
        tol_unique: Relative distance below which two solutions of equal input are one point.
        max_distance: Solutions farther from the centre of the starts than so many times their
            mean distance from it are left out.
        chunk: Number of Jacobians formed at a time; None for all.

    Examples:
        A linear map $x \mapsto x/2 + 1$ rests at 2:

        >>> found = FixedPointFinder(lambda h, u: h / 2 + 1).find(torch.zeros(1, 1))
        >>> round(float(found.points), 6), found.kind
        (2.0, ('stable',))

    References:
        Sussillo & Barak (2013), Neural Computation 25. doi:10.1162/NECO_a_00409
    """

    def __init__(
        self,
        step: StepLike,
        *,
        method: FixedPointMethod = "newton",
        max_iterations: int = 60,
        tol_q: Number = 1e-20,
        tol_unique: Number = 1e-4,
        max_distance: Number = 10.0,
        chunk: int | None = None,
    ) -> None:
        one_of("method", method, get_args(FixedPointMethod))
        for name, value in (("tol_q", tol_q), ("tol_unique", tol_unique)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if not max_distance > 0:
            raise ValueError(f"max_distance must be above 0, got {max_distance}")
        if max_iterations < 1 or (chunk is not None and chunk < 1):
            raise ValueError(
                f"max_iterations and chunk must be at least 1, got {max_iterations} and {chunk}"
            )
        self.step: Step = as_step(step)
        self.method: FixedPointMethod = method
        self.max_iterations = max_iterations
        self.tol_q = float(tol_q)
        self.tol_unique = float(tol_unique)
        self.max_distance = float(max_distance)
        self.chunk = chunk

    def find(self, initial_states: Array, inputs: Array | None = None) -> FixedPoints:
        """Fixed points that the starts lead to.

        Args:
            initial_states: Starts, (..., state); states that the model visits are good ones.
            inputs: Constant input of each start, (..., input), or one for all, (input,).

        Returns:
            The distinct fixed points with their linearisations, in float64 whatever the dtype of
            the starts: rounded to float32 they would move by more than `q` says.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When the shapes contradict the step or one another.
        """
        x, u = self._starts(initial_states, inputs)
        call = functional_step(self.step)
        solved, q, settled = self._solve(call, x, u)
        kept = settled & near_starts(solved, x, self.max_distance)
        slow = ~settled & torch.isfinite(q)
        points, speeds, at, sizes = self._unique(solved, q, u, kept)
        where, _, slow_at, _ = self._unique(solved, q, u, slow)
        if len(where):
            where = where[gradient_is_small(call, where, slow_at, self.chunk)]
        J, values, vectors = _linear(call, points, at, self.chunk)
        by_input = None if at is None else _input_jacobians(call, points, at, self.chunk)
        n_unstable = (values.abs() > 1).sum(-1)
        return FixedPoints(
            points,
            speeds,
            J,
            by_input,
            values,
            vectors,
            n_unstable,
            (values.abs() < 1).all(-1),
            kinds(values),
            settled,
            at,
            sizes,
            where,
        )

    def find_limit_cycles(
        self, period: int, initial_states: Array, inputs: Array | None = None
    ) -> LimitCycles:
        """Cycles of exactly one period, as roots of `F^period(x) - x`.

        Args:
            period: Number of steps after which the state returns.
            initial_states: Starts, (..., state).
            inputs: Constant input, (..., input) or (input,).

        Returns:
            The distinct cycles; points of a shorter period are left out.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When the period is below 1 or shapes contradict one another.
        """
        if period < 1:
            raise ValueError(f"period must be at least 1, got {period}")
        x, u = self._starts(initial_states, inputs)
        call = functional_step(self.step)
        solved, q, settled = self._solve(iterated(call, period), x, u)
        kept = settled & near_starts(solved, x, self.max_distance)
        points, _, at, _ = self._unique(solved, q, u, kept)
        return orbits(call, period, points, at, self.tol_unique)

    def _solve(self, call: Map, x: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        name: str = self.method
        if name == "newton" and x.shape[-1] > _DENSE:
            name = "krylov"
        with torch.no_grad():
            solved = SOLVERS[name](call, x, u, Budget(self.max_iterations, self.tol_q, self.chunk))
            q = speed(call(solved, u) - solved)
        return solved, q, q <= self.tol_q

    def _unique(
        self, x: Tensor, q: Tensor, u: Tensor | None, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        inputs = None if u is None else u[kept]
        found = clusters(x[kept], q[kept], inputs, self.tol_unique)
        at = None if inputs is None else inputs[found.chosen]
        return x[kept][found.chosen], q[kept][found.chosen], at, found.sizes

    def _starts(self, initial_states: Array, inputs: Array | None) -> tuple[Tensor, Tensor | None]:
        states = as_real("initial_states", initial_states, axes=("state",), at_least=(1,))
        n_states = self.step.n_states
        if n_states is not None and states.shape[-1] != n_states:
            raise ValueError(
                f"initial_states must end in the {n_states} states of the step, got shape "
                f"{tuple(states.shape)}"
            )
        x = states.detach().double().reshape(-1, states.shape[-1])
        if inputs is None:
            return x, None
        u = as_real("inputs", inputs, axes=("input",), at_least=(1,)).detach().double()
        if u.ndim > 1 and u.shape[:-1] != states.shape[:-1]:
            raise ValueError(
                f"inputs must be (input,) or one row per start, {tuple(states.shape[:-1])}, got "
                f"shape {tuple(u.shape)}"
            )
        return x, u.expand(*states.shape[:-1], u.shape[-1]).reshape(-1, u.shape[-1])


def _linear(
    call: Map, x: Tensor, u: Tensor | None, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Jacobians, and their eigenvalues with the largest modulus first."""
    n = x.shape[-1]
    J = jacobian(call, x, u, chunk=chunk) if len(x) else x.new_zeros(0, n, n)
    values, vectors = torch.linalg.eig(J)
    order = values.abs().argsort(dim=-1, descending=True, stable=True)
    picked = order.unsqueeze(-2).expand_as(vectors)
    return J, values.gather(-1, order), vectors.gather(-1, picked)


def _input_jacobians(call: Map, x: Tensor, u: Tensor, chunk: int | None) -> Tensor:
    if not len(x):
        return x.new_zeros(0, x.shape[-1], u.shape[-1])
    return jacobian(call, x, u, by_input=True, chunk=chunk)
