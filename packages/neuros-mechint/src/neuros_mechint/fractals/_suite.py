"""A suite of signals of known structure, and estimators measured on it."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._suite_signals import Recipe, all_recipes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Benchmark", "Evaluation", "EvaluationTable", "FractalTimeSeries"]

# The quantity that each estimator of the package tells, and the field of its result.
_TELLS = {
    "DetrendedFluctuationAnalysis": ("alpha", "alpha"),
    "HiguchiFractalDimension": ("dimension", ""),
    "MultifractalSpectrum": ("mf_width", "width"),
    "SpectralSlope": ("beta", ""),
}
_HURST_OF = {"noise": ("hurst",), "path": ("path_hurst",), "auto": ("hurst", "path_hurst")}


@runtime_checkable
class _Estimator(Protocol):
    def compute(self, x: Tensor) -> Any: ...


class Benchmark(NamedTuple):
    """A signal and what is true of it.

    Attributes:
        name: of the signal.
        signal: `(n_samples,)`, float64.
        truth: by quantity, in the limit of an endless signal: `hurst` of a noise and `path_hurst`
            of a path, `alpha` of detrended fluctuation analysis, `beta` of the spectrum towards
            low frequencies, `dimension` of the graph, `mf_width` of the multifractal spectrum for
            moments from -5 to 5, and `correlation_dimension` and `lyapunov` of the attractor.
            What a signal does not have is not there.
    """

    name: str
    signal: Tensor
    truth: dict[str, float]


class Evaluation(NamedTuple):
    """How well one signal's quantity was told.

    Attributes:
        name: of the signal.
        truth: of the quantity.
        estimate: mean over the draws.
        bias: mean error.
        rmse: root of the mean squared error.
        ms: wall time per draw, in milliseconds.
    """

    name: str
    truth: float
    estimate: float
    bias: float
    rmse: float
    ms: float


@dataclass(frozen=True, slots=True)
class EvaluationTable:
    """Evaluations, one row per signal; printed, it is a table.

    Args:
        quantity: what was estimated.
        rows: the evaluations.

    Examples:
        >>> print(EvaluationTable("beta", (Evaluation("pink", 1.0, 1.02, 0.02, 0.05, 1.5),)))
        beta   truth  estimate    bias    rmse       ms
        pink   1.000     1.020  +0.020   0.050     1.50
    """

    quantity: str
    rows: tuple[Evaluation, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Evaluation:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no signal {name!r}; there are {[row.name for row in self.rows]}")

    def __str__(self) -> str:
        wide = max([len(self.quantity), *(len(row.name) for row in self.rows)])
        head = f"{self.quantity:<{wide}}   truth  estimate    bias    rmse       ms"
        lines = (
            f"{row.name:<{wide}} {row.truth:7.3f} {row.estimate:9.3f} {row.bias:+7.3f} "
            f"{row.rmse:7.3f} {row.ms:8.2f}"
            for row in self.rows
        )
        return "\n".join([head, *lines])

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a data frame of pandas, which has to be installed.

        Returns:
            One column per field of `Evaluation`.

        Examples:
            >>> table = EvaluationTable("beta", (Evaluation("pink", 1.0, 1.02, 0.02, 0.05, 1.5),))
            >>> table.to_frame().shape
            (1, 6)
        """
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(Evaluation._fields))


