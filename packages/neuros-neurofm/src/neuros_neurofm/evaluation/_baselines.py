"""Baselines of the benchmark, whose hyper-parameters only validation blocks choose."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._cebra import CEBRADecoder
from neuros_neurofm.evaluation._poisson_glm import PoissonGLM
from neuros_neurofm.evaluation._tasks import Pairs, Problem
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder, WienerDecoder
from neuros_neurofm.evaluation.metrics import r2_score
from neuros_neurofm.evaluation.neural_decoders import NeuralDecoder

# Seconds of a causal exponential filter in front of the ridge regression; 0: none.
_SMOOTHING_S = (0.0, 0.05, 0.1, 0.2, 0.4)
# Penalties of the Poisson regression, in units of the likelihood per sample.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
# Seconds of input that the Wiener filter reads.
_LAGS_S = (0.1, 0.2, 0.4)
# A Wiener filter with more regressors costs minutes.
_MAX_REGRESSORS = 2000
# A linear rate may fall below zero, where no count is possible: its floor as a share of the mean.
_FLOOR = 0.05


@runtime_checkable
class Decoder(Protocol):
    """Anything that is fitted on segments and predicts one segment."""

    def fit(self, x: list[Array], y: list[Array], /) -> object:
        """Fit on segments (time, channel) and (time, dim)."""

    def predict(self, x: Array, /) -> Array:
        """Predict (time, dim) of one segment."""


class Budget(NamedTuple):
    """What a neural baseline may cost."""

    window: int
    n_parameters: int
    steps: int
    seed: int


def predict_with(decoder: Decoder, problem: Problem) -> Array:
    """Fit a decoder of the user on the training blocks and predict the scored test samples."""
    x, y = _split(problem.train)
    decoder.fit(x, y)
    return _on_test(decoder, problem)


def predict_mean(problem: Problem) -> Array:
    """Predict the mean of the training blocks."""
    mean = np.concatenate([y for _, y in problem.train]).mean(axis=0)
    return np.broadcast_to(np.maximum(mean, 1e-9) if problem.counts else mean, problem.truth.shape)


def predict_ridge(problem: Problem, rate: float) -> Array:
    """Ridge regression on the present input behind the causal filter that validation chooses."""
    decoders = [
        _Smoothed(tau_s * rate, RidgeDecoder(gap=round(3 * tau_s * rate))) for tau_s in _SMOOTHING_S
    ]
    return _on_test(_best(decoders, problem), problem)


def predict_glm(problem: Problem, rate: float) -> Array:
    """Poisson regression on smoothed counts; validation chooses the filter and the penalty."""
    decoders = [
        _Smoothed(tau_s * rate, PoissonGLM(alpha)) for tau_s in _SMOOTHING_S for alpha in _PENALTIES
    ]
    return _on_test(_best(decoders, problem), problem)


def predict_wiener(problem: Problem, rate: float) -> Array:
    """Ridge regression on the lags that validation chooses."""
    n_channels = problem.test[0].shape[1]
    lags = sorted({max(round(seconds * rate), 2) for seconds in _LAGS_S})
    allowed = [n for n in lags if n * n_channels <= _MAX_REGRESSORS] or lags[:1]
    return _on_test(_best([WienerDecoder(n) for n in allowed], problem), problem)


def predict_neural(architecture: str, problem: Problem, budget: Budget) -> Array:
    """A GRU or transformer on windows of the model's length and with its number of parameters."""
    decoder = NeuralDecoder(
        architecture,
        window=budget.window,
        n_parameters=budget.n_parameters,
        steps=budget.steps,
        likelihood="poisson" if problem.counts else "gaussian",
        seed=budget.seed,
    )
    (x, y), (held_x, held_y) = _split(problem.train), _split(problem.validation)
    decoder.fit(x, y, x_validation=held_x, y_validation=held_y)
    # A Poisson decoder has positive rates of its own.
    return np.concatenate([decoder.predict(part) for part in problem.test])[problem.kept]


def predict_cebra(problem: Problem, budget: Budget) -> Array:
    """Nearest neighbours in a CEBRA embedding; validation chooses their number.

    Schneider, S., Lee, J. H. and Mathis, M. W. (2023). Learnable latent embeddings for joint
    behavioural and neural analysis. Nature 617. https://doi.org/10.1038/s41586-023-06031-6
    """
    decoder = CEBRADecoder(steps=budget.steps)
    decoder.fit(*_split(problem.train))
    return _on_test(_best_count(decoder, problem), problem)


def _best_count(decoder: CEBRADecoder, problem: Problem) -> CEBRADecoder:
    held_x, held_y = _split(problem.validation)
    truth = np.concatenate(held_y)
    scores = {}
    for count in decoder.counts():
        predicted = [decoder.with_neighbours(count).predict(part) for part in held_x]
        scores[count] = r2_score(truth, np.concatenate(predicted))
    return decoder.with_neighbours(max(scores, key=lambda count: scores[count]))


class _Smoothed:
    """A decoder behind a causal exponential filter of `tau` samples."""

    def __init__(self, tau: float, decoder: Decoder) -> None:
        self.tau = tau
        self.decoder = decoder

    def fit(self, x: list[Array], y: list[Array]) -> "_Smoothed":
        self.decoder.fit([self._smooth(part) for part in x], y)
        return self

    def predict(self, x: Array) -> Array:
        return self.decoder.predict(self._smooth(x))

    def _smooth(self, x: Array) -> Array:
        if self.tau == 0:
            return x
        # scipy.signal costs more than half an import of torch.
        from scipy.signal import lfilter

        keep = float(np.exp(-1.0 / self.tau))
        # The filter starts as if the first sample had lasted for ever.
        smooth, _ = lfilter([1.0 - keep], [1.0, -keep], x, axis=0, zi=keep * x[:1])
        return np.asarray(smooth)


def _best(decoders: Sequence[Decoder], problem: Problem) -> Decoder:
    """Fit every decoder on training blocks and take the best one of the validation blocks."""
    x, y = _split(problem.train)
    held_x, held_y = _split(problem.validation)
    truth = np.concatenate(held_y)
    scores = []
    for decoder in decoders:
        decoder.fit(x, y)
        predicted = np.concatenate([decoder.predict(part) for part in held_x])
        scores.append(r2_score(truth, predicted))
    return decoders[int(np.argmax(scores))]


def _on_test(decoder: Decoder, problem: Problem) -> Array:
    predicted = np.concatenate([decoder.predict(part) for part in problem.test])[problem.kept]
    if problem.counts:
        floor = _FLOOR * np.concatenate([y for _, y in problem.train]).mean(axis=0)
        return np.asarray(np.maximum(predicted, np.maximum(floor, 1e-9)))
    return np.asarray(predicted)


def _split(pairs: Pairs) -> tuple[list[Array], list[Array]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
