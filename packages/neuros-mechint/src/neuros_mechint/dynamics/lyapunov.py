"""Lyapunov exponents: how fast neighbouring states part, along every direction."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real
from neuros_mechint.dynamics._lyapunov_frame import kaplan_yorke, orthonormal, random_frame
from neuros_mechint.dynamics._lyapunov_series import SeriesLyapunov, rosenstein
from neuros_mechint.dynamics._step import Map, StepLike, as_step, functional_step, push_forward

__all__ = ["LyapunovResult", "LyapunovSpectrum", "SeriesLyapunov"]

# Blocks whose means give the standard error: longer than the correlation time of a chaotic orbit.
_BLOCKS = 20


class LyapunovResult(NamedTuple):
    """Exponents of each orbit, per unit of time.

    Attributes:
        exponents: Largest first, (..., k).
        sem: Standard error from the means of 20 blocks of the orbit, (..., k).
        sum: Sum of the exponents, the rate at which volumes grow when k is the dimension, (...).
        kaplan_yorke_dim: Dimension of the attractor by Kaplan and Yorke, (...); k where the
            exponents that were computed do not sum to a negative number.
        ks_entropy: Sum of the positive exponents (Pesin), nats per unit of time, (...).
        convergence: Running estimate at the end of each block, (..., block, k).

    Examples:
        >>> import torch
        >>> spectrum = LyapunovSpectrum(n_steps=100, burn_in=10)
        >>> found = spectrum.compute(lambda h, u: h / 2, torch.ones(1))
        >>> round(float(found.exponents), 4)
        -0.6931
    """

    exponents: Tensor
    sem: Tensor
    sum: Tensor
    kaplan_yorke_dim: Tensor
    ks_entropy: Tensor
    convergence: Tensor

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


class LyapunovSpectrum:
    r"""Lyapunov exponents by tangent vectors that are made orthogonal along the orbit.

    $$\lambda_i = \lim_{T \to \infty} \frac{1}{T \, \Delta t} \sum_{t=1}^{T} \ln R_{ii}(t)$$

    where $Q(t) R(t)$ factors $J(t) Q(t-1)$. The frame runs with the state already through
    `burn_in`: a frame that is not aligned yet biases exponents of a finite orbit by $O(1/T)$.

    Args:
        n_exponents: Number of leading exponents; None for all.
        n_steps: Steps that count.
        burn_in: Steps of state and frame before them.
        qr_every: Steps between two factorisations.
        dt: Time that a step takes.

    Examples:
        Of the tent-like doubling map every orbit parts by ln 2 a step:

        >>> import torch
        >>> spectrum = LyapunovSpectrum(n_steps=200, burn_in=0)
        >>> turn = torch.tensor([[0.0, -2.0], [2.0, 0.0]]).double()
        >>> found = spectrum.compute(lambda h, u: (h @ turn.T + 1) % 7, torch.rand(2).double())
        >>> [round(value, 4) for value in found.exponents.tolist()]
        [0.6931, 0.6931]

    References:
        Benettin, Galgani, Giorgilli & Strelcyn (1980), Meccanica 15. doi:10.1007/BF02128236
        Kaplan & Yorke (1979), Lecture Notes in Mathematics 730. doi:10.1007/BFb0064319
        Rosenstein, Collins & De Luca (1993), Physica D 65. doi:10.1016/0167-2789(93)90009-P
    """

    def __init__(
        self,
        *,
        n_exponents: int | None = None,
        n_steps: int = 5000,
        burn_in: int = 1000,
        qr_every: int = 1,
        dt: Number = 1.0,
    ) -> None:
        if n_exponents is not None and n_exponents < 1:
            raise ValueError(f"n_exponents must be at least 1 or None, got {n_exponents}")
        if n_steps < 1 or burn_in < 0 or qr_every < 1:
            raise ValueError(
                "n_steps and qr_every must be at least 1 and burn_in at least 0, got "
                f"n_steps={n_steps}, qr_every={qr_every}, burn_in={burn_in}"
            )
        if n_steps % qr_every or n_steps // qr_every < _BLOCKS:
            raise ValueError(
                f"n_steps must be a multiple of qr_every with at least {_BLOCKS} factorisations, "
                f"got n_steps={n_steps} and qr_every={qr_every}"
            )
        if not dt > 0:
            raise ValueError(f"dt must be above 0, got {dt}")
        self.n_exponents = n_exponents
        self.n_steps = n_steps
        self.burn_in = burn_in
        self.qr_every = qr_every
        self.dt = float(dt)

    def compute(self, step: StepLike, x0: Array, inputs: Array | None = None) -> LyapunovResult:
        """Exponents of the orbits that leave the given states.

        Args:
            step: Callable `(h, u) -> h_next`, a recurrent layer or cell, or a module with
                `step(h, u)`.
            x0: First states, (..., state).
            inputs: Constant input of every orbit, (..., input) or (input,).

        Returns:
            The exponents, one row per orbit; in float64, in which the orbit is computed.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When shapes contradict one another, more exponents are asked for than
                there are states, or an orbit leaves the finite numbers.
        """
        states = as_real("x0", x0, axes=("state",), at_least=(1,)).detach()
        lead, n_states = states.shape[:-1], states.shape[-1]
        k = self._count(n_states, as_step(step).n_states)
        x = states.double().reshape(-1, n_states)
        u = _constant(inputs, lead)
        logs = self._rates(functional_step(step), x, u, k)
        return self._result(logs.reshape(len(logs), k, *lead).movedim(1, -1).movedim(0, -2))

    @staticmethod
    def from_series(
        x: Array,
        *,
        emb_dim: int = 3,
        lag: int = 1,
        theiler: int | None = None,
        fit_range: tuple[int, int] = (0, 5),
        dt: Number = 1.0,
    ) -> SeriesLyapunov:
        """Largest exponent of a recorded series, from how its nearest neighbours part.

        Args:
            x: Series, (..., time).
            emb_dim: Number of delayed values that make a state.
            lag: Samples between them.
            theiler: Neighbours at most so many samples apart are not neighbours; None takes the
                length of the embedding, `(emb_dim - 1) * lag`.
            fit_range: First and last step of the divergence curve that the line is fitted to.
            dt: Time between samples.

        Returns:
            The exponent with the divergence curve and the R2 of the line.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When the series is too short for the embedding, or a range is empty.

        Examples:
            >>> import torch
            >>> series = [0.3]
            >>> for _ in range(999):
            ...     series.append(4 * series[-1] * (1 - series[-1]))
            >>> found = LyapunovSpectrum.from_series(torch.tensor(series).double(), emb_dim=2)
            >>> 0.6 < float(found.exponent) < 0.8
            True
        """
        series = as_real("x", x, axes=("time",), at_least=(2,)).detach()
        window = (emb_dim - 1) * lag if theiler is None else theiler
        return rosenstein(
            series,
            emb_dim=emb_dim,
            lag=lag,
            theiler=window,
            fit_range=fit_range,
            dt=float(dt),
        )

    def _count(self, n_states: int, of_step: int | None) -> int:
        if of_step is not None and of_step != n_states:
            raise ValueError(f"x0 must end in the {of_step} states of the step, got {n_states}")
        k = n_states if self.n_exponents is None else self.n_exponents
        if k > n_states:
            raise ValueError(f"n_exponents is {k}, but the step has only {n_states} states")
        return k

    def _rates(self, call: Map, x: Tensor, u: Tensor | None, k: int) -> Tensor:
        """Logarithms of the diagonals of R, (factorisation, k, orbit)."""
        frame = random_frame(k, len(x), x.shape[-1], x)
        logs: list[Tensor] = []
        for t in range(1 - self.burn_in, self.n_steps + 1):
            x, frame = push_forward(call, x, u, frame)
            if t == 0 or t % self.qr_every == 0:
                frame, lengths = orthonormal(frame)
                if t > 0:
                    logs.append(lengths)
        found = torch.stack(logs)
        if not bool(torch.isfinite(x).all()) or bool(found.isnan().any()):
            raise ValueError(
                "an orbit leaves the finite numbers or its tangents vanish; start nearer to the "
                "attractor or ask for fewer exponents"
            )
        return found

    def _result(self, logs: Tensor) -> LyapunovResult:
        """Means over the orbit, from logarithms (..., factorisation, k)."""
        rate = logs / (self.qr_every * self.dt)
        mean = rate.mean(-2)
        order = mean.argsort(dim=-1, descending=True)
        rate = rate.gather(-1, order.unsqueeze(-2).expand_as(rate))
        mean = mean.gather(-1, order)
        ends = torch.linspace(0, rate.shape[-2], _BLOCKS + 1, device=rate.device).long()
        whole = torch.nn.functional.pad(rate.cumsum(-2), (0, 0, 1, 0))[..., ends, :]
        blocks = whole.diff(dim=-2) / ends.diff().unsqueeze(-1)
        running = whole[..., 1:, :] / ends[1:].unsqueeze(-1)
        return LyapunovResult(
            mean,
            blocks.std(-2) / _BLOCKS**0.5,
            mean.sum(-1),
            kaplan_yorke(mean),
            mean.clamp(min=0).sum(-1),
            running,
        )


def _constant(inputs: Array | None, lead: torch.Size) -> Tensor | None:
    if inputs is None:
        return None
    u = as_real("inputs", inputs, axes=("input",), at_least=(1,)).detach().double()
    if u.ndim > 1 and u.shape[:-1] != lead:
        raise ValueError(
            f"inputs must be (input,) or one row per orbit, {tuple(lead)}, got {tuple(u.shape)}"
        )
    return u.expand(*lead, u.shape[-1]).reshape(-1, u.shape[-1])