@dataclass(frozen=True, kw_only=True, slots=True)
class FractalTimeSeries:
    """Signals whose exponents, dimensions and spectra are known, the same for the same seed.

    Fractional Gaussian noise and Brownian motion at five exponents each, power-law noise at five,
    Weierstrass functions, cascades, white noise, a sine, a constant, noise with a trend, with gaps
    and with artefacts, and the Lorenz system.

    Args:
        n_samples: samples of a signal, at least 128.
        seed: of all signals, at least 0; each has a generator of its own.

    Raises:
        ValueError: if a setting is out of its range.

    Examples:
        >>> suite = FractalTimeSeries(n_samples=512).suite()
        >>> len(suite), suite[0].name, suite[0].truth["hurst"]
        (27, 'fGn H=0.1', 0.1)

    References:
        Eke, Herman, Kocsis & Kozak (2002). Fractal characterization of complexity in temporal
        physiological signals. Physiological Measurement 23.
        https://doi.org/10.1088/0967-3334/23/1/201
    """

    n_samples: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < 128:
            raise ValueError(f"n_samples must be at least 128, got {self.n_samples}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    def suite(self) -> list[Benchmark]:
        """Draw every signal once.

        Returns:
            The signals with their truths, always in the same order.

        Examples:
            >>> first, again = (FractalTimeSeries(n_samples=256).suite()[7] for _ in range(2))
            >>> torch.equal(first.signal, again.signal)
            True
        """
        return [
            Benchmark(recipe.name, self._draw(recipe, k, 0), dict(recipe.truth))
            for k, recipe in enumerate(all_recipes())
        ]

    def evaluate(
        self,
        estimator: object,
        *,
        quantity: str | None = None,
        n_draws: int = 8,
    ) -> EvaluationTable:
        """Measure an estimator on all signals that have its quantity.

        Args:
            estimator: an estimator of this package, or anything with `compute(x)`, or a function:
                it gets `(n_draws, n_samples)` and returns one number per row.
            quantity: key of the truths to compare with; found from the estimator when None.
            n_draws: draws of each signal; the first is that of `suite`.

        Returns:
            Bias, root-mean-square error and time, one row per signal.

        Raises:
            ValueError: if the quantity is needed or unknown, `n_draws` is below 1, or the
                estimator does not return one number per signal.
            TypeError: if the estimator can neither be called nor has `compute`.

        Examples:
            >>> from neuros_mechint.fractals import SpectralSlope
            >>> table = FractalTimeSeries(n_samples=1024).evaluate(SpectralSlope(), n_draws=4)
            >>> abs(table["1/f^1.0"].bias) < 0.1
            True
        """
        if n_draws < 1:
            raise ValueError(f"n_draws must be at least 1, got {n_draws}")
        estimate = _as_function(estimator)
        keys, field = _read_quantity(estimator, quantity)
        rows = []
        for k, recipe in enumerate(all_recipes()):
            known = [recipe.truth[key] for key in keys if key in recipe.truth]
            if known:
                draws = torch.stack([self._draw(recipe, k, i) for i in range(n_draws)])
                rows.append(_evaluate(recipe.name, known[0], draws, estimate, field))
        return EvaluationTable("/".join(keys), tuple(rows))

    def _draw(self, recipe: Recipe, position: int, draw: int) -> Float[Tensor, " time"]:
        words = np.random.SeedSequence((self.seed, position, draw)).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        return recipe.draw(self.n_samples, generator)


def _as_function(estimator: object) -> Callable[[Tensor], Any]:
    if isinstance(estimator, _Estimator):
        return estimator.compute
    if callable(estimator):
        return estimator
    raise TypeError(
        f"estimator must have compute(x) or be a function, got {type(estimator).__name__}"
    )


def _read_quantity(estimator: object, quantity: str | None) -> tuple[tuple[str, ...], str]:
    """The truths to compare with and the field of the result that holds the estimate."""
    name = type(estimator).__name__
    known, field = _TELLS.get(name, ("", ""))
    if quantity is not None:
        every = sorted({key for recipe in all_recipes() for key in recipe.truth})
        if quantity not in every:
            raise ValueError(f"quantity must be one of {every}, got {quantity!r}")
        return (quantity,), field
    if name == "HurstExponent":
        return _HURST_OF[getattr(estimator, "kind", "noise")], ""
    if not known:
        raise ValueError(f"quantity must be given for {name}, which could estimate anything")
    return (known,), field


def _evaluate(
    name: str,
    truth: float,
    draws: Float[Tensor, "draw time"],
    estimate: Callable[[Tensor], Any],
    field: str,
) -> Evaluation:
    estimate(draws[:1])  # What is made once, such as a table of weights, is not timed.
    start = time.perf_counter()
    result = estimate(draws)
    seconds = time.perf_counter() - start
    values = torch.as_tensor(getattr(result, field) if field else result).detach().double()
    if values.shape != draws.shape[:1]:
        raise ValueError(
            f"estimator must return one number per signal, {len(draws)}, got an array of shape "
            f"{tuple(values.shape)}"
        )
    error = values.cpu() - truth
    return Evaluation(
        name=name,
        truth=truth,
        estimate=float(error.mean()) + truth,
        bias=float(error.mean()),
        rmse=math.sqrt(float(error.square().mean())),
        ms=1e3 * seconds / len(draws),
    )
