"""One look at the dynamics of a recurrent model: where it rests, how it moves, in how many ways."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real
from neuros_mechint.dynamics._step import StepLike, as_step, functional_step, jacobian
from neuros_mechint.dynamics.fixed_points import FixedPointFinder, FixedPointMethod, FixedPoints
from neuros_mechint.dynamics.lyapunov import LyapunovResult, LyapunovSpectrum

__all__ = ["AttractorSummary", "Linearization", "RecurrentDynamicsAnalyzer", "StateDimensionality"]

# An eigenvalue this near to 1 makes a direction along which the state hardly moves.
_NEUTRAL = 0.05


class Linearization(NamedTuple):
    """`h_next - h* = A (h - h*) + B (u - u*)` near a point.

    Examples:
        >>> Linearization._fields
        ('A', 'B')
    """

    A: Tensor
    B: Tensor | None

    def to_dict(self) -> dict[str, Any]:
        """The two matrices by name."""
        return self._asdict()


class StateDimensionality(NamedTuple):
    """How many directions trajectories fill.

    Attributes:
        participation_ratio: Squared sum over sum of squares of the variances.
        pca_90: Principal components that hold 90 % of the variance.
        pca_95: Those that hold 95 %.
        two_nn: Intrinsic dimension from the two nearest neighbours.

    Examples:
        >>> StateDimensionality(2.0, 2, 2, 1.0).pca_90
        2
    """

    participation_ratio: float
    pca_90: int
    pca_95: int
    two_nn: float

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return self._asdict()


class AttractorSummary(NamedTuple):
    """The fixed points by what they do.

    Attributes:
        counts: Number of fixed points by number of unstable directions.
        basins: Share of the starts that a simulation takes to each stable point, (point,);
            points that are not stable hold 0.
        time_constants: `-1 / ln |lambda|` in steps, negative where the mode grows, (point, state).
        rotations: `arg(lambda) / 2 pi`, turns per step, (point, state).
        line_attractor: Whether near-neutral points form a connected chain.

    Examples:
        >>> AttractorSummary._fields[:2]
        ('counts', 'basins')
    """

    counts: dict[int, int]
    basins: Tensor
    time_constants: Tensor
    rotations: Tensor
    line_attractor: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


class RecurrentDynamicsAnalyzer:
    r"""Fixed points, linearisations, dimension and exponents of one recurrent model.

    Args:
        step: Callable `(h, u) -> h_next`, a recurrent layer or cell, or a module with `step(h, u)`.
        n_states: Number of states, where the step does not tell.

    Examples:
        A unit that excites itself has two stable states and one between them:

        >>> analyzer = RecurrentDynamicsAnalyzer(lambda h, u: (2 * h).tanh())
        >>> found = analyzer.fixed_points(torch.linspace(-1, 1, 11).unsqueeze(-1))
        >>> analyzer.attractor_summary().counts
        {0: 2, 1: 1}

    References:
        Sussillo & Barak (2013), Neural Computation 25. doi:10.1162/NECO_a_00409
    """

    def __init__(self, step: StepLike, *, n_states: int | None = None) -> None:
        self.step = as_step(step, n_states=n_states)
        self._found: tuple[FixedPoints, Tensor, Tensor | None] | None = None

    def fixed_points(
        self,
        initial_states: Array,
        inputs: Array | None = None,
        *,
        method: FixedPointMethod = "newton",
        max_iterations: int = 60,
        tol_q: Number = 1e-20,
        tol_unique: Number = 1e-4,
        max_distance: Number = 10.0,
        chunk: int | None = None,
    ) -> FixedPoints:
        """Fixed points that the starts lead to, with the settings of `FixedPointFinder`.

        Args:
            initial_states: Starts, (..., state).
            inputs: Constant input, (..., input) or (input,).
            method: `"newton"`, or `"adam"` for maps with kinks.
            max_iterations: Iterations at most.
            tol_q: A start with `q` at or below it is at a fixed point.
            tol_unique: Relative distance below which two solutions of equal input are one point.
            max_distance: Most distance from the centre of the starts, over their mean distance.
            chunk: Number of Jacobians formed at a time; None for all.

        Returns:
            The fixed points, which `attractor_summary` describes.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When shapes contradict one another, or a setting is out of range.
        """
        search = FixedPointFinder(
            self.step,
            method=method,
            max_iterations=max_iterations,
            tol_q=tol_q,
            tol_unique=tol_unique,
            max_distance=max_distance,
            chunk=chunk,
        )
        found = search.find(initial_states, inputs)
        starts = as_real("initial_states", initial_states, axes=("state",), at_least=(1,))
        x = starts.detach().double().reshape(-1, starts.shape[-1])
        u = None
        if inputs is not None:
            u = as_real("inputs", inputs, axes=("input",), at_least=(1,)).detach().double()
            u = u.expand(*starts.shape[:-1], u.shape[-1]).reshape(len(x), -1)
        self._found = (found, x, u)
        return found

    def linearize(self, point: Array, inputs: Array | None = None) -> Linearization:
        """State and input Jacobian at a point, or at each of several.

        Args:
            point: State, (..., state).
            inputs: Input there, (..., input) or (input,).

        Returns:
            A (..., state, state), and B (..., state, input) or None without an input; in float64,
            in which the step is differentiated.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When the point has another size than the state.

        Examples:
            >>> analyzer = RecurrentDynamicsAnalyzer(lambda h, u: h / 2 + 3 * u)
            >>> A, B = analyzer.linearize(torch.zeros(1), torch.zeros(1))
            >>> float(A), float(B)
            (0.5, 3.0)
        """
        state = as_real("point", point, axes=("state",), at_least=(1,)).detach().double()
        lead, n_states = state.shape[:-1], state.shape[-1]
        if self.step.n_states not in (None, n_states):
            raise ValueError(f"point must end in {self.step.n_states} states, got {n_states}")
        x, call = state.reshape(-1, n_states), functional_step(self.step)
        if inputs is None:
            return Linearization(jacobian(call, x, None).reshape(*lead, n_states, n_states), None)
        u = as_real("inputs", inputs, axes=("input",), at_least=(1,)).detach().double()
        u = u.expand(*lead, u.shape[-1]).reshape(len(x), -1)
        return Linearization(
            jacobian(call, x, u).reshape(*lead, n_states, n_states),
            jacobian(call, x, u, by_input=True).reshape(*lead, n_states, -1),
        )

    def stability(self, points: Array, inputs: Array | None = None) -> Tensor:
        """Eigenvalues at points, the largest modulus first.

        Args:
            points: States, (..., state).
            inputs: Input there, (..., input) or (input,).

        Returns:
            Complex eigenvalues (..., state); stable where every modulus is below 1.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When the points have another size than the state.
        """
        values: Tensor = torch.linalg.eigvals(self.linearize(points, inputs).A)
        order = values.abs().argsort(dim=-1, descending=True, stable=True)
        return values.gather(-1, order)

    def lyapunov(
        self,
        x0: Array,
        inputs: Array | None = None,
        *,
        n_exponents: int | None = None,
        n_steps: int = 5000,
        burn_in: int = 1000,
        qr_every: int = 1,
        dt: Number = 1.0,
    ) -> LyapunovResult:
        """Lyapunov exponents of the orbits from states, as settings of `LyapunovSpectrum` say.

        Args:
            x0: First states, (..., state).
            inputs: Constant input, (..., input) or (input,).
            n_exponents: Number of leading exponents; None for all.
            n_steps: Steps that count.
            burn_in: Steps of state and frame before them.
            qr_every: Steps between two factorisations.
            dt: Time that a step takes.

        Returns:
            The exponents per unit of time.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When shapes contradict one another, or a setting is out of range.
        """
        spectrum = LyapunovSpectrum(
            n_exponents=n_exponents, n_steps=n_steps, burn_in=burn_in, qr_every=qr_every, dt=dt
        )
        return spectrum.compute(self.step, x0, inputs)

    def attractor_summary(self, *, n_steps: int = 1000) -> AttractorSummary:
        """What the fixed points of the last `fixed_points` call are, and who goes to them.

        Args:
            n_steps: Steps of the simulation that finds the basins.

        Returns:
            The summary.

        Raises:
            ValueError: Before `fixed_points`, or when `n_steps` is below 1.
        """
        if self._found is None:
            raise ValueError("no fixed points yet; call fixed_points(initial_states) first")
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        found, x, u = self._found
        call, end = functional_step(self.step), x
        with torch.no_grad():
            for _ in range(n_steps):
                end = call(end, u)
        # ln 0 is that of a mode which is gone after one step.
        rates = found.eigenvalues.abs().log()
        counts = found.n_unstable.bincount()
        return AttractorSummary(
            {k: int(count) for k, count in enumerate(counts.tolist()) if count},
            _basins(found, end, u),
            -1 / rates,
            found.eigenvalues.angle() / (2 * math.pi),
            _has_line(found, self.step, x.shape[-1]),
        )

    def dimensionality(self, trajectories: Array) -> StateDimensionality:
        """How many directions trajectories fill, by four measures.

        Args:
            trajectories: States, (..., time, state).

        Returns:
            The four numbers, over all trajectories together.

        Raises:
            TypeError: When the trajectories are not a real tensor or array.
            ValueError: When they hold fewer than 3 states, or do not move.
        """
        from neuros_mechint.geometry import IntrinsicDimension, ParticipationRatio

        states = as_real("trajectories", trajectories, axes=("time", "state"), at_least=(3, 1))
        rows = states.detach().double().flatten(0, -2)
        variances = torch.linalg.svdvals(rows - rows.mean(0)).square()
        if not bool(variances[0] > 0):
            raise ValueError("trajectories do not move; they have no dimension")
        shares = variances.cumsum(0) / variances.sum()
        return StateDimensionality(
            float(ParticipationRatio().compute(rows)),
            int((shares < 0.9).sum()) + 1,
            int((shares < 0.95).sum()) + 1,
            float(IntrinsicDimension(method="twonn").compute(rows)),
        )


def _basins(found: FixedPoints, end: Tensor, u: Tensor | None) -> Tensor:
    """Share of the starts that end at each stable point."""
    if not len(found.points):
        return found.points.new_zeros(0)
    gaps = torch.cdist(end, found.points)
    gaps[:, ~found.is_stable] = torch.inf
    if u is not None and found.inputs is not None:
        gaps[~(u.unsqueeze(1) == found.inputs).all(-1)] = torch.inf
    nearest = gaps.min(-1)
    arrived = nearest.values <= 1e-3 * (1 + end.norm(dim=-1))
    share = torch.bincount(nearest.indices[arrived], minlength=len(found.points))
    return share.double() / len(end)


def _has_line(found: FixedPoints, step: StepLike, n_states: int) -> bool:
    """Whether at least four near-neutral points chain: each near its two neighbours, in one line.

    The chain is connected when the longest edge of its minimum spanning tree is no more than
    a third of its extent.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    inputs = found.inputs[0] if found.inputs is not None and len(found.inputs) else None
    points = torch.cat([found.points, found.slow_points])
    if len(points) < 4:
        return False
    u = None if inputs is None else inputs.expand(len(points), -1)
    values = torch.linalg.eigvals(jacobian(functional_step(step), points, u))
    near = points[((values - 1).abs() < _NEUTRAL).any(-1)].reshape(-1, n_states)
    if len(near) < 4:
        return False
    gaps = torch.cdist(near, near)
    longest = float(minimum_spanning_tree(gaps.cpu().numpy()).max())
    return longest <= float(gaps.max()) / 3
