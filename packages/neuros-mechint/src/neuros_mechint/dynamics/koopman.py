"""Koopman modes: linear dynamics of observables, from snapshots."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.dynamics._koopman_matrix import (
    forward_backward,
    least_squares,
    residuals,
    total_least_squares,
)
from neuros_mechint.dynamics._koopman_pairs import (
    Coordinates,
    delayed,
    kernel_coordinates,
    linear_coordinates,
)

__all__ = ["KoopmanAnalyzer", "KoopmanResult"]

KoopmanMethod = Literal["dmd", "exact", "hankel", "edmd", "kernel", "fbdmd", "tls", "bopdmd"]
Dictionary = Callable[[Tensor], Tensor]
_MATRIX = {"fbdmd": forward_backward, "tls": total_least_squares}


class KoopmanResult(NamedTuple):
    """Eigenvalues and modes, the largest contribution first.

    Attributes:
        eigenvalues: Of one step, (..., mode).
        continuous_eigenvalues: Their logarithm per unit of time, (..., mode).
        modes: One column per eigenvalue, of unit norm, (..., feature, mode); the features are the
            channels, for `n_delays` above 1 of each delay, the oldest first.
        amplitudes: How much of each mode the first state holds, (..., mode).
        frequencies: Cycles per unit of time, (..., mode).
        growth_rates: Per unit of time, (..., mode).
        residuals: Relative error of each eigenpair on the pairs (residual DMD); near 0 for a
            true one, and NaN for `"bopdmd"`, which fits no pairs, (..., mode).
        rank: Number of modes.
        reconstruction_r2: R2 of the series rebuilt from its first state, (...).

    Examples:
        >>> import torch
        >>> x = torch.tensor([1.0, 0.5, 0.25, 0.125, 0.0625]).unsqueeze(-1)
        >>> round(KoopmanAnalyzer(rank=1).compute(x).eigenvalues.real.item(), 4)
        0.5
    """

    eigenvalues: Tensor
    continuous_eigenvalues: Tensor
    modes: Tensor
    amplitudes: Tensor
    frequencies: Tensor
    growth_rates: Tensor
    residuals: Tensor
    rank: int
    reconstruction_r2: Tensor

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


class KoopmanAnalyzer:
    r"""Dynamic mode decomposition and its kin: $\psi(x_{t+1}) \approx \psi(x_t) K$.

    | method | observables and fit |
    |---|---|
    | `"dmd"` | leading singular directions of the states, least squares |
    | `"exact"` | the same eigenvalues, modes from the states after each step |
    | `"hankel"` | `n_delays` consecutive states together |
    | `"edmd"` | the observables of a dictionary |
    | `"kernel"` | those of a Gaussian kernel of median width |
    | `"fbdmd"` | forward and backward in time: noise does not shrink the eigenvalues |
    | `"tls"` | total least squares, for the same reason |
    | `"bopdmd"` | optimised fit of exponentials to the series, by pydmd, in one bag |

    Args:
        rank: Number of modes; None keeps the singular values above the threshold of Gavish and
            Donoho, in a batch as many as its richest item. `"edmd"` keeps every observable.
        method: Which of them.
        n_delays: Consecutive states in an observable.
        dictionary: For `"edmd"`: takes states (..., channel) to observables (..., observable).
        dt: Time between samples.
        ridge: Ridge of the least squares, relative to the mean square of the observables.

    Examples:
        A rotation by a tenth of a turn per step:

        >>> import math, torch
        >>> angle = 2 * math.pi * torch.arange(50).double() / 10
        >>> x = torch.stack([angle.cos(), angle.sin()], -1)
        >>> found = KoopmanAnalyzer(rank=2).compute(x)
        >>> [round(value, 6) for value in found.frequencies.abs().tolist()]
        [0.1, 0.1]

    References:
        Tu et al. (2014), Journal of Computational Dynamics 1. doi:10.3934/jcd.2014.1.391
        Williams, Kevrekidis & Rowley (2015), Journal of Nonlinear Science 25.
            doi:10.1007/s00332-015-9258-5
        Dawson et al. (2016), Experiments in Fluids 57. doi:10.1007/s00348-016-2127-7
        Hemati et al. (2017), Theoretical and Computational Fluid Dynamics 31.
            doi:10.1007/s00162-017-0432-2
        Colbrook, Ayton & Szoke (2023), Journal of Fluid Mechanics 955. doi:10.1017/jfm.2022.1052
        Gavish & Donoho (2014), IEEE Transactions on Information Theory 60.
            doi:10.1109/TIT.2014.2323359
    """

    def __init__(
        self,
        *,
        rank: int | None = None,
        method: KoopmanMethod = "dmd",
        n_delays: int = 1,
        dictionary: Dictionary | None = None,
        dt: Number = 1.0,
        ridge: Number = 0.0,
    ) -> None:
        one_of("method", method, get_args(KoopmanMethod))
        if rank is not None and rank < 1:
            raise ValueError(f"rank must be at least 1 or None, got {rank}")
        if n_delays < 1 or (method == "hankel" and n_delays < 2):
            raise ValueError(
                f"n_delays must be at least {2 if method == 'hankel' else 1}, got {n_delays}"
            )
        if (dictionary is None) == (method == "edmd"):
            raise ValueError(
                f"method='edmd' needs a dictionary, and no other takes one; got method={method!r}"
            )
        if not dt > 0 or not ridge >= 0:
            raise ValueError(f"dt must be above 0 and ridge at least 0, got {dt} and {ridge}")
        if method == "bopdmd" and (rank is None or ridge):
            raise ValueError("method='bopdmd' needs a rank and takes no ridge")
        if method == "edmd" and rank is not None:
            raise ValueError("method='edmd' keeps every observable; leave rank at None")
        self.rank = rank
        self.method: KoopmanMethod = method
        self.n_delays = n_delays
        self.dictionary = dictionary
        self.dt = float(dt)
        self.ridge = float(ridge)
        self._fitted: tuple[Tensor, Tensor, Callable[[Tensor], Tensor]] | None = None

    def compute(self, x: Array, *, trials: bool = False) -> KoopmanResult:
        """Eigenvalues and modes of series.

        Args:
            x: Series, (..., time, channel), or (..., trial, time, channel) with `trials`.
            trials: Whether the trials are pieces of one system: their pairs are stacked and none
                crosses the border of a trial.

        Returns:
            The result; a batch of systems keeps its leading axes.

        Raises:
            ImportError: When `"bopdmd"` finds no pydmd.
            TypeError: When x is not a real tensor or array.
            ValueError: When the series is too short or the rank too high.
        """
        least = self.n_delays + 1
        axes = ("trial", "time", "channel") if trials else ("time", "channel")
        at_least = (1, least, 1) if trials else (least, 1)
        series = as_real("x", x, axes=axes, at_least=at_least).detach()
        rows = delayed(series if trials else series.unsqueeze(-3), self.n_delays)
        if self.method == "bopdmd":
            return self._bagged(rows)
        before, after = rows[..., :-1, :].flatten(-3, -2), rows[..., 1:, :].flatten(-3, -2)
        at = self._coordinates(before, after)
        fit = _MATRIX.get(self.method, least_squares)
        K = fit(at.before, at.after, self.ridge)
        values, functions = torch.linalg.eig(K)
        errors = residuals(at.before, at.after, values, functions)
        modes = self._modes(before, after, at, values, functions)
        scale = modes.norm(dim=-2)
        lengths = scale.clamp(min=torch.finfo(scale.dtype).tiny).unsqueeze(-2)
        modes, functions = modes / lengths, functions * lengths

        def project(z: Tensor) -> Tensor:
            """Amplitudes of the modes in states (..., row, feature)."""
            if self.method in ("edmd", "kernel"):
                held: Tensor = at.lift(z).to(functions.dtype) @ functions
                return held
            return _share(modes, z)

        return self._result(rows, values, modes, errors, project)

    def predict(self, x0: Array, n: int) -> Tensor:
        """The states after 1 to n steps.

        Args:
            x0: State, (..., channel), or with delays the last states, (..., n_delays, channel).
            n: Number of steps.

        Returns:
            States (..., n, channel).

        Raises:
            TypeError: When x0 is not a real tensor or array.
            ValueError: Before `compute`, or when n or the shape does not fit.
        """
        if self._fitted is None:
            raise ValueError("this KoopmanAnalyzer holds no modes yet; call compute(x) first")
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        values, modes, project = self._fitted
        axes = ("delay", "channel") if self.n_delays > 1 else ("channel",)
        state = as_real("x0", x0, axes=axes, at_least=(1,) * len(axes)).detach()
        state = state.flatten(-2) if self.n_delays > 1 else state
        if state.shape[-1] != modes.shape[-2]:
            raise ValueError(
                f"x0 must hold {modes.shape[-2]} values ({self.n_delays} delays), got "
                f"{state.shape[-1]}"
            )
        b = project(state.unsqueeze(-2).to(modes.real.dtype)).squeeze(-2)
        grown = _powers(values, n + 1)[..., 1:, :] * b.unsqueeze(-2)
        n_channels = modes.shape[-2] // self.n_delays
        return (grown @ modes.mT).real[..., -n_channels:]

    def _coordinates(self, before: Tensor, after: Tensor) -> Coordinates:
        if self.dictionary is not None:
            lifted = [self.dictionary(z) for z in (before, after)]
            if lifted[0].shape[:-1] != before.shape[:-1] or lifted[0].shape[-1] > before.shape[-2]:
                raise ValueError(
                    f"dictionary must take states {tuple(before.shape)} to (..., observable) with "
                    f"at most {before.shape[-2]} observables, got {tuple(lifted[0].shape)}"
                )
            return Coordinates(lifted[0], lifted[1], self.dictionary)
        if self.method == "kernel":
            return kernel_coordinates(before, after, self.rank)
        return linear_coordinates(before, after, self.rank)

    def _modes(
        self, before: Tensor, after: Tensor, at: Coordinates, values: Tensor, functions: Tensor
    ) -> Tensor:
        """States as a combination of the eigenfunctions, (..., feature, mode)."""
        inverse = torch.linalg.inv(functions)
        target = after if self.method == "exact" else before
        weights = least_squares(at.before, target, 0.0).to(functions.dtype)
        modes: Tensor = (inverse @ weights).mT
        return modes / values.unsqueeze(-2) if self.method == "exact" else modes

    def _result(
        self,
        rows: Tensor,
        values: Tensor,
        modes: Tensor,
        errors: Tensor,
        project: Callable[[Tensor], Tensor],
    ) -> KoopmanResult:
        b = project(rows[..., 0, :])
        size = b.abs().mean(-2)
        order = size.argsort(dim=-1, descending=True, stable=True)
        grown = _powers(values, rows.shape[-2]).unsqueeze(-3) * b.unsqueeze(-2)
        # The real part alone costs half of the complex product.
        parts = torch.cat([grown.real, -grown.imag], -1)
        built = parts @ torch.cat([modes.real, modes.imag], -1).mT.unsqueeze(-3)
        whole = (-3, -2, -1)
        left = torch.linalg.vector_norm(rows - built, dim=whole).square()
        centre = rows.mean((-3, -2), keepdim=True)
        total = torch.linalg.vector_norm(rows - centre, dim=whole).square()
        r2 = 1 - left / total.clamp(min=torch.finfo(total.dtype).tiny)
        self._fitted = (values, modes, project)
        picked = values.gather(-1, order)
        rates = picked.log() / self.dt
        return KoopmanResult(
            picked,
            rates,
            modes.gather(-1, order.unsqueeze(-2).expand_as(modes)),
            b[..., 0, :].gather(-1, order),
            rates.imag / (2 * torch.pi),
            rates.real,
            errors.gather(-1, order),
            values.shape[-1],
            r2,
        )

    def _bagged(self, rows: Tensor) -> KoopmanResult:
        try:
            import pydmd
        except ImportError as error:
            raise ImportError(
                "method='bopdmd' needs pydmd; pip install neuros-mechint[dynamics]"
            ) from error
        if rows.ndim != 3 or rows.shape[0] != 1:
            raise ValueError(
                "method='bopdmd' takes one series (time, channel), got leading axes "
                f"{tuple(rows.shape[:-2])}"
            )
        model = pydmd.BOPDMD(svd_rank=self.rank, num_trials=0)
        data = rows[0].double().cpu()
        # pydmd warns of every fit whose relative error stays above 1e-6, which noise decides.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initial trial of Optimized DMD")
            model.fit(data.mT.numpy(), t=torch.arange(len(data)).double().numpy() * self.dt)
        like = torch.complex(rows.new_empty(0), rows.new_empty(0))
        rates, modes = (torch.from_numpy(part).to(like) for part in (model.eigs, model.modes))
        modes = modes / modes.norm(dim=0)

        def project(z: Tensor) -> Tensor:
            return _share(modes, z)

        values = (rates * self.dt).exp()
        nothing = torch.full_like(values.real, torch.nan)
        return self._result(rows, values, modes, nothing, project)


def _share(modes: Tensor, z: Tensor) -> Tensor:
    """Amplitudes of modes (..., feature, mode) in states (..., row, feature)."""
    share: Tensor = z.to(modes.dtype) @ torch.linalg.pinv(modes).mT
    return share


def _powers(values: Tensor, n: int) -> Tensor:
    """Powers 0 to n - 1 of the eigenvalues, (..., n, mode)."""
    grown = values.unsqueeze(-2).expand(*values.shape[:-1], n - 1, -1).cumprod(-2)
    return torch.cat([torch.ones_like(values).unsqueeze(-2), grown], -2)
